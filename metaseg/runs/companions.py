"""The processes that the first process of a machine starts: their start, their watch and their end."""

from __future__ import annotations

import _thread
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from lightning_fabric.plugins.environments.lightning import find_free_network_port

import metaseg
from metaseg.config_fields import command_words, config_verb
from metaseg.config_io import Config, dump_config
from metaseg.errors import UsageError
from metaseg.models.device import Replicas

BOUND = "METASEG_STARTED_BY"
"""Environment variable of a started process: the process that started it, with which it ends."""
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_NOTICE = 10.0
"""How long the main thread has to notice by itself that a process died; then it is interrupted."""
SECONDS_TO_END = 10.0


class Companions:
    """The other processes of this machine.

    Args:
        config: The settings of the verb that they do.
        strategy: How many there are.

    Attributes:
        told: Whether the main thread was interrupted since one has died.
    """

    def __init__(self, config: Config, strategy: Replicas) -> None:
        self.config, self.count, self.nodes = config, strategy.num_processes, strategy.num_nodes
        self.told = False
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ending = threading.Event()
        self._in_main_thread = threading.current_thread() is threading.main_thread()

    def start(self) -> None:
        """Start them, and set the variables by which Fabric knows this process as the first.

        Raises:
            UsageError: There are several machines, and it is not said which one this is or where the first one is.
        """
        missing = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if self.nodes > 1 and missing:
            raise UsageError(
                f"--nodes {self.nodes}, but {' and '.join(missing)} are not set",
                expected="a start by srun or torchrun on every machine, or these variables on each",
                remedy="see docs/how-to-scale-out.md",
            )
        node = int(os.environ.get("NODE_RANK", "0")) if self.nodes > 1 else 0
        if self.nodes == 1:
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port())}
        os.environ |= {"NODE_RANK": str(node), "LOCAL_RANK": "0", "WORLD_SIZE": str(self.count * self.nodes)}
        self.first = node * self.count
        self._folder = tempfile.TemporaryDirectory(prefix="metaseg-")
        settings = Path(self._folder.name) / "settings.yaml"
        dump_config(self.config, settings)
        words = command_words(config_verb(type(self.config))).split()
        command = [sys.executable, "-m", "metaseg", *words, "--config", str(settings)]
        package = str(Path(metaseg.__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        for local in range(1, self.count):
            own = {"LOCAL_RANK": str(local), BOUND: str(os.getpid()), "PYTHONPATH": path, "TMPDIR": self._folder.name}
            # A session of its own: Ctrl-C reaches the first process alone, which then ends the others.
            self._processes.append(
                subprocess.Popen(command, env=os.environ | own, stdin=subprocess.PIPE, start_new_session=True)
            )
        threading.Thread(target=self._watch, daemon=True, name="metaseg-companions").start()

    def dead(self) -> tuple[int, int] | None:
        """Rank and exit code of one that has ended; a negative code is a signal's number.

        With code 0 too: none ends before the work of all is done, after which nobody asks.
        """
        for local, process in enumerate(self._processes, start=1):
            if process.poll() is not None:
                return self.first + local, process.returncode
        return None

    def end(self, *, at_once: bool) -> None:
        """Wait until they have ended, and end those that have not.

        Args:
            at_once: Do not wait: the work has failed or was interrupted.
        """
        self._ending.set()
        until = time.monotonic() + (0.0 if at_once else SECONDS_TO_END)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        alive = [process for process in self._processes if process.poll() is None]
        for process in alive:
            process.terminate()
        until = time.monotonic() + 2.0
        for process in alive:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        for process in self._processes:
            if process.poll() is None:
                # It hangs in a collective, where no handler of a signal is called.
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()
        if self._processes:
            self._folder.cleanup()

    def _watch(self) -> None:
        """Interrupt the main thread if one dies and it does not notice, as in a long validation or on a GPU."""
        while self.dead() is None:
            if self._ending.wait(SECONDS_BETWEEN_LOOKS):
                return
        if self._ending.wait(SECONDS_TO_NOTICE):
            return
        self.told = True
        if self._in_main_thread:
            _thread.interrupt_main()
        if self._ending.wait(SECONDS_TO_NOTICE):
            return
        # The main thread hangs in a collective that never ends: there is nothing to wait for.
        rank, code = self.dead() or (0, 0)
        print(
            f"metaseg: process {rank} died (code {code}); continue from the last mark with --resume",
            file=sys.__stderr__,
            flush=True,
        )
        for process in self._processes:
            process.kill()
        os._exit(1)


def is_companion() -> bool:
    """Whether another process of metaseg started this one to help it."""
    return BOUND in os.environ


def bind_to_parent() -> None:
    """End this process when the one that started it ends, however it ends."""
    parent = os.environ[BOUND]

    def wait() -> None:
        with contextlib.suppress(Exception):
            os.read(sys.__stdin__.fileno() if sys.__stdin__ else 0, 1)
        if os.environ.get("LOCAL_RANK") == "1":
            text = f"the first process ({parent}) has died; continue from the last mark with --resume"
            print(f"metaseg: {text}", file=sys.__stderr__, flush=True)
        # What it has written for itself alone lies in a folder of the one that started it.
        shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
        os._exit(1)

    # Only the starter's end closes the pipe: it waits for this process otherwise, and closes it afterwards.
    threading.Thread(target=wait, daemon=True, name="metaseg-parent").start()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
