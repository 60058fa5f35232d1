"""Where the figures of a report go: as SVG that follows light and dark onto the page, and into files for a paper."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from metaseg.files import replacing
from metaseg.pictures.charts import COLOURS, LIGHT, draw_curves, new_figure
from metaseg.reports.blocks import Chart
from metaseg.runs.logs import Curve
from metaseg.runs.manifest import SYNTHETIC

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass
class FigureSink:
    """Takes every figure: as SVG for the page and, where there is a folder, as files.

    Attributes:
        folder: Where files go; None for none.
        synthetic: Whether phantoms are among the data: the files then say so, since they leave the page behind.
        files: Files written so far.
    """

    folder: Path | None
    synthetic: bool = False
    files: list[Path] = field(default_factory=list)
    _count: int = 0

    def chart(self, figure: Figure, caption: str, name: str = "", title: str = "") -> Chart:
        """A figure as a chart of the page; with a ``name``, also as files, under a title of their own."""
        self._count += 1
        chart = Chart(svg_of(figure, f"c{self._count}", caption), caption)
        if name:
            self.save(figure, name, title)
        return chart

    def draw(
        self,
        draw: Callable[[Axes], None],
        size: tuple[float, float],
        heading: str,
        caption: str,
        name: str = "",
        title: str = "",
        **labels: str,
    ) -> Chart:
        """Draw one axis as a chart of the page.

        Args:
            draw: Draws on the axis.
            size: Width and height in inches.
            heading: Above the axis; empty leaves that to ``draw``.
            caption: As for :meth:`chart`.
            name: As for :meth:`chart`.
            title: As for :meth:`chart`.
            **labels: ``xlabel`` and ``ylabel``.
        """
        figure, (axis,) = new_figure(*size)
        axis.set(**labels)
        draw(axis)
        if heading:
            axis.set_title(heading)
        return self.chart(figure, caption, name, title)

    def training(self, run: str, heading: str, curves: Mapping[str, Curve], ylabel: str, name: str) -> Chart:
        """Curves of one training over its steps, such as its loss or its validation Dice."""
        caption, draw = f"{run}: {heading.lower()} over the steps.", partial(draw_curves, curves=curves)
        file = f"{file_name(run)}-{name}"
        return self.draw(draw, (5.2, 3.2), heading, caption, file, run, xlabel="step", ylabel=ylabel)

    def save(self, figure: Figure, name: str, title: str) -> None:
        """Write a figure as PNG (200 dots an inch) and PDF, on white."""
        if self.folder is None:
            return
        # In the title, since a legend may stand below.
        figure.suptitle("\n".join(filter(None, (title, SYNTHETIC if self.synthetic else ""))))
        for kind in ("png", "pdf"):
            path = self.folder / f"{name}.{kind}"
            with replacing(path) as stream:
                metadata = {"CreationDate": None} if kind == "pdf" else {}
                figure.savefig(stream, format=kind, dpi=200, facecolor="white", metadata=metadata)
            self.files.append(path)


def file_name(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.") or "figure"


def css_variables(dark: bool) -> str:
    """The colours as CSS custom properties."""
    return " ".join(f"--{role}: {pair[int(dark)]};" for role, pair in COLOURS.items())


def svg_of(figure: Figure, name: str, label: str) -> str:
    """A figure as an inline SVG element whose colours are the page's CSS variables.

    Args:
        figure: Drawn inside :func:`~metaseg.pictures.charts.chart_settings`, with colours of
            :data:`~metaseg.pictures.charts.LIGHT` alone.
        name: Distinguishes the ids inside the SVG from those of other charts of the page.
        label: What a screen reader says.

    Returns:
        The element, without declarations and without any address.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', text)
    opening = f'<svg viewBox="{box[1] if box else ""}" role="img" aria-label="{escape(label)}">'
    text = opening + text[text.index(">") + 1 :]
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r"font: ([^;\"]*?)([\d.]+)px [^;\"]+", _font, text)
    # Comments and far decimals are most of the weight.
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(?:d|x|y|transform)="[^"]*"', _short_numbers, text)
    for role, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{role})")
    return text.strip()


def _font(found: re.Match[str]) -> str:
    weight = "font-weight: bold; " if "bold" in found[1] or "700" in found[1] else ""
    return f"{weight}font-size: {found[2]}px; font-family: inherit"


def _short_numbers(found: re.Match[str]) -> str:
    return re.sub(r"(\d+\.\d{2})\d+", r"\1", found[0])
