"""Units of a comparison done one after another in this process, or side by side in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from metaseg.errors import MetasegError
from metaseg.studies.cells import BusyError
from metaseg.studies.display import Display
from metaseg.studies.plan import Plan
from metaseg.studies.plan_work import as_work
from metaseg.studies.work import Work

SECONDS_BETWEEN_LOOKS = 5.0
PATIENCE = 20.0
"""Seconds that a worker has to save its state when the study is interrupted."""


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
                self.fail(unit, f"needs {broken[0].name}, which failed")
                failed.add(unit)
            elif not any(need in self._open for need in needs):
                self._waiting.remove(unit)
                return unit
        return None

    def done(self, unit: Any) -> None:
        """A unit is finished."""
        self._open.discard(unit)

    def fail(self, unit: Any, error: str, details: str = "") -> None:
        """A unit could not be done."""
        self._open.discard(unit)
        self.failures.append(Failure(unit, error, details))

    def leave(self, unit: Any) -> None:
        """Another process is at the unit: it comes last."""
        self._busy.append(unit)

    def come_back(self) -> bool:
        """Take up the units again that were left to other processes; whether there are any."""
        self._waiting += self._busy
        found, self._busy = bool(self._busy), []
        return found

    @property
    def any_left(self) -> bool:
        """Whether units wait for their turn, or for other processes."""
        return bool(self._waiting or self._busy)


def do_units(plan: Plan | Work, todo: Sequence[Any], display: Display) -> list[Failure]:
    """Do units, in as many processes as the work asks for.

    Returns:
        Those that failed.
    """
    work = as_work(plan)
    schedule = Schedule(work, todo)
    if work.jobs == 1:
        _one_by_one(work, schedule, display)
    else:
        _side_by_side(work, schedule, display)
    return schedule.failures


def share_of_threads(work: Work) -> int:
    """Threads of each process."""
    return work.threads or max(1, torch.get_num_threads() // work.jobs)


def _one_by_one(work: Work, schedule: Schedule, display: Display) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(share_of_threads(work))
    try:
        while schedule.any_left:
            unit = schedule.next()
            if unit is None:
                _wait_for_others(schedule, display)
                continue
            display.begin(unit)
            _settle(schedule, display, unit, _attempt(work, unit))
    finally:
        torch.set_num_threads(before)


def _wait_for_others(schedule: Schedule, display: Display) -> None:
    if schedule.come_back():
        time.sleep(SECONDS_BETWEEN_LOOKS)


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


def _settle(schedule: Schedule, display: Display, unit: Any, outcome: Outcome) -> None:
    word, error, details = outcome
    display.end(unit, word)
    if word in ("done", "found"):
        schedule.done(unit)
    elif word == "left":
        schedule.leave(unit)
    else:
        schedule.fail(unit, error, details)
        display.note(f"{unit.name}: {error}")


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    unit: Any | None = None

    def stop(self) -> None:
        """End it: at once if idle, else after it has saved that it was stopped."""
        if self.process.is_alive():
            self.process.terminate()

    def join(self, until: float) -> None:
        self.process.join(max(0.0, until - time.monotonic()))
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def _side_by_side(work: Work, schedule: Schedule, display: Display) -> None:
    start = _starter(work)
    workers: list[_Worker] = []
    try:
        while schedule.any_left or any(worker.unit for worker in workers):
            workers = [worker for worker in workers if worker.process.is_alive() or worker.unit]
            _hand_out(schedule, display, workers, work.jobs, start)
            if any(worker.unit for worker in workers):
                _take_in(schedule, display, workers)
            else:
                _wait_for_others(schedule, display)
    finally:
        for worker in workers:
            worker.stop()
        until = time.monotonic() + PATIENCE
        for worker in workers:
            worker.join(until)


def _starter(work: Work) -> Callable[[], _Worker]:
    context, threads = multiprocessing.get_context("spawn"), share_of_threads(work)

    def start() -> _Worker:
        mine, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, work, threads), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, mine)

    return start


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
    ready = wait([thing for worker in workers if worker.unit for thing in (worker.pipe, worker.process.sentinel)])
    for worker in workers:
        if worker.unit is None or not {worker.pipe, worker.process.sentinel} & set(ready):
            continue
        outcome = _answer(worker)
        unit, worker.unit = worker.unit, None
        _settle(schedule, display, unit, outcome)


def _answer(worker: _Worker) -> Outcome:
    try:
        if worker.pipe.poll():
            answer: Outcome = worker.pipe.recv()
            return answer
    except (EOFError, OSError):
        pass
    worker.process.join(PATIENCE)
    code = worker.process.exitcode
    reason = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    return "failed", f"the process that worked on it died ({reason}), perhaps for want of memory", ""


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


def left_to_do(plan: Plan | Work) -> list[Any]:
    """The units of a plan that are not done, and those that need them anew."""
    work, todo = as_work(plan), list[Any]()
    for unit in work.units:
        if any(need in todo for need in work.needs(unit)) or not work.is_done(unit):
            todo.append(unit)
    return todo
