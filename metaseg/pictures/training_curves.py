"""``progress.png``: the curves of ``metrics.csv``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from metaseg.files import replacing
from metaseg.runs.logs import METRICS_NAME, read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT_NAME = "progress.png"
Curve = tuple[list[int], list[float]]


def read_curves(folder: Path) -> dict[str, Curve]:
    """Name to (steps, values) of every figure in a run's ``metrics.csv``; empty cells are left out."""
    curves: dict[str, Curve] = {}
    for row in read_log(folder / METRICS_NAME, ("name",), ("step",), ("value",)):
        if row["value"]:
            steps, values = curves.setdefault(row["name"], ([], []))
            steps.append(int(row["step"]))
            values.append(float(row["value"]))
    return curves


def write_progress_plot(folder: Path, *, title: str = "", synthetic: bool = False) -> Path | None:
    """Draw losses and Dice over the steps and write ``progress.png`` into the run folder.

    Args:
        folder: The run folder.
        title: Stands above the curves; the folder's name if empty.
        synthetic: Whether the run's data are phantoms; the picture then says so.

    Returns:
        The file, or None if there is nothing to draw yet.
    """
    curves = read_curves(folder)
    groups: dict[str, dict[str, Curve]] = {label: {} for label in ("loss", "Dice", "share")}
    for name, curve in curves.items():
        label = _group(name.lower())
        if label:
            groups[label][name] = curve
    groups = {label: group for label, group in groups.items() if group}
    if not groups:
        return None
    # The object interface only: pyplot's figures are global, and would open a window where there is a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.2 * len(groups) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (label, group) in zip(axes, groups.items(), strict=True):
        _draw(axis, label, group)
    axes[-1].set_xlabel("step")
    figure.suptitle((title or folder.name) + (" (synthetic data)" if synthetic else ""))
    path = folder / PLOT_NAME
    with replacing(path) as stream:
        figure.savefig(stream, format="png", dpi=110)
    return path


def _group(name: str) -> str | None:
    """Which axes a figure is drawn in; None for those that are not drawn, such as rates."""
    if "loss" in name:
        return "loss"
    if "dice" in name:
        return "Dice"
    return "share" if name.startswith(("auc", "accuracy", "balanced_accuracy", "f1")) else None


def _draw(axis: Axes, label: str, group: Mapping[str, Curve]) -> None:
    for name, (steps, values) in sorted(group.items()):
        axis.plot(steps, values, marker="." if len(steps) < 60 else None, linewidth=1.2, label=name)
    axis.set_ylabel(label)
    if label != "loss":
        axis.set_ylim(-0.02, 1.02)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", ncols=2)
