"""Pictures of a classifier's figures: confusion matrix, reliability and ROC curves."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metaseg.files import replacing
from metaseg.metrics.classification import (
    BINS,
    checked_classes,
    checked_probabilities,
    expected_calibration_error,
    reliability_bins,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Of Okabe and Ito: told apart by colour-blind readers."""

LINES = ("-", "--", "-.", ":")
_INK, _FAINT, _PALE = "#1d2430", "#5b6573", "#dde2e9"
_DARK = 0.55
"""Share of a cell's row from which its colour is dark, so that its numbers are white."""


def write_confusion_plot(
    path: Path, counts: np.ndarray, classes: Sequence[str], title: str = "", synthetic: bool = False
) -> Path:
    """Draw a confusion matrix: the count and the share of its row in each cell, coloured by the share.

    Args:
        path: The PNG file.
        counts: ``(c, c)``, the true class along the rows.
        classes: The ``c`` names.
        title: Heading.
        synthetic: Whether the data are phantoms; the picture then says so.

    Returns:
        The file. A row without samples has no share and stays white.

    Raises:
        ValueError: Counts and names do not fit.
    """
    cells = np.asarray(counts)
    names = checked_classes(classes, len(cells))
    if cells.shape != (len(names), len(names)):
        raise ValueError(f"counts {cells.shape}: expected a square")
    side = max(3.2, 1.05 * len(names)) + 1.9

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        shares = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
        shown = axis.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        for row, column in np.ndindex(*cells.shape):
            _put_cell(axis, row, column, cells, shares)
        ticks, labels = np.arange(len(names)), [_wrapped(name) for name in names]
        slanted = 45 if len(names) > 4 else 0
        axis.set_xticks(ticks, labels, rotation=slanted, ha="right" if slanted else "center")
        axis.set_yticks(ticks, labels)
        axis.set(xlabel="predicted class", ylabel="true class")
        axis.set_xticks(ticks[1:] - 0.5, minor=True)
        axis.set_yticks(ticks[1:] - 0.5, minor=True)
        axis.grid(which="minor", color=_PALE, linewidth=1.0)
        axis.tick_params(which="both", length=0)
        figure.colorbar(shown, ax=axis, shrink=0.8, label="share of the true class")

    return _write(path, (side + 1.0, side), title, synthetic, draw)


def write_reliability_plot(
    path: Path,
    probabilities: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    title: str = "",
    synthetic: bool = False,
    bins: int = BINS,
) -> Path:
    """Draw how often the classifier is right against how sure it is, above a histogram of its confidence.

    Args:
        path: The PNG file.
        probabilities: ``(n, c)``, rows sum to 1.
        labels: Class indices ``(n,)``.
        title: Heading.
        synthetic: Whether the data are phantoms; the picture then says so.
        bins: Bins of the confidence, from 0 to 1.

    Returns:
        The file.
    """
    found = reliability_bins(probabilities, labels, bins)
    error = expected_calibration_error(probabilities, labels, bins)

    def draw(figure: Figure) -> None:
        axis, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        middles, width = (found.edges[:-1] + found.edges[1:]) / 2, 1.0 / bins
        held = found.count > 0
        axis.bar(
            middles[held], found.accuracy[held], width, color=COLOURS[5], edgecolor="white", label="accuracy of the bin"
        )
        axis.plot([0, 1], [0, 1], color=_FAINT, linestyle="--", linewidth=1.2, label="perfectly calibrated")
        axis.plot(
            found.confidence[held],
            found.accuracy[held],
            color=COLOURS[0],
            marker="o",
            markersize=4,
            linewidth=1.2,
            label="accuracy at the mean confidence",
        )
        # Above the picture: bars and curve leave no corner that is always free.
        axis.set_title(f"ECE {error:.3f}, {bins} bins", fontsize="medium", color=_INK)
        axis.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03))
        axis.legend(fontsize="small", loc="upper left", framealpha=0.9)
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
        below.bar(middles, found.count, width, color=_FAINT, edgecolor="white")
        below.set(xlabel="confidence (probability of the predicted class)", ylabel="samples")
        below.yaxis.get_major_locator().set_params(integer=True)
        below.grid(alpha=0.3)
        below.set_axisbelow(True)

    return _write(path, (5.6, 6.2), title, synthetic, draw)


def write_roc_plot(
    path: Path,
    probabilities: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    classes: Sequence[str],
    title: str = "",
    synthetic: bool = False,
) -> Path:
    """Draw the ROC curve of every class against all others, with its AUC; with two classes, that of the second.

    Args:
        path: The PNG file.
        probabilities: ``(n, c)``, rows sum to 1.
        labels: Class indices ``(n,)``.
        classes: The ``c`` names.
        title: Heading.
        synthetic: Whether the data are phantoms; the picture then says so.

    Returns:
        The file. A class that has no curve, since it or all others have no sample, is named with AUC "-".
    """
    chance, truth = checked_probabilities(probabilities, labels)
    names = checked_classes(classes, chance.shape[1])
    shown = [(one, name) for one, name in enumerate(names) if len(names) > 2 or one == 1]

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color=_FAINT, linestyle=":", linewidth=1.0)
        for place, (one, name) in enumerate(shown):
            _put_curve(axis, place, _wrapped(name, 30), truth == one, chance[:, one])
        axis.set(xlabel="false positive rate (1 - specificity)", ylabel="true positive rate (sensitivity)")
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axis.grid(alpha=0.3)
        # Below, where it can neither hide a curve nor be too wide.
        figure.legend(loc="outside lower center", ncols=1, fontsize="small", frameon=False)

    return _write(path, (5.4, 5.6 + 0.25 * len(shown)), title, synthetic, draw)


def _put_cell(axis: Axes, row: int, column: int, counts: np.ndarray, shares: np.ndarray) -> None:
    share = f"\n{100 * shares[row, column]:.0f} %" if counts[row].sum() else ""
    axis.text(
        column,
        row,
        f"{counts[row, column]:g}{share}",
        ha="center",
        va="center",
        color="white" if shares[row, column] > _DARK else _INK,
        fontweight="bold" if row == column else "normal",
    )


def _put_curve(axis: Axes, place: int, name: str, positive: np.ndarray, scores: np.ndarray) -> None:
    from sklearn.metrics import auc, roc_curve

    style: dict[str, Any] = {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": LINES[place % len(LINES)],
        "linewidth": 1.8,
    }
    if positive.all() or not positive.any():
        axis.plot([], [], label=f"{name}: AUC -", **style)
        return
    false_rate, true_rate, _ = roc_curve(positive, scores)
    axis.plot(false_rate, true_rate, label=f"{name}: AUC {auc(false_rate, true_rate):.3f}", **style)


def _wrapped(name: str, width: int = 14) -> str:
    """A name in lines, so that a long one is not cut off."""
    lines = textwrap.wrap(name.replace("_", "_ "), width)
    return "\n".join(lines).replace("_ ", "_") or name


def _write(path: Path, size: tuple[float, float], title: str, synthetic: bool, draw: Callable[[Figure], None]) -> Path:
    """Draw on a new figure and write it as PNG."""
    # The object interface only: pyplot's figures are global, and would open a window where there is a display.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # A "$" in a name is no formula.
    with matplotlib.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
        FigureCanvasAgg(figure)
        heading = " ".join(filter(None, (title, "(synthetic data)" if synthetic else "")))
        if heading:
            figure.suptitle("\n".join(textwrap.wrap(heading, int(10 * size[0]))))
        draw(figure)
        with replacing(path) as stream:
            figure.savefig(stream, format="png", dpi=130)
    return path
