"""How far a study is: units done, the time left, and the units at work."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from metaseg.studies.work import Work
from metaseg.terminal import bars, is_quiet, print_line

SECONDS_BETWEEN_LOOKS = 1.0


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
        while not self._stop.wait(SECONDS_BETWEEN_LOOKS):
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


def duration(seconds: float) -> str:
    """``42 s``, ``12 min`` or ``3.4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
