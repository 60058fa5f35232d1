"""What a section of the page is built from; ``page.html`` has a piece of markup for each kind.

Texts are plain: the template escapes them, so that a run called ``<b>`` stays a name. Only a chart's SVG, which
:mod:`metaseg.reports.figures` makes, is inserted unescaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd

from metaseg.metrics.statistics import FEWEST_SEEDS

LEVEL = 0.05
"""p values below it are marked."""

Values = Mapping[Hashable, Any]
"""A row of a table by the names of its columns."""


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number with a real minus sign; a dash for NaN."""
    if value is None or pd.isna(value):
        return "–"
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    # No "-0.000".
    text = text.lstrip("+-") if float(text) == 0 else text
    return text.replace("-", "−")


signed = partial(number, sign=True)
whole = partial(number, digits=0)


def whole_percent(value: float) -> str:
    """A fraction as whole percent; a dash for NaN."""
    return "–" if pd.isna(value) else f"{number(100 * value, 0)} %"


def p_value(value: float) -> str:
    """``0.012``, ``< 0.001`` or a dash."""
    if pd.isna(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def interval(row: Values | pd.Series, name: str) -> str:
    """The 95 % interval of a value, from the columns ``NAME_low`` and ``NAME_high``; empty where it has none."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return "" if pd.isna(low) or pd.isna(high) else f"{number(low)} to {number(high)}"


def with_interval(row: Values | pd.Series, name: str) -> str:
    """``0.512 (95 % CI 0.478 to 0.541)``."""
    between = interval(row, name)
    return number(row[name]) + (f" (95 % CI {between})" if between else "")


def deviation(row: Values, name: str) -> str:
    """``SD 0.012``, from the column ``NAME_sd``; empty where it has none."""
    value = row.get(f"{name}_sd")
    return "" if pd.isna(value) else f"SD {number(value)}"


def below(row: Values, name: str) -> str:
    """The text of the column ``NAME_below``."""
    return str(row.get(f"{name}_below", ""))


def verdict(test: Values | pd.Series, difference: str, more: str, less: str) -> str:
    """What a paired test against a reference says, without claiming a difference that it does not carry.

    Args:
        test: With ``p_holm``, the p value corrected after Holm, and ``n_seeds``: what fewer than three seeds show of
            their networks is not said of methods.
        difference: Name of the mean difference in ``test``.
        more: What a positive difference is called, such as ``is higher``.
        less: What a negative one is called.
    """
    p = test["p_holm"]
    if test["n_seeds"] < FEWEST_SEEDS:
        return f"was not tested (fewer than {FEWEST_SEEDS} seeds)"
    if pd.isna(p):
        return "was not tested (too few patients)"
    text = f"(p {p_value(p)}, Holm)" if p < 0.001 else f"(p = {p_value(p)}, Holm)"
    if p >= LEVEL:
        return f"is not shown to differ {text}"
    return f"{more if test[difference] > 0 else less} by {number(abs(test[difference]))} {text}"


def plural(count: int, name: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{count} {name}{'s' if count != 1 else ''}"


def significant(row: Values, name: str) -> bool:
    """Whether a column holds a p value below :data:`LEVEL`."""
    return bool(row[name] < LEVEL)


@dataclass(frozen=True)
class Block:
    """Anything that a section holds."""

    @property
    def kind(self) -> str:
        """Which piece of markup shows it."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Heading(Block):
    """A heading inside a section."""

    text: str


@dataclass(frozen=True)
class Note(Block):
    """A paragraph; ``tone`` is empty, ``quiet`` or ``warning``."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Chart(Block):
    """An SVG and what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Charts(Block):
    """Charts side by side, below each other where the page is narrow; ``large`` where they hold many names."""

    charts: Sequence[Chart]
    large: bool = False


@dataclass(frozen=True)
class Panel:
    """A picture on the page.

    Attributes:
        source: The picture as a ``data:`` address.
        width: Pixels.
        height: Pixels.
        alt: What a screen reader says.
        caption: Lines below it.
        kind: A class for the style sheet, such as the task of a chosen slice.
    """

    source: str
    width: int
    height: int
    alt: str
    caption: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class Pictures(Block):
    """Panels in a row that wraps, under a heading; ``small`` for thumbnails, ``wide`` for those that hold text."""

    title: str
    panels: Sequence[Panel]
    small: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Key(Block):
    """Coloured squares with their names; colours as ``#rrggbb``."""

    entries: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Facts(Block):
    """Names and values, such as versions or settings; long values are set below their names."""

    title: str
    entries: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Details(Block):
    """Blocks that are folded away until asked for."""

    title: str
    blocks: Sequence[Block]
    open: bool = False


@dataclass(frozen=True)
class TableColumn:
    """How a column of a DataFrame is shown.

    Attributes:
        name: Its name in the frame.
        title: Its heading.
        hint: What it means, shown on hovering and listed below the table.
        write: Turns its value into text.
        small: Functions of the row and the column's name that give the lines in small print.
        best: ``max`` or ``min`` of its values is set in bold; none if empty.
        marked: Whether a cell is marked, such as a p value below 0.05; a function of the row and the column's name.
        number: Whether it is set flush right.
    """

    name: str
    title: str
    hint: str = ""
    write: Callable[[Any], str] = number
    small: Sequence[Callable[[Values, str], str]] = ()
    best: str = ""
    marked: Callable[[Values, str], bool] | None = None
    number: bool = True

    def text(self, row: Values) -> str:
        """The text of a cell."""
        return self.write(row.get(self.name, math.nan))

    def lines(self, row: Values) -> str:
        """The small print of a cell; empty where there is none."""
        return "\n".join(filter(None, (line(row, self.name) for line in self.small)))


def text_column(name: str, title: str, small: Sequence[Callable[[Values, str], str]] = ()) -> TableColumn:
    """A column of words, such as the names of the rows."""
    return TableColumn(name, title, write=str, small=small, number=False)


def explained(meanings: Mapping[str, str], *columns: TableColumn) -> list[TableColumn]:
    """Columns with their hints, by the names of the columns."""
    return [replace(column, hint=meanings.get(column.name, "")) for column in columns]


@dataclass(frozen=True)
class Table(Block):
    """A table that scrolls inside its box; the first cell of a row is its heading.

    Attributes:
        caption: What it shows.
        frame: A row for each of its own; a column ``role`` gives the colour of the mark beside the row's name.
        columns: The columns that are shown.
        best: TableColumn to the position of the one row whose value is set in bold.
    """

    caption: str
    frame: pd.DataFrame
    columns: Sequence[TableColumn]
    best: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        best = {
            column.name: _best(self.frame[column.name], column.best)
            for column in self.columns
            if column.best and column.name in self.frame
        }
        object.__setattr__(self, "best", best)

    @property
    def rows(self) -> list[dict[Hashable, Any]]:
        """The rows by the names of their columns."""
        return self.frame.to_dict("records")


def _best(values: pd.Series, which: str) -> int:
    """Position of the best value, the first of equal ones; -1 where there is nothing to compare."""
    known = pd.to_numeric(values).reset_index(drop=True).dropna()
    if known.nunique() < 2:
        return -1
    return int(known.idxmax() if which == "max" else known.idxmin())


def columns_table(columns: Iterable[TableColumn]) -> Table:
    """What columns mean, for readers that cannot hover."""
    hints = {column.title: column.hint for column in columns if column.hint}
    frame = pd.DataFrame(hints.items(), columns=["column", "meaning"])
    return Table("Columns", frame, [text_column("column", "column"), text_column("meaning", "meaning")])


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        id: Its anchor.
        title: Its heading, also in the table of contents.
        blocks: What it holds, in order; a section without any is left out.
    """

    id: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Content:
    """What a report says, apart from where its results come from.

    Attributes:
        lead: What it is about, one sentence.
        findings: What the metrics say.
        sections: Its sections.
    """

    lead: str
    findings: Sequence[str]
    sections: Sequence[Section]
