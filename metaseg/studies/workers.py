"""Units of a study done one after another in this process, or side by side in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from metaseg.errors import MetasegError, RunError
from metaseg.files import write_json
from metaseg.studies.cells import BusyError
from metaseg.studies.display import Display
from metaseg.studies.work import Work

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
        """As it stands in ``failures.json``."""
        return {
            "unit": self.unit.name,
            "folder": str(self.unit.folder),
            "error": self.error,
            "details": self.details,
        }


@contextmanager
def continued_by_the_same_command(what: str = "what is done stays done") -> Iterator[None]:
    """Tell whoever interrupts a study how to go on.

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
