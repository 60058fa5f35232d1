"""What a section of the page is built from; ``page.html`` has a piece of markup for each kind.

Texts are plain: the template escapes them, so that a run called ``<b>`` stays a name. Only a chart's SVG, which
:mod:`metaseg.report.chart_style` makes, is put in as it is.

How numbers are written in a report: metrics, intervals, p values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from metaseg.report.panels import Panel

LEVEL = 0.05


def number(value: float, digits: int = 3, sign: bool = False) -> str:
    """A number with a real minus sign; a dash for NaN."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    # No "-0.000".
    text = text.lstrip("+-") if float(text) == 0 else text
    return text.replace("-", "−")


def interval(row: pd.Series, metric: str, digits: int = 3) -> str:
    """The 95 % interval of a metric; empty where it has none."""
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return "" if math.isnan(low) else f"{number(low, digits)} to {number(high, digits)}"


def with_interval(row: pd.Series, metric: str) -> str:
    """``0.512 (95 % CI 0.478 to 0.541)``."""
    between = interval(row, metric)
    return number(row[metric]) + (f" (95 % CI {between})" if between else "")


def p_value(value: float) -> str:
    """``0.012``, ``< 0.001`` or a dash."""
    if math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Note:
    """A paragraph; ``tone`` is empty, ``quiet`` or ``warning``."""

    kind: ClassVar[str] = "note"
    text: str
    tone: str = ""


@dataclass(frozen=True)
class Chart:
    """An SVG and what it shows."""

    kind: ClassVar[str] = "chart"
    svg: str
    caption: str


@dataclass(frozen=True)
class Charts:
    """Charts side by side, below each other where the page is narrow; ``large`` where they hold many names."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]
    large: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its heading.
        hint: What it means, shown on hovering and listed below the table.
        number: Whether it is set flush right.
    """

    title: str
    hint: str = ""
    number: bool = True


@dataclass(frozen=True)
class Cell:
    """A cell: its text, and a second line in small print."""

    text: str
    small: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Row:
    """A row; ``role`` colours the mark beside its name as in the charts."""

    cells: Sequence[Cell]
    role: str = ""


@dataclass(frozen=True)
class Table:
    """A table that scrolls inside its box; the first cell of a row is its heading."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Pictures:
    """Panels in a row that wraps, under a heading; ``small`` for thumbnails, ``wide`` for those that hold text."""

    kind: ClassVar[str] = "pictures"
    title: str
    panels: Sequence[Panel]
    small: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Key:
    """Coloured squares with their names; colours as ``#rrggbb``."""

    kind: ClassVar[str] = "key"
    entries: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Facts:
    """Names and values, such as versions or settings."""

    kind: ClassVar[str] = "facts"
    title: str
    entries: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away until asked for."""

    kind: ClassVar[str] = "details"
    title: str
    blocks: Sequence[Block]
    open: bool = False


Block = Heading | Note | Chart | Charts | Table | Pictures | Key | Facts | Details


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        id: Its anchor.
        title: Its heading, also in the table of contents.
        blocks: What it holds, in order.
    """

    id: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: Its heading.
        lead: What it is about, one sentence.
        findings: What the metrics say.
        notes: What a reader must know before.
        sections: Its sections; those without blocks are left out by whoever makes the page.
        synthetic: Whether phantoms are among the data: a banner then says so.
    """

    title: str
    lead: str
    findings: Sequence[str]
    notes: Sequence[str]
    sections: Sequence[Section]
    synthetic: bool
