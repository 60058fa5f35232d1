"""The work of a study: its units, which are left, and processes that do them while a display shows how far they are.

Comparisons of adaptation methods and of classifiers, and searches of hyper-parameters, share processes, restarts and
display through this.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import torch

from metaseg.errors import MetasegError, RunError
from metaseg.files import write_json
from metaseg.studies.cells import BusyError
from metaseg.terminal import bars, duration, is_quiet, print_line

CELLS, SEARCHES, PRETRAIN = "cells", "searches", "pretrain"
ORACLE = "oracle"
"""Name of the order that needs to know the target, and of the run of each target that does."""


@dataclass(frozen=True)
class Unit:
    """One piece of work, done by one process: a cell, a pretraining, an entry's search, or a target's oracle run.

    Attributes:
        kind: Which of them.
        target: Target domain; empty where a study has none.
        label: The entry that it belongs to; units of one label take about as long.
        shots: Labelled patients of a cell, or ``all``; None where a study does not vary them.
        seed: Seed of a cell.
        fold: Fold that a cell tests; None where a study has no folds.
    """

    kind: Literal["oracle", "search", "cell", "pretrain"]
    target: str
    label: str = ORACLE
    shots: int | Literal["all"] | None = None
    seed: int = 0
    fold: int | None = None

    @property
    def name(self) -> str:
        """As in messages: ``met/naive/shots-5/seed-0``."""
        parts = [self.target, self.label]
        if self.kind == "search":
            parts.append("search")
        elif self.kind == "pretrain":
            parts.insert(0, PRETRAIN)
        elif self.kind == "cell":
            parts += ["" if self.shots is None else f"shots-{self.shots}", f"seed-{self.seed}"]
            parts += [] if self.fold is None else [f"fold-{self.fold}"]
        return "/".join(filter(None, parts))

    @property
    def folder(self) -> Path:
        """Its folder within the study."""
        if self.kind == "search":
            return Path(SEARCHES, self.target, self.label)
        if self.kind == "pretrain":
            return Path(self.name)
        return Path(CELLS, self.name)


class Work(ABC):
    """All units of a study; picklable, since every process has its own.

    A unit is hashable and picklable, and has a ``name`` for messages, a ``label`` and a ``folder`` within the study.

    Attributes:
        study: Its settings.
        folder: Its folder.
    """

    study: Any
    folder: Path

    @property
    def jobs(self) -> int:
        """Processes that work side by side."""
        return int(self.study.jobs)

    @property
    def threads(self) -> int:
        """Threads of each process; 0 divides the cores."""
        return int(self.study.threads)

    @property
    @abstractmethod
    def units(self) -> Sequence[Any]:
        """All work, each unit behind what it needs."""

    @abstractmethod
    def is_done(self, unit: Any) -> bool:
        """Whether a unit is finished with the settings that it should have."""

    @abstractmethod
    def do(self, unit: Any) -> None:
        """Do what is missing of a unit.

        Raises:
            BusyError: Another process is at it.
            MetasegError: It cannot be done.
        """

    def needs(self, unit: Any) -> Sequence[Any]:
        """The units that must be done before this one."""
        return ()

    def made_from(self, unit: Any) -> Sequence[Any]:
        """Those of them that a unit is made anew with; others only spare it work."""
        return self.needs(unit)

    def amount(self, unit: Any) -> float:
        """How much work a unit is, in any measure that all units share."""
        return 1.0

    def spent(self, unit: Any) -> float:
        """How much of it is done, by the unit's own files; 0 where nothing of a unit is counted before its end."""
        return 0.0

    @abstractmethod
    def pace(self, unit: Any) -> float | None:
        """Seconds for each piece of that amount, of a unit that is done; None if it does not tell."""

    def left_to_do(self) -> list[Any]:
        """The units that are not done, and those that are made from them."""
        todo: list[Any] = []
        for unit in self.units:
            if any(need in todo for need in self.made_from(unit)) or not self.is_done(unit):
                todo.append(unit)
        return todo


SECONDS_BETWEEN_REFRESHES = 1.0


