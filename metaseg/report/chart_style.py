"""How the report's charts look: named colours for light and dark, SVG that follows the page, files for a paper.

A chart is drawn once, in the light colours. For the page every colour becomes a CSS variable, so that the browser
chooses between light and dark; the PNG and PDF files keep the light colours on white.

Where the charts of a report go: onto the page, and into files for a paper.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaseg.files import replacing
from metaseg.inference.evaluation_cases import SYNTHETIC
from metaseg.report.blocks import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Mapping[str, tuple[str, str]] = {
    "ink": ("#1d2430", "#e9ecf1"),
    "faint": ("#5b6573", "#a4adba"),
    "grid": ("#dde2e9", "#343c48"),
    "paper": ("#ffffff", "#14181e"),
    "naive": ("#c8500a", "#ff9a52"),
    "passive": ("#1f6fb5", "#6db8ff"),
    "active": ("#127a55", "#4fd3a2"),
    "best": ("#a3217c", "#ff86cf"),
    "extra": ("#7a5b00", "#e0c050"),
    "other": ("#97a1ae", "#6c7683"),
    "better": ("#13805a", "#4ed2a1"),
    "worse": ("#bf3527", "#ff8474"),
    "learned": ("#2a7f5e", "#52cfa0"),
    "unlearned": ("#b8473d", "#f58a7e"),
    "source": ("#4a6fa5", "#86aeea"),
}
"""Role to colour, on a light and on a dark page. No two light colours are the same: the SVG is told by them."""

LIGHT: Mapping[str, str] = {role: pair[0] for role, pair in COLOURS.items()}
FAMILY_MARKERS = ("o", "s", "^", "D", "v", "P")
UNITS_PER_INCH = 72
"""Points of an SVG's view box per inch of a figure."""


def css_variables(dark: bool) -> str:
    """The colours as CSS custom properties."""
    return " ".join(f"--{role}: {pair[int(dark)]};" for role, pair in COLOURS.items())


@contextmanager
def chart_settings() -> Iterator[None]:
    """Settings of matplotlib for the charts of the report, inside the block alone."""
    import matplotlib

    settings: Any = {
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "metaseg",
        "pdf.fonttype": 42,
        "font.size": 10.5,
        "axes.edgecolor": LIGHT["faint"],
        "axes.labelcolor": LIGHT["ink"],
        "axes.titlecolor": LIGHT["ink"],
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": LIGHT["grid"],
        "grid.linewidth": 0.8,
        "text.color": LIGHT["ink"],
        "xtick.color": LIGHT["faint"],
        "ytick.color": LIGHT["faint"],
        "legend.frameon": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure of charts side by side; sizes in inches. No window is ever opened."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def svg_of(figure: Figure, name: str, label: str) -> str:
    """A figure as an inline SVG element whose colours are the page's CSS variables.

    Args:
        figure: Drawn inside :func:`chart_settings`, with colours of :data:`LIGHT` alone.
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
    opening = f'<svg viewBox="{box[1] if box else ""}" role="img" aria-label="{_attribute(label)}">'
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


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG (200 dots an inch) and PDF, on white; returns the files."""
    paths = []
    for kind in ("png", "pdf"):
        path = folder / f"{name}.{kind}"
        with replacing(path) as stream:
            metadata = {"CreationDate": None} if kind == "pdf" else {}
            figure.savefig(stream, format=kind, dpi=200, facecolor="white", metadata=metadata)
        paths.append(path)
    return paths


def put_end_labels(
    axis: Axes, ends: list[tuple[float, str, str, bool]], size: float = 8.5, points: float = 10.5
) -> None:
    """Name curves at their right ends, pushed apart so that no two names overlap; one that ends below gets its value.

    Args:
        axis: Whose limits are final.
        ends: Height of each curve's end in data units, name, colour, and whether it is highlighted.
        size: Font size.
        points: Least distance of two names, in points.
    """
    low, high = axis.get_ylim()
    height = axis.figure.bbox.height / axis.figure.dpi * UNITS_PER_INCH * 0.8
    gap = points / height
    wanted = sorted(
        (
            min(max((value - low) / (high - low), 0.0), 1.0),
            name if value >= low else f"{name} ↓ {value:.2f}",
            colour,
            strong,
        )
        for value, name, colour, strong in ends
    )
    places = spread([entry[0] for entry in wanted], gap, low=0.0, high=1.0)
    for (value, name, colour, strong), place in zip(wanted, places, strict=True):
        axis.annotate(
            name,
            xy=(1.0, value),
            xytext=(1.05, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            fontsize=size,
            fontweight="bold" if strong else "normal",
            color=colour if strong else LIGHT["faint"],
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def spread(values: list[float], gap: float, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """Move ascending numbers apart to a least distance, with the least sum of squared moves.

    Numbers that would overlap form a block around their mean; blocks that meet are joined.

    Args:
        values: Ascending.
        gap: Least distance.
        low: None goes below.
        high: None goes above, unless there are more numbers than fit.
    """
    blocks: list[tuple[float, int]] = []
    for value in values:
        centre, count = value, 1
        while blocks:
            before, size = blocks[-1]
            if before + gap * (size - 1) / 2 + gap <= centre - gap * (count - 1) / 2:
                break
            blocks.pop()
            centre, count = (before * size + centre * count) / (size + count), size + count
        blocks.append((centre, count))
    placed = [centre + gap * (number - (count - 1) / 2) for centre, count in blocks for number in range(count)]
    last = len(placed) - 1
    below = [min(place, high - gap * (last - number)) for number, place in enumerate(placed)]
    return [max(place, low + gap * number) for number, place in enumerate(below)]


def _font(found: re.Match[str]) -> str:
    weight = "font-weight: bold; " if "bold" in found[1] or "700" in found[1] else ""
    return f"{weight}font-size: {found[2]}px; font-family: inherit"


def _short_numbers(found: re.Match[str]) -> str:
    return re.sub(r"(\d+\.\d{2})\d+", r"\1", found[0])


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


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
