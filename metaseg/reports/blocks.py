"""What a section of the page is built from; ``page.html`` has a piece of markup for each kind.

Texts are plain: the template escapes them, so that a run called ``<b>`` stays a name. Only a chart's SVG, which
:mod:`metaseg.reports.figures` makes, is put in as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
    """Names and values, such as versions or settings; long values stand below their names."""

    title: str
    entries: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Details(Block):
    """Blocks that are folded away until asked for."""

    title: str
    blocks: Sequence[Block]
    open: bool = False


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
