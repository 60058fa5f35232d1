"""Command lines in processes of their own, forked from a server that has imported metaseg once.

Importing torch and MONAI takes longer than what tests start such a process for, which is to kill it.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["metaseg.training.pretrain", "metaseg.adapt.metatune", "metaseg.classify.active"])


def start(words: Sequence[object]) -> BaseProcess:
    """Run ``metaseg WORDS`` silently in a process of its own, with the environment and the threads of this one."""
    process = SERVER.Process(
        target=_run, args=([str(word) for word in words], dict(os.environ), torch.get_num_threads())
    )
    process.start()
    return process


def kill_after(process: BaseProcess, written: Path, delay: float) -> bool:
    """Kill a process by SIGKILL ``delay`` seconds after it has written a file or folder; whether it still ran."""
    patience = time.monotonic() + 240
    while not written.exists():
        assert process.is_alive(), f"ended before it wrote {written}"
        assert time.monotonic() < patience
        time.sleep(0.01)
    time.sleep(delay)
    ran = process.is_alive()
    process.kill()
    process.join()
    return ran


def _run(words: list[str], environment: Mapping[str, str], threads: int) -> None:
    from metaseg.cli.main import run

    os.environ.clear()
    os.environ.update(environment)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    torch.set_num_threads(threads)
    run(words)
