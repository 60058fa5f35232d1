"""Where the charts of a report go: onto the page, and into files for a paper."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from metaseg.evaluation.provenance import SYNTHETIC
from metaseg.studies.report.blocks import Chart
from metaseg.studies.report.chart_style import LIGHT, save_figure, svg_of

if TYPE_CHECKING:
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
        """A figure as a chart of the page; with a ``name``, as files too, which stand under a title of their own."""
        self._count += 1
        chart = Chart(svg_of(figure, f"c{self._count}", caption), caption)
        if name:
            self.save(figure, name, title)
        return chart

    def save(self, figure: Figure, name: str, title: str) -> None:
        """Write files only."""
        if self.folder is not None:
            figure.suptitle(title, fontsize=11, color=LIGHT["ink"])
            if self.synthetic:
                figure.supxlabel(SYNTHETIC, fontsize=8, color=LIGHT["faint"])
            self.files += save_figure(figure, self.folder, name)


def file_name(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.") or "figure"
