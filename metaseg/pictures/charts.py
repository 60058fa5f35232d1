"""Charts: one function each that draws on an axis of matplotlib, their colours, and the charts of a run folder.

A chart is drawn in the light colours of :data:`COLOURS`. The report turns each of them into a CSS variable, so that a
page follows the reader's choice of light or dark; files keep the light colours on white.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from metaseg.files import replacing
from metaseg.metrics.probabilities import (
    BINS,
    checked_classes,
    checked_probabilities,
    expected_calibration_error,
    reliability_bins,
)
from metaseg.runs.logs import Curve, read_curves
from metaseg.sampling import fraction_count

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
"""Role to colour, on a light and on a dark page. All light colours differ, since they identify the role in an SVG."""

LIGHT: Mapping[str, str] = {role: pair[0] for role, pair in COLOURS.items()}
SERIES = ("passive", "naive", "active", "best", "extra", "source", "unlearned")
"""Roles of classes and curves that have none of their own, in their order."""
LINES = ("-", "--", "-.", ":")

PLOT_NAME = "progress.png"
_DARK = 0.55
"""Fraction of a confusion matrix's row from which its cell is dark, so that its numbers are white."""
_POINTS_PER_INCH = 72


@contextmanager
def chart_settings() -> Iterator[None]:
    """The style of all charts, inside the block alone."""
    import matplotlib

    with matplotlib.rc_context(fname=Path(__file__).with_suffix(".mplstyle")):
        yield


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any) -> tuple[Figure, list[Axes]]:
    """An empty figure and its axes; sizes in inches.

    The object interface only: pyplot's figures are global, and would open a window where there is a display.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **grid).flat)


@contextmanager
def chart_file(
    path: Path, width: float, height: float, title: str = "", synthetic: bool = False, **grid: Any
) -> Iterator[list[Axes]]:
    """Axes to draw on; at the end of the block they are written as PNG, on white.

    Args:
        path: The file.
        width: Inches.
        height: Inches.
        title: Heading.
        synthetic: Whether the data are phantoms; the picture then says so.
        **grid: As for :func:`new_figure`.
    """
    with chart_settings():
        figure, axes = new_figure(width, height, **grid)
        heading = " ".join(filter(None, (title, "(synthetic data)" if synthetic else "")))
        if heading:
            figure.suptitle("\n".join(textwrap.wrap(heading, int(11 * width))))
        yield axes
        with replacing(path) as stream:
            figure.savefig(stream, format="png", dpi=130, facecolor="white", bbox_inches="tight", pad_inches=0.12)


def draw_curves(axis: Axes, curves: Mapping[str, Curve], roles: Mapping[str, str] | None = None) -> None:
    """Draw named curves, such as losses over steps or a metric over labels.

    Args:
        axis: Where to.
        curves: Name to steps and values.
        roles: Name to role of :data:`COLOURS`; by default :data:`SERIES`.
    """
    for number, (name, (steps, values)) in enumerate(curves.items()):
        role = SERIES[number % len(SERIES)] if roles is None else roles[name]
        axis.plot(
            steps,
            values,
            color=LIGHT[role],
            linestyle=LINES[number // len(SERIES) % len(LINES)],
            linewidth=1.8,
            marker="o" if len(steps) < 60 else None,
            markersize=3.5,
            label=name,
        )
    axis.legend(ncols=2 if len(curves) > 2 else 1)


def draw_bands(axis: Axes, curves: pd.DataFrame, roles: Mapping[str, str], floors: Collection[str] = ()) -> None:
    """Draw means with their bands, each named at its end; highlighted ones lie above the others.

    Args:
        axis: Where to.
        curves: Columns ``method``, ``step``, ``mean``, ``low``, ``high``.
        roles: Method to role of :data:`COLOURS`; ``other`` is not highlighted and has no band.
        floors: Methods that the axis need not reach.
    """
    ends = []
    for method in drawn_order(roles):
        rows = curves[curves["method"] == method].dropna(subset=["mean"]).sort_values("step")
        if rows.empty:
            continue
        strong, colour = roles[method] != "other", LIGHT[roles[method]]
        if strong:
            axis.fill_between(rows["step"], rows["low"], rows["high"], color=colour, alpha=0.14, linewidth=0)
        axis.plot(
            rows["step"],
            rows["mean"],
            color=colour,
            linewidth=2.2 if strong else 1.0,
            marker="o" if strong else None,
            markersize=4,
            zorder=3 if strong else 2,
        )
        ends.append((float(rows["mean"].iloc[-1]), method, colour, strong))
    axis.set_xlim(left=0)
    axis.margins(x=0.0)
    limit_to_fractions(axis, curves[~curves["method"].isin(floors)][["mean", "low", "high"]])
    put_end_labels(axis, ends)


def draw_intervals(axis: Axes, rows: Sequence[tuple[str, float, float, float, str]]) -> None:
    """Draw values with their intervals, the first on top.

    Args:
        axis: Where to.
        rows: Name, value, low, high (NaN where there is no interval) and role of :data:`COLOURS`.
    """
    for place, (_, value, low, high, role) in enumerate(rows):
        axis.hlines(place, low, high, color=LIGHT[role], linewidth=3.5, alpha=0.35)
        axis.plot([value], [place], "o", color=LIGHT[role], markersize=7)
    name_rows(axis, [row[0] for row in rows])
    axis.locator_params(axis="x", nbins=5)


def draw_fractions(
    axis: Axes,
    places: Sequence[float] | np.ndarray,
    fractions: np.ndarray,
    classes: Sequence[str],
    *,
    sizes: float | np.ndarray = 0.8,
    names: Sequence[str] = (),
    legend: bool = True,
) -> None:
    """Draw the fractions of the classes as stacked bars, with a legend below the figure.

    Args:
        axis: Where to.
        places: Middle of each bar, ``(bars,)``.
        fractions: ``(bars, classes)``.
        classes: Their names.
        sizes: Width of the bars.
        names: Of the bars, which then lie, the first on top; without names they stand.
        legend: Whether there is a legend; of several axes of a figure one has it.
    """
    begun = np.zeros(len(fractions))
    for number, name in enumerate(classes):
        column, colour = np.asarray(fractions)[:, number], class_colour(number)
        if names:
            axis.barh(places, column, sizes, left=begun, color=colour, label=name)
        else:
            axis.bar(places, column, sizes, bottom=begun, color=colour, label=name)
        begun += column
    (axis.set_xlim if names else axis.set_ylim)(0, 1)
    axis.grid(visible=False)
    if names:
        name_rows(axis, names)
    if legend:
        legend_below(axis, min(len(classes), 3))


def confusion_size(classes: int) -> tuple[float, float]:
    """Width and height of a confusion matrix in inches."""
    side = 0.95 * classes + 1.5
    return max(side + 0.5, 3.6), max(side, 3.1)


def draw_confusion(axis: Axes, counts: np.ndarray, classes: Sequence[str]) -> None:
    """Draw a confusion matrix: in each cell the count and the fraction of its row, which is also its colour's strength.

    Args:
        axis: Where to.
        counts: ``(c, c)``, the true class along the rows; a row without samples has no fractions and stays white.
        classes: The ``c`` names.

    Raises:
        ValueError: Counts and names do not fit.
    """
    from matplotlib.patches import Rectangle

    cells = np.asarray(counts)
    names = [wrapped(name) for name in checked_classes(classes, len(cells))]
    if cells.shape != (len(names), len(names)):
        raise ValueError(f"counts {cells.shape}: expected a square")
    fractions = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
    for row, column in np.ndindex(*cells.shape):
        fraction = float(fractions[row, column])
        colour = LIGHT["active"] if row == column else LIGHT["worse"]
        axis.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, alpha=fraction, edgecolor=LIGHT["grid"])
        )
        percent = f"\n{100 * fraction:.0f} %" if cells[row].sum() else ""
        ink = LIGHT["paper"] if fraction > _DARK else LIGHT["ink"]
        axis.text(column, row, f"{cells[row, column]:g}{percent}", ha="center", va="center", color=ink)
    ticks, slanted = np.arange(len(names)), len(names) > 4
    axis.set_xticks(ticks, names, rotation=40 if slanted else 0, ha="right" if slanted else "center")
    axis.set_yticks(ticks, names)
    axis.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.grid(visible=False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


UNCERTAINTY_ENDS: Mapping[str, str] = {"hardest": "naive", "middle": "other", "easiest": "best"}
"""Roles of a ranking's most uncertain slices, of those between, and of the least uncertain: Hao's orange and purple."""


def draw_uncertainty(axes: Sequence[Axes], table: pd.DataFrame, ends: float = 0.1) -> None:
    """Draw an uncertainty list as it lies in the pool and as it is ranked (Figs. 2 and 4 of Hao et al. 2021).

    Args:
        axes: Two.
        table: Columns ``rank`` (from 1) and ``score``, in the sequence of the pool.
        ends: Fraction of the ranking that is coloured at either end.
    """
    ranks, scores = table["rank"].to_numpy(), table["score"].to_numpy(np.float64)
    count = fraction_count(len(ranks), ends)
    of_end = {
        "hardest": ranks <= count,
        "middle": (ranks > count) & (ranks <= len(ranks) - count),
        "easiest": ranks > len(ranks) - count,
    }
    names = {"hardest": f"hardest {100 * ends:.0f} %", "middle": "between", "easiest": f"easiest {100 * ends:.0f} %"}
    for axis, places, what in zip(
        axes, (np.arange(1, len(ranks) + 1), ranks), ("as in the pool", "ranked"), strict=True
    ):
        for end, held in of_end.items():
            colour = LIGHT[UNCERTAINTY_ENDS[end]]
            axis.vlines(places[held], 0.0, scores[held], color=colour, linewidth=0.8)
            axis.plot(places[held], scores[held], "o", color=colour, markersize=2.0, label=names[end])
        axis.set(xlabel=f"slices, {what}", ylabel="uncertainty (nats)")
        axis.set_ylim(bottom=0.0)
    legend_below(axes[0], 3)


def draw_roc(axis: Axes, probabilities: np.ndarray, labels: Sequence[int] | np.ndarray, classes: Sequence[str]) -> None:
    """Draw the ROC curve of every class against all others, with its AUC; with two classes, that of the second.

    A class that has no curve, since it or all others have no sample, is named with AUC "-".

    Args:
        axis: Where to.
        probabilities: ``(n, c)``, rows sum to 1.
        labels: Class indices ``(n,)``.
        classes: The ``c`` names.

    Raises:
        ValueError: The input is no set of predictions, or there are more or fewer names.
    """
    from sklearn.metrics import auc, roc_curve

    scores, truth = checked_probabilities(probabilities, labels)
    names = checked_classes(classes, scores.shape[1])
    axis.plot([0, 1], [0, 1], color=LIGHT["faint"], linestyle=":", linewidth=1.0)
    for number, name in enumerate(names):
        if len(names) == 2 and number == 0:
            continue
        positive, x, y, area = truth == number, np.empty(0), np.empty(0), "-"
        if positive.any() and not positive.all():
            x, y, _ = roc_curve(positive, scores[:, number])
            area = f"{auc(x, y):.3f}"
        style = LINES[number % len(LINES)]
        text = f"{wrapped(name, 30)}: AUC {area}"
        axis.plot(x, y, color=class_colour(number), linestyle=style, linewidth=2.0, label=text)
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axis.set(xlabel="false positive rate (1 - specificity)", ylabel="true positive rate (sensitivity)")
    legend_below(axis, 1 if max(map(len, names)) > 16 else 2)


def draw_reliability(
    axis: Axes, probabilities: np.ndarray, labels: Sequence[int] | np.ndarray, bins: int = BINS
) -> None:
    """Draw how often a classifier is right against how sure it is, with the number of samples of each bin.

    Args:
        axis: Where to.
        probabilities: ``(n, c)``, rows sum to 1.
        labels: Class indices ``(n,)``.
        bins: Bins of the confidence, from 0 to 1.

    Raises:
        ValueError: The input is no set of predictions.
    """
    found = reliability_bins(probabilities, labels, bins)
    error = expected_calibration_error(probabilities, labels, bins)
    held = found.count > 0
    middles = ((found.edges[:-1] + found.edges[1:]) / 2)[held]
    accuracy = found.accuracy[held]
    axis.bar(middles, accuracy, 0.9 / bins, color=LIGHT["passive"], alpha=0.3)
    axis.plot([0, 1], [0, 1], color=LIGHT["faint"], linestyle=":", linewidth=1.0)
    axis.plot(found.confidence[held], accuracy, color=LIGHT["passive"], linewidth=1.8, marker="o", markersize=5)
    for middle, height, count in zip(middles, accuracy, found.count[held], strict=True):
        axis.text(middle, height + 0.015, str(count), ha="center", fontsize=8, color=LIGHT["faint"])
    axis.set(xlim=(0, 1), ylim=(0, 1.08), aspect="equal")
    axis.set(xlabel="confidence (probability of the predicted class)", ylabel="fraction that is right")
    axis.set_title(f"Reliability: ECE {error:.3f}, {bins} bins")


def series_roles(names: Iterable[str]) -> dict[str, str]:
    """A role of :data:`SERIES` for each name that has none of its own."""
    return dict(zip(names, cycle(SERIES), strict=False))


def class_colour(number: int) -> str:
    """The colour of a class."""
    return LIGHT[SERIES[number % len(SERIES)]]


def wrapped(name: str, width: int = 14) -> str:
    """A name in lines, so that a long one is not cut off."""
    return "\n".join(textwrap.wrap(name.replace("_", "_ "), width)).replace("_ ", "_") or name


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Name the rows 0, 1, ... of a chart, the first on top."""
    axis.set_yticks(range(len(names)), [wrapped(name, 24) for name in names])
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)


