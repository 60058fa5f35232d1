"""A progress bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol

SECONDS_BETWEEN_LINES = 30.0


class Progress(Protocol):
    """What a long job tells about how far it is."""

    def advance(self, amount: int = 1, **metrics: float) -> None:
        """Count ``amount`` more steps as done; ``metrics``, such as ``dice=0.7``, are shown behind."""
        ...

    def note(self, text: str) -> None:
        """Print a line of text without disturbing the bar."""
        ...


@contextlib.contextmanager
def progress(description: str, total: int | None) -> Iterator[Progress]:
    """Show how far a job is, on standard error.

    Args:
        description: What is being done.
        total: Number of steps; None if unknown.
    """
    if sys.stderr.isatty():
        with _bar(description, total) as bar:
            yield bar
    else:
        yield _Lines(description, total)


def metrics_text(metrics: dict[str, float]) -> str:
    """Metrics as they stand behind a bar: ``dice 0.701  loss 0.350``."""
    return "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in metrics.items())


class _Lines:
    """A line at most every half minute and one at the end: what a log file can bear."""

    def __init__(self, description: str, total: int | None) -> None:
        self._description, self._total = description, total
        self._done = 0
        self._begun = self._printed = time.monotonic()

    def advance(self, amount: int = 1, **metrics: float) -> None:
        self._done += amount
        now = time.monotonic()
        if self._done == self._total or now - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = now
            of = "" if self._total is None else f"/{self._total}"
            self.note(
                f"{self._description} {self._done}{of}  {now - self._begun:.0f} s  {metrics_text(metrics)}".rstrip()
            )

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bar(description: str, total: int | None) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    display = RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}", markup=False),
        console=Console(stderr=True),
    )
    task = display.add_task(description, total=total, metrics="")

    class Bar:
        def advance(self, amount: int = 1, **metrics: float) -> None:
            if metrics:
                display.update(task, advance=amount, metrics=metrics_text(metrics))
            else:
                display.update(task, advance=amount)

        def note(self, text: str) -> None:
            display.console.print(text, markup=False, highlight=False)

    with display:
        yield Bar()