class Display:
    """The progress of a study, on standard error; a context manager.

    On a terminal there is a line for the whole and one for each unit at work, elsewhere a line for each unit that
    ended. It reads how far a unit is from the unit's own files, so it does not matter which process works on it.

    Args:
        work: All work.
        todo: The units that are not done yet.
    """

    def __init__(self, work: Work, todo: Sequence[Any]) -> None:
        self._work = work
        self._left = list(todo)
        self._total = len(work.units)
        self._done = self._total - len(todo)
        self._began: dict[Any, float] = {}
        self._pace = Pace(work)
        self._live: Any = None
        self._tasks: dict[Any, Any] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._lock = threading.RLock()

    def __enter__(self) -> Display:
        if sys.stderr.isatty() and not is_quiet():
            self._open_terminal()
        else:
            self.note(f"{self._done} of {self._total} units done before")
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._stop.set()
            self._thread.join()
            self._live.stop()

    def begin(self, unit: Any) -> None:
        """A unit is being worked on."""
        with self._lock:
            self._began[unit] = time.monotonic()
            if self._live is not None:
                self._tasks[unit] = self._live.add_task(unit.name, total=self._work.amount(unit))

    def end(self, unit: Any, word: str = "done") -> None:
        """A unit has ended: ``done``, ``found`` done by another process, ``left`` to one, or ``failed``.

        Args:
            unit: The unit.
            word: How it ended.
        """
        with self._lock:
            seconds = time.monotonic() - self._began.pop(unit, time.monotonic())
            if unit in self._tasks:
                self._live.remove_task(self._tasks.pop(unit))
            if word != "left":
                self._done += 1
                self._left = [other for other in self._left if other != unit]
            if word == "done":
                self._pace.add(unit, seconds)
            how = "done by another process" if word == "found" else f"{word} in {duration(seconds)}"
            if word == "failed" or (self._live is None and word != "left"):
                self.note(f"{self._done}/{self._total}  {unit.name}: {how}  {self._left_text()}".rstrip())
            self._refresh()

    def note(self, text: str) -> None:
        """Print a line."""
        with self._lock:
            if self._live is not None:
                print_line(text, self._live.console)
            elif not is_quiet():
                print(text, file=sys.stderr, flush=True)

    def _left_text(self) -> str:
        seconds = self._pace.seconds(self._left)
        if seconds is None or not self._left:
            return ""
        return f"about {duration(seconds / max(1, min(self._work.jobs, len(self._left))))} left"

    def _open_terminal(self) -> None:
        from rich.progress import TimeElapsedColumn

        # Units print nothing: what they write to standard output is caught by their own redirection.
        self._live = bars(TimeElapsedColumn(), redirect=False)
        self._whole = self._live.add_task("cells and searches", total=self._total, completed=self._done)
        self._live.start()
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(SECONDS_BETWEEN_REFRESHES):
            self._refresh()

    def _refresh(self) -> None:
        if self._live is None:
            return
        with self._lock:
            self._live.update(self._whole, completed=self._done, below=[self._left_text()])
            for unit, task in self._tasks.items():
                self._live.update(task, completed=self._work.spent(unit))


