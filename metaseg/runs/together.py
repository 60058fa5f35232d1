"""One verb done by several processes: they are started, joined, watched and ended here.

Processes come about in two ways. Where torchrun or SLURM started all of them, each finds its rank in the environment.
Otherwise the first starts the others of its machine as ``python -m metaseg VERB --config FILE`` with its own settings,
so that a script or notebook that calls metaseg is not run again. All of them then do the same verb. Only the first
(rank 0) speaks and writes: what the others print is dropped, and their run folder is a temporary one.
"""

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
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from torch import distributed

from metaseg.config.fields import command_words, config_verb
from metaseg.config.io import Config, dump_config
from metaseg.errors import MetasegError, TrainingError, UsageError
from metaseg.models.device import Replicas, launched_outside
from metaseg.models.processes import is_first, several
from metaseg.runs.folder import CONFIG_NAME, LOCK_NAME, RunFolder
from metaseg.terminal import quiet

BOUND = "METASEG_STARTED_BY"
"""Environment variable of a started process: the process that started it, with which it ends."""
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_NOTICE = 10.0
"""How long the main thread has to notice by itself that a process died; then it is interrupted."""
SECONDS_TO_END = 10.0
HEARD, LAST_WORDS = "metaseg/heard", "metaseg/last-words/"
SECONDS_TO_LEARN = 5.0
"""How long a process whose connection broke waits to learn who died, and of what."""
KEPT = (".json", ".yaml", ".csv", ".pt", ".safetensors")
"""Files of a run that a process may read again when the run continues."""


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
        package = str(Path(__file__).resolve().parents[2])
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
        for process in self._alive_after(0.0 if at_once else SECONDS_TO_END):
            process.terminate()
        for process in self._alive_after(2.0):
            # It hangs in a collective, where no handler of a signal is called.
            process.kill()
            process.wait()
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        if self._processes:
            self._folder.cleanup()

    def _alive_after(self, seconds: float) -> list[subprocess.Popen[bytes]]:
        """Wait for so long at most; gives those that have not ended by then."""
        until = time.monotonic() + seconds
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        return [process for process in self._processes if process.poll() is None]

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


class ProcessLostError(TrainingError):
    """Another process of the work has died."""


_current: _Team | None = None


class _Team:
    """The processes of one verb, as one of them sees the others.

    Attributes:
        fabric: Of this process.
        companions: The processes that this one started.
    """

    def __init__(self, fabric: Fabric, companions: Companions | None) -> None:
        self.fabric, self.companions = fabric, companions
        self.scratch = contextlib.ExitStack()

    @property
    def store(self) -> Any:
        """The key-value store by which the processes found each other; the first process or the launcher has it."""
        return distributed.distributed_c10d._get_default_store()

    def who_died(self) -> str | None:
        """In words, which other process died and of what; None if none did, as far as is known."""
        count = self.fabric.world_size
        with contextlib.suppress(Exception):
            for rank in range(count):
                if rank != self.fabric.global_rank and self.store.check([LAST_WORDS + str(rank)]):
                    words = self.store.get(LAST_WORDS + str(rank)).decode()
                    return f"process {rank} of {count} failed: {words}"
        found = self.companions.dead() if self.companions else None
        if found is None:
            return None
        rank, code = found
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        return f"process {rank} of {count} {how}"

    def explained(self, error: BaseException, where: Path | None, remedy: str) -> BaseException:
        """The error to raise instead: where it comes of another's death, one that says so."""
        if isinstance(error, MetasegError) or not several(self.fabric):
            return error
        broken = _is_broken_connection(error)
        until = time.monotonic() + (SECONDS_TO_LEARN if broken else 0.0)
        while (found := self.who_died()) is None and time.monotonic() < until:
            time.sleep(0.1)
        if isinstance(error, KeyboardInterrupt) and not (self.companions and self.companions.told):
            return error
        if found is None and not broken:
            return error
        return ProcessLostError(found or "another process of the work has died", where=where, remedy=remedy)

    @contextlib.contextmanager
    def explaining(self, where: Path, remedy: str) -> Iterator[None]:
        """Raise in place of an error of the block the one that :meth:`explained` gives."""
        try:
            yield
        except BaseException as error:
            reason = self.explained(error, where, remedy)
            if isinstance(error, ProcessLostError):
                # It was told of a run inside of this one.
                error.where, error.remedy = where, remedy
            if reason is error:
                raise
            raise reason from error

    def say_last_words(self, error: BaseException) -> None:
        """Leave for the first process why this one ends; where it does not hear them, say them oneself."""
        text = str(error).strip() or type(error).__name__
        heard = False
        with contextlib.suppress(Exception):
            if not isinstance(error, ProcessLostError):
                self.store.set(LAST_WORDS + str(self.fabric.global_rank), text)
            until = time.monotonic() + SECONDS_TO_LEARN
            while not heard and time.monotonic() < until:
                heard = self.store.check([HEARD])
                time.sleep(0.1)
        if not heard and not is_companion():
            print(f"metaseg: process {self.fabric.global_rank}: {text}", file=sys.__stderr__)


