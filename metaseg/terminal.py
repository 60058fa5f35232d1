"""What is printed on a terminal: progress bars, tables, and nothing where nothing is asked for."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import ProgressColumn

SECONDS_BETWEEN_LINES = 30.0
WIDTH_ELSEWHERE = 120
"""Columns of a table where the output is no terminal, such as a log file."""
WIDEST_BAR = 40
SECONDS_OF_PACE = 600.0
"""How far back the pace is measured by which the time left is estimated: longer than a validation takes."""

_silent = False


@contextlib.contextmanager
def quiet(*, errors: bool = True) -> Iterator[None]:
    """Show no progress inside, and drop what is printed on standard output.

    Args:
        errors: Whether what goes to standard error, warnings among it, is still shown.
    """
    global _silent
    before, _silent = _silent, True
    try:
        with contextlib.ExitStack() as stack:
            nothing = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nothing))
            if not errors:
                stack.enter_context(contextlib.redirect_stderr(nothing))
            yield
    finally:
        _silent = before


def is_quiet() -> bool:
    """Whether nothing is to be shown."""
    return _silent


class Progress:
    """How far a long job is; this one shows nothing.

    Attributes:
        done: Steps that are done.
        total: All steps; None if their number is not known yet.
    """

    def __init__(self, description: str, total: int | None) -> None:
        self.description, self.done, self.total = description, 0, total

    def advance(self, amount: int = 1, **metrics: float) -> None:
        """Count ``amount`` more steps as done; ``metrics``, such as ``dice=0.7``, are shown below the bar."""
        self.done += amount
        self._show(metrics)

    def set(self, done: int, total: int) -> None:
        """Say how many steps are done, and of how many."""
        self.done, self.total = done, total
        self._show({})

    def note(self, text: str) -> None:
        """Print a line of text without disturbing the bar."""

    def show(self, **metrics: float) -> None:
        """Show metrics below the bar without counting a step."""

    def _show(self, metrics: dict[str, float]) -> None:
        """Bring the display up to date."""


@contextlib.contextmanager
def progress(description: str, total: int | None) -> Iterator[Progress]:
    """Show how far a job is, on standard error: a bar on a terminal, a line now and then elsewhere.

    Args:
        description: What is being done.
        total: Number of steps; None if unknown.
    """
    if _silent:
        yield Progress(description, total)
    elif sys.stderr.isatty():
        with _Bar(description, total) as bar:
            yield bar
    else:
        yield _Lines(description, total)


def metric_texts(metrics: dict[str, float]) -> list[str]:
    """Metrics as they stand below a bar: ``dice 0.701``, ``loss 0.350``."""
    return [f"{name.replace('_', ' ')} {value:.3f}" for name, value in metrics.items()]


class _Lines(Progress):
    """A line at most every half minute and one at the end: what a log file can bear."""

    def __init__(self, description: str, total: int | None) -> None:
        super().__init__(description, total)
        self._begun = self._printed = time.monotonic()

    def _show(self, metrics: dict[str, float]) -> None:
        now = time.monotonic()
        if self.done == self.total or now - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = now
            of = "" if self.total is None else f"/{self.total}"
            told = [f"{self.description} {self.done}{of}", f"{now - self._begun:.0f} s", *metric_texts(metrics)]
            self.note("  ".join(told))

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class _Bar(Progress):
    """A bar with count and time left on one line, and the metrics below."""

    def __init__(self, description: str, total: int | None) -> None:
        from rich.progress import TimeRemainingColumn

        super().__init__(description, total)
        self._display = bars(TimeRemainingColumn())
        self._task = self._display.add_task(description, total=total, below=[])

    def __enter__(self) -> _Bar:
        self._display.start()
        return self

    def __exit__(self, *error: object) -> None:
        # What was never begun leaves no bar behind, and what has ended no question mark.
        self._display.update(self._task, total=self.total or self.done, visible=self.done > 0)
        self._display.stop()

    def _show(self, metrics: dict[str, float]) -> None:
        below: dict[str, Any] = {"below": metric_texts(metrics)} if metrics else {}
        self._display.update(self._task, completed=self.done, total=self.total, **below)

    def note(self, text: str) -> None:
        print_line(text, self._display.console)

    def show(self, **metrics: float) -> None:
        self._show(metrics)


def bars(*columns: ProgressColumn, redirect: bool = True) -> RichProgress:
    """An empty display of bars on standard error. On a narrow terminal the bar itself gives way, and nothing else.

    Args:
        columns: What follows description, bar and count in each line.
        redirect: Print above the bars what the process prints.

    Returns:
        The display, not started. Texts in a task's field ``below`` stand on lines of their own.
    """
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Bars(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            shown = [task for task in self.tasks if task.visible]
            lines = self.make_tasks_table(shown)
            for column in lines.columns:
                column.no_wrap = column.max_width != WIDEST_BAR
            yield lines
            below = [text for task in shown for text in fill(task.fields.get("below", ()), self.console.width)]
            if below:
                yield Text("\n".join(below))

    # This very stream: units of a study redirect standard error while their display is shown.
    console = Console(file=sys.stderr)
    named = min(console.width // 2, max(8, console.width - 36))
    return Bars(
        TextColumn("{task.description}", markup=False, table_column=Column(max_width=named)),
        BarColumn(bar_width=None, table_column=Column(min_width=8, max_width=WIDEST_BAR)),
        MofNCompleteColumn(),
        *columns,
        console=console,
        speed_estimate_period=SECONDS_OF_PACE,
        redirect_stdout=redirect,
        redirect_stderr=redirect,
    )


def fill(texts: Iterable[str], width: int, indent: str = "", gap: str = "  ") -> list[str]:
    """Lines of at most ``width`` columns that are filled with texts; a text is never broken.

    Args:
        texts: One after the other.
        width: Columns; a longer text has a line of its own.
        indent: Before each line.
        gap: Between two texts of a line.
    """
    lines: list[str] = []
    for text in texts:
        longer = f"{lines[-1]}{gap}{text}" if lines else ""
        if lines and len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(indent + text)
    return lines


def duration(seconds: float) -> str:
    """``42 s``, ``12 min`` or ``3.4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_line(text: str, console: Console | None = None) -> None:
    """Print a text as it is: the terminal breaks it, so that a long path can be copied whole.

    Args:
        text: May hold brackets, which are no styles.
        console: Where; standard output if None.
    """
    (console or _console()).print(text, markup=False, highlight=False, soft_wrap=True)