class Pace:
    """How long work takes: seconds for each piece of it by label, from what is done.

    Args:
        work: All work; what of it is done is what is known at first.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._paces: dict[str, list[float]] = {}
        for unit in work.units:
            if pace := work.pace(unit):
                self._paces.setdefault(unit.label, []).append(pace)

    def add(self, unit: Any, seconds: float) -> None:
        """A unit took so long."""
        self._paces.setdefault(unit.label, []).append(seconds / self._work.amount(unit))

    def seconds(self, units: Sequence[Any]) -> float | None:
        """Seconds that units will take one after another, by the medians; None if nothing is done yet."""
        if not self._paces:
            return None
        anyone = statistics.median([pace for paces in self._paces.values() for pace in paces])
        known = {label: statistics.median(paces) for label, paces in self._paces.items()}
        return sum(known.get(unit.label, anyone) * self._work.amount(unit) for unit in units)


SECONDS_BETWEEN_LOOKS = 5.0
PATIENCE = 20.0
"""Seconds that a worker has to save its state when the study is interrupted."""
FAILURES = "failures.json"


@dataclass(frozen=True)
class Failure:
    """A unit that could not be done.

    Attributes:
        unit: The unit.
        error: What went wrong.
        details: The traceback; empty for errors that a user can mend.
    """

    unit: Any
    error: str
    details: str = ""

    def as_json(self) -> dict[str, str]:
        """As ``failures.json`` holds it."""
        return {"unit": self.unit.name, "folder": str(self.unit.folder), "error": self.error, "details": self.details}


@contextmanager
def continued_by_the_same_command(what: str = "what is done stays done") -> Iterator[None]:
    """Tell whoever interrupts a study how to continue.

    The notes of the runs inside tell how to continue each of them; the study does that by itself.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        error.__notes__ = [f"To continue: give the same command again; {what}."]
        raise


def do_what_is_left(work: Work, todo: Sequence[Any]) -> list[Failure]:
    """Do units of a study, and write what went wrong into ``failures.json``; no such file where nothing did.

    Returns:
        Those that failed.
    """
    with Display(work, todo) as display:
        failures = do_units(work, todo, display)
    path = work.folder / FAILURES
    if failures:
        write_json(path, [failure.as_json() for failure in failures])
    else:
        path.unlink(missing_ok=True)
    return failures


def raise_failures(work: Work, failures: Sequence[Failure]) -> None:
    """End with an error where units failed.

    Raises:
        RunError: Some did.
    """
    if not failures:
        return
    lines = [f"{len(failures)} of {len(work.units)} units failed, all others are done:"]
    lines += [f"  - {failure.unit.name}: {failure.error.splitlines()[0]}" for failure in failures[:20]]
    lines += [f"  - and {len(failures) - 20} more"] if len(failures) > 20 else []
    raise RunError(
        "\n".join(lines),
        where=work.folder / FAILURES,
        remedy="look there for each error whole; the same command again tries only these",
    )


class Schedule:
    """Which unit comes next: the first in the plan's order whose needs are done.

    Args:
        work: All units.
        todo: Units to do.
    """

    def __init__(self, work: Work, todo: Sequence[Any]) -> None:
        self._work = work
        self._waiting = list(todo)
        self._open = set(todo)
        self._busy: list[Any] = []
        self.failures: list[Failure] = []

    def next(self) -> Any | None:
        """A unit to begin, or None if there is none at the moment."""
        failed = {failure.unit for failure in self.failures}
        for unit in list(self._waiting):
            needs = self._work.needs(unit)
            broken = [need for need in needs if need in failed]
            if broken:
                self._waiting.remove(unit)
                self._fail(unit, f"needs {broken[0].name}, which failed")
                failed.add(unit)
            elif not any(need in self._open for need in needs):
                self._waiting.remove(unit)
                return unit
        return None

    def settle(self, unit: Any, outcome: Outcome, display: Display) -> None:
        """A unit has ended; one that another process is at comes last."""
        word, error, details = outcome
        display.end(unit, word)
        if word == "left":
            self._busy.append(unit)
        elif word == "failed":
            self._fail(unit, error, details)
            display.note(f"{unit.name}: {error}")
        else:
            self._open.discard(unit)

    def _fail(self, unit: Any, error: str, details: str = "") -> None:
        self._open.discard(unit)
        self.failures.append(Failure(unit, error, details))

    def wait_for_others(self) -> None:
        """Take up the units again that were left to other processes, if there are any, after a while."""
        if self._busy:
            self._waiting += self._busy
            self._busy = []
            time.sleep(SECONDS_BETWEEN_LOOKS)

    @property
    def any_left(self) -> bool:
        """Whether units wait for their turn, or for other processes."""
        return bool(self._waiting or self._busy)