def legend_below(axis: Axes, columns: int) -> None:
    """The legend of an axis below its figure, where it can neither hide a curve nor be too wide."""
    axis.figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def drawn_order(roles: Mapping[str, str]) -> list[str]:
    """The others first, so that highlighted methods lie above them."""
    return sorted(roles, key=lambda method: roles[method] != "other")


def limit_to_fractions(axis: Axes, values: pd.DataFrame) -> None:
    """Fit the axis to values that never leave [0, 1], and neither does the axis."""
    known = values.to_numpy(dtype=np.float64)
    known = known[~np.isnan(known)]
    if known.size:
        room = 0.06 * max(float(np.ptp(known)), 0.02)
        axis.set_ylim(max(-0.01, float(known.min()) - room), min(1.01, float(known.max()) + room))


def put_end_labels(axis: Axes, ends: Sequence[tuple[float, str, str, bool]]) -> None:
    """Name curves at their right ends, pushed apart so that no two names overlap; one that ends below gets its value.

    Args:
        axis: Whose limits are final.
        ends: Height of each curve's end in data units, name, colour, and whether it is highlighted.
    """
    low, high = axis.get_ylim()
    # Room for a line of 8.5 points, in a chart that is four fifths of its figure.
    gap = 10.5 / (axis.figure.bbox.height / axis.figure.dpi * _POINTS_PER_INCH * 0.8)
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
            fontsize=8.5,
            fontweight="bold" if strong else "normal",
            color=colour if strong else LIGHT["faint"],
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkB": 0, "relpos": (0, 0.5)},
        )