@contextlib.contextmanager
def together(fabric: Fabric, config: Config) -> Iterator[None]:
    """Do a block in all processes that the fabric asks for; with one, just do it.

    Args:
        fabric: Of :func:`~metaseg.models.device.make_fabric`.
        config: The verb's settings, with which other processes are started.

    Raises:
        ProcessLostError: Another process died.
        SystemExit: In all processes but the first, where the block raised: the first tells.
    """
    global _current
    if not isinstance(fabric.strategy, Replicas) or distributed.is_initialized():
        yield
        return
    before, threads = dict(os.environ), torch.get_num_threads()
    starts = not launched_outside() and "LOCAL_RANK" not in os.environ
    companions = Companions(config, fabric.strategy) if starts else None
    if is_companion():
        bind_to_parent()
    team = _current = _Team(fabric, companions)
    try:
        with team.scratch:
            if companions is not None:
                companions.start()
            fabric.launch()
            with quiet(errors=False) if not is_first(fabric) else contextlib.nullcontext():
                yield
            fabric.barrier()
    except BaseException as error:
        reason = team.explained(error, None, f"give the same command again: {command_words(config_verb(type(config)))}")
        if fabric.global_rank > 0 and not isinstance(error, SystemExit):
            team.say_last_words(reason)
            raise SystemExit(1) from error
        with contextlib.suppress(Exception):
            team.store.set(HEARD, "1")
        if reason is error:
            raise
        raise reason from error
    finally:
        failed = sys.exc_info()[0] is not None
        if companions is not None:
            companions.end(at_once=failed)
        _current = None
        with contextlib.suppress(Exception):
            distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(before)
        torch.set_num_threads(threads)


@contextlib.contextmanager
def open_run(fabric: Fabric, config: Any) -> Iterator[RunFolder]:
    """The run folder of a verb, inside :func:`together`; the first process's is the one that stays.

    The others write what they write into a temporary folder, which holds what the run had when it continues.

    Args:
        fabric: Of this process.
        config: The verb's settings.

    Raises:
        RunError: As :meth:`~metaseg.runs.folder.RunFolder.create`.
        ProcessLostError: Another process died.
    """
    if not several(fabric) or _current is None:
        with RunFolder.create(config) as run:
            yield run
        return
    if is_first(fabric):
        run = RunFolder.create(config)
        fabric.broadcast(_kept_files(run.path) if config.resume else {})
    else:
        shadow = Path(_current.scratch.enter_context(tempfile.TemporaryDirectory(prefix="metaseg-"))) / "run"
        kept: dict[str, bytes] = fabric.broadcast({})
        for name, content in kept.items():
            (shadow / name).parent.mkdir(parents=True, exist_ok=True)
            (shadow / name).write_bytes(content)
        resume = config.resume and (shadow / CONFIG_NAME).exists()
        run = RunFolder.create(replace(config, out=shadow, overwrite=False, resume=resume))
    remedy = f"continue from the last mark: metaseg {command_words(run.verb)} --out {run.path} --resume"
    with run, _current.explaining(run.path, remedy):
        yield run


def _kept_files(folder: Path) -> dict[str, bytes]:
    """What a process needs of a run that continues, by path within the folder."""
    places = (*folder.iterdir(), *(folder / "checkpoints").glob("*"))
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in places
        if path.is_file() and path.suffix in KEPT and path.name != LOCK_NAME
    }


def _is_broken_connection(error: BaseException) -> bool:
    """Whether an error is what a collective raises when another process has gone."""
    if isinstance(error, distributed.DistError):
        return True
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL", "recvValue failed")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