def print_text(text: str) -> None:
    """Print a text on standard output, on a terminal broken between words."""
    terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = shutil.get_terminal_size().columns if terminal else len(text)
    print("\n".join(fill(text.split(), width, gap=" ")))


def _console() -> Console:
    from rich.console import Console

    terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if terminal else WIDTH_ELSEWHERE)


class Table:
    """A table on the terminal, in the style that all of metaseg's tables have.

    Texts are broken over lines where there is no room, numbers never. A table that does not fit even so is printed as
    records: the first cell on a line of its own, the others with their headings below it.

    Args:
        columns: The headings.
        title: Stands above it.
        numbers: Headings of columns that are aligned to the right and never broken.
        whole: Headings of other columns that are never broken, such as names and paths.
        spaced: Leave a line between rows, for cells of several lines.
    """

    def __init__(
        self,
        columns: Sequence[str],
        *,
        title: str = "",
        numbers: Collection[str] = (),
        whole: Collection[str] = (),
        spaced: bool = False,
    ) -> None:
        self.columns, self.title, self.numbers, self.whole = tuple(columns), title, numbers, {*numbers, *whole}
        self.spaced = spaced
        self.rows: list[tuple[str, ...]] = []
        self._sections: set[int] = set()
        self._styles: dict[int, str] = {}

    def add(self, *cells: str, style: str = "") -> None:
        """Add a row.

        Args:
            cells: A text for each column; brackets in it are no styles.
            style: Of the first cell, as rich names styles: ``"bold red"``.
        """
        self._styles[len(self.rows)] = style
        self.rows.append(cells)

    def begin_section(self) -> None:
        """Leave a gap before the next row."""
        self._sections.add(len(self.rows))

    def print(self) -> None:
        """Print it on standard output, as it is now: it may have been redirected since the start."""
        console = _console()
        if self._narrowest() <= console.width:
            console.print(self._table())
            return
        if self.title:
            print_line(self.title, console)
        for row in self.rows:
            # A name that stands for several rows is given with the first of them.
            if row[0]:
                print_line(row[0], console)
            named = [(name, cell.splitlines()) for name, cell in zip(self.columns[1:], row[1:], strict=True) if cell]
            short = [f"{name}: {lines[0]}" for name, lines in named if len(lines) == 1]
            blocks = [f"  {name}:\n    " + "\n    ".join(lines) for name, lines in named if len(lines) > 1]
            for line in [*fill(short, console.width, indent="  ", gap="   "), *blocks]:
                print_line(line, console)

    def _narrowest(self) -> int:
        """The columns below which a cell would be cut, or a text be broken within words."""
        from rich.cells import cell_len

        total = 0
        for place, name in enumerate(self.columns):
            cells = [name, *(row[place] for row in self.rows)]
            parts = (part for cell in cells for part in (cell.splitlines() if name in self.whole else cell.split()))
            total += max(map(cell_len, parts), default=0) + 2
        return total

    def _table(self) -> Any:
        from rich import box, table
        from rich.text import Text

        drawn = table.Table(
            title=self.title or None,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1, 0, 0),
            leading=1 if self.spaced else 0,
        )
        for name in self.columns:
            right = name in self.numbers
            drawn.add_column(
                Text(name), justify="right" if right else "left", no_wrap=name in self.whole, overflow="fold"
            )
        for number, row in enumerate(self.rows):
            if number in self._sections:
                drawn.add_section()
            drawn.add_row(Text(row[0], self._styles[number]), *map(Text, row[1:]))
        return drawn


def print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> None:
    """Print a table of numbers.

    Args:
        title: Stands above it.
        headings: Of the columns.
        rows: Their cells.
        left: Places of columns of text; all others are numbers.
    """
    table = Table(headings, title=title, numbers={name for place, name in enumerate(headings) if place not in left})
    for row in rows:
        table.add(*row)
    table.print()