def do_units(work: Work, todo: Sequence[Any], display: Display) -> list[Failure]:
    """Do units, in as many processes as the work asks for.

    Returns:
        Those that failed.
    """
    schedule = Schedule(work, todo)
    threads = work.threads or max(1, torch.get_num_threads() // work.jobs)
    if work.jobs == 1:
        _one_by_one(work, schedule, display, threads)
    else:
        _side_by_side(work, schedule, display, threads)
    return schedule.failures


def _one_by_one(work: Work, schedule: Schedule, display: Display, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        while schedule.any_left:
            unit = schedule.next()
            if unit is None:
                schedule.wait_for_others()
                continue
            display.begin(unit)
            schedule.settle(unit, _attempt(work, unit), display)
    finally:
        torch.set_num_threads(before)


Outcome = tuple[str, str, str]
"""``done``, ``found`` done by another process, ``left`` to one, or ``failed``; the error; its traceback."""


def _attempt(work: Work, unit: Any) -> Outcome:
    try:
        if work.is_done(unit):
            return "found", "", ""
        work.do(unit)
    except BusyError:
        return "left", "", ""
    except MetasegError as error:
        return "failed", str(error), ""
    except Exception as error:
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        return "failed", line, traceback.format_exc()
    return "done", "", ""


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    unit: Any | None = None

    @classmethod
    def start(cls, work: Work, threads: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, work, threads), daemon=True)
        process.start()
        theirs.close()
        return cls(process, mine)

    def join(self, until: float) -> None:
        self.process.join(max(0.0, until - time.monotonic()))
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()

    def answer(self) -> Outcome:
        """How its unit ended, once it has answered or died."""
        try:
            if self.pipe.poll():
                answer: Outcome = self.pipe.recv()
                return answer
        except (EOFError, OSError):
            pass
        self.process.join(PATIENCE)
        code = self.process.exitcode
        reason = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return "failed", f"the process that worked on it died ({reason}), perhaps for want of memory", ""


def _side_by_side(work: Work, schedule: Schedule, display: Display, threads: int) -> None:
    workers: list[_Worker] = []
    try:
        while schedule.any_left or any(worker.unit for worker in workers):
            workers = [worker for worker in workers if worker.process.is_alive() or worker.unit]
            _hand_out(schedule, display, workers, work.jobs, lambda: _Worker.start(work, threads))
            if any(worker.unit for worker in workers):
                _take_in(schedule, display, workers)
            else:
                schedule.wait_for_others()
    finally:
        for worker in workers:
            if worker.process.is_alive():
                # It ends at once if idle, else after it has saved that it was stopped.
                worker.process.terminate()
        until = time.monotonic() + PATIENCE
        for worker in workers:
            worker.join(until)


def _hand_out(
    schedule: Schedule, display: Display, workers: list[_Worker], jobs: int, start: Callable[[], _Worker]
) -> None:
    """Give every worker without work the next unit; start workers as long as there are units for them."""
    while (idle := next((worker for worker in workers if worker.unit is None), None)) or len(workers) < jobs:
        unit = schedule.next()
        if unit is None:
            return
        if idle is None:
            idle = start()
            workers.append(idle)
        idle.unit = unit
        display.begin(unit)
        try:
            idle.pipe.send(unit)
        except OSError:
            # It has died: that shows when its answer is waited for.
            return


def _take_in(schedule: Schedule, display: Display, workers: Sequence[_Worker]) -> None:
    """Wait until a worker answers or dies."""
    ready = set(wait([thing for worker in workers if worker.unit for thing in (worker.pipe, worker.process.sentinel)]))
    for worker in workers:
        if worker.unit is not None and {worker.pipe, worker.process.sentinel} & ready:
            outcome = worker.answer()
            unit, worker.unit = worker.unit, None
            schedule.settle(unit, outcome, display)


def _work(pipe: Connection, work: Work, threads: int) -> None:
    """What a worker process does: units, as they come, until its parent has none or is gone."""
    # Ctrl-C reaches the whole group of processes: only the parent answers it, and then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        while True:
            pipe.send(_attempt(work, pipe.recv()))
    except (EOFError, OSError, KeyboardInterrupt):
        pass


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # The parent was killed: go the same way, so that the study can be begun again at once.
        os._exit(1)