def spread(values: list[float], gap: float, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """Move ascending numbers apart to a least distance, with the least sum of squared moves.

    Args:
        values: Ascending.
        gap: Least distance.
        low: None goes below.
        high: None goes above, unless there are more numbers than fit.
    """
    from scipy.optimize import isotonic_regression

    # Least squares under a least distance is isotonic regression of the values less their gaps.
    offsets = gap * np.arange(len(values))
    placed = isotonic_regression(np.asarray(values) - offsets).x + offsets if len(values) else offsets
    below = np.minimum(placed, high - offsets[::-1])
    return [float(place) for place in np.maximum(below, low + offsets)]


def write_confusion_plot(
    path: Path, counts: np.ndarray, classes: Sequence[str], title: str = "", synthetic: bool = False
) -> Path:
    """Write :func:`draw_confusion` as PNG; returns the file."""
    with chart_file(path, *confusion_size(len(classes)), title, synthetic) as (axis,):
        draw_confusion(axis, counts, classes)
    return path


def write_reliability_plot(
    path: Path, probabilities: np.ndarray, labels: Sequence[int] | np.ndarray, title: str = "", synthetic: bool = False
) -> Path:
    """Write :func:`draw_reliability` as PNG; returns the file."""
    with chart_file(path, 5.6, 5.8, title, synthetic) as (axis,):
        draw_reliability(axis, probabilities, labels)
    return path


def write_roc_plot(
    path: Path,
    probabilities: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    classes: Sequence[str],
    title: str = "",
    synthetic: bool = False,
) -> Path:
    """Write :func:`draw_roc` as PNG; returns the file."""
    with chart_file(path, 5.4, 5.6 + 0.25 * len(classes), title, synthetic) as (axis,):
        draw_roc(axis, probabilities, labels, classes)
    return path


def write_progress_plot(folder: Path, *, title: str = "", synthetic: bool = False) -> Path | None:
    """Draw the losses and metrics of ``metrics.csv`` over the steps, as ``progress.png`` in the run folder.

    Args:
        folder: The run folder.
        title: Stands above the curves; the folder's name if empty.
        synthetic: Whether the run's data are phantoms; the picture then says so.

    Returns:
        The file, or None if there is nothing to draw yet.
    """
    groups: dict[str, dict[str, Curve]] = {"loss": {}, "Dice": {}, "fraction": {}}
    for name, curve in sorted(read_curves(folder).items()):
        label = _axis_of(name.lower())
        if label:
            groups[label][name] = curve
    groups = {label: curves for label, curves in groups.items() if curves}
    if not groups:
        return None
    path = folder / PLOT_NAME
    height = 3.2 * len(groups) + 0.4
    with chart_file(path, 8.0, height, title or folder.name, synthetic, rows=len(groups), sharex=True) as axes:
        for axis, (label, curves) in zip(axes, groups.items(), strict=True):
            draw_curves(axis, curves)
            axis.set_ylabel(label)
            if label != "loss":
                axis.set_ylim(-0.02, 1.02)
        axes[-1].set_xlabel("step")
    return path


def _axis_of(name: str) -> str | None:
    """Which axis a metric is drawn on; None for those that are not drawn, such as rates."""
    if "loss" in name:
        return "loss"
    if "dice" in name:
        return "Dice"
    return "fraction" if name.startswith(("auc", "accuracy", "balanced_accuracy", "f1")) else None
