"""Command lines in processes of their own, forked from a server that has imported metaseg once.

Importing torch and MONAI takes longer than what tests start such a process for, which is to kill it.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["metaseg.training.pretrain", "metaseg.adapt.metatune", "metaseg.classify.active"])


def start(words: Sequence[object], *, said: Path = Path(os.devnull), first: str = "") -> BaseProcess:
    """Run ``metaseg WORDS`` in a process of its own, with the environment and the threads of this one.

    Args:
        words: The command line.
        said: The file that takes what it prints.
        first: Code that it runs before.
    """
    return _start(words, dict(os.environ), said, first, None)


class ForkedCommand:
    """What ``subprocess.Popen`` gives for ``python -m metaseg WORDS``, as far as metaseg's other processes need it."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], stdin: int, start_new_session: bool) -> None:
        assert stdin == subprocess.PIPE
        assert start_new_session
        read, self.stdin = SERVER.Pipe(duplex=False)
        self._process = _start(command[3:], env, Path(os.devnull), "import os; os.setsid()", read)
        read.close()
        self.terminate, self.kill = self._process.terminate, self._process.kill

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("metaseg", timeout or 0.0)
        return self._process.exitcode


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


def _start(
    words: Sequence[object], environment: Mapping[str, str], said: Path, first: str, stdin: Connection | None
) -> BaseProcess:
    given = ([str(word) for word in words], dict(environment), said, first, stdin, torch.get_num_threads())
    process = SERVER.Process(target=_run, args=given)
    process.start()
    return process


def _run(
    words: list[str], environment: Mapping[str, str], said: Path, first: str, stdin: Connection | None, threads: int
) -> None:
    from metaseg.cli.main import run

    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    output = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if stdin is not None:
        os.dup2(stdin.fileno(), 0)
        sys.__stdin__ = None  # type: ignore[misc]  # multiprocessing has closed it
    torch.set_num_threads(threads)
    exec(first, {})
    run(words)
