"""Pictures of a comparison of classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from metaseg.studies.classifiers.tables import seed_curves
from metaseg.written_files import replacing

NAMES = {"auc": "AUC", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1": "macro F1"}
MARKERS = "osD^vPX*<>"


def curve_band(curves: pd.DataFrame, label: str, figure: str) -> tuple[pd.Series, pd.Series]:
    """Mean over seeds of an entry's figure on the test part, and its standard error, by number of labels."""
    of_seeds = pd.concat(seed_curves(curves, label, figure), axis=1).sort_index()
    # At numbers of labels that few seeds have, as where rounds differ in size, a mean would jump.
    of_seeds = of_seeds[of_seeds.notna().sum(axis=1) * 2 > of_seeds.shape[1]]
    return of_seeds.mean(axis=1), of_seeds.sem(axis=1).fillna(0.0)


def write_label_curves(path: Path, curves: pd.DataFrame, figure: str, titles: Mapping[str, str]) -> None:
    """Draw a figure on the test part against the number of labels: mean over seeds, and its standard error."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8.0, 5.0), layout="constrained")
    FigureCanvasAgg(picture)
    axis = picture.subplots()
    for number, label in enumerate(dict.fromkeys(curves["entry"])):
        mean, error = curve_band(curves, label, figure)
        (line,) = axis.plot(mean.index, mean, marker=MARKERS[number % len(MARKERS)], markersize=4, label=titles[label])
        axis.fill_between(mean.index, mean - error, mean + error, color=line.get_color(), alpha=0.12, linewidth=0)
    axis.set_xlabel("labels")
    axis.set_ylabel(f"{NAMES[figure]}, test part")
    axis.set_title("mean over seeds, bands of one standard error", fontsize="small", loc="left")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", ncols=2)
    with replacing(path) as stream:
        picture.savefig(stream, format="png", dpi=110)


def write_figure_plot(path: Path, summarised: pd.DataFrame, figure: str, titles: Mapping[str, str]) -> None:
    """Draw the final figure of each entry with its interval, the best above."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = summarised.sort_values(figure)
    picture = Figure(figsize=(7.0, 1.2 + 0.34 * len(rows)), layout="constrained")
    FigureCanvasAgg(picture)
    axis = picture.subplots()
    places = range(len(rows))
    axis.hlines(places, rows[f"{figure}_low"], rows[f"{figure}_high"], color="0.6", linewidth=2)
    axis.plot(rows[figure], places, "o", color="tab:blue")
    axis.set_yticks(places, [titles[label] for label in rows["entry"]])
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlabel(f"{NAMES[figure]} on the test part, 95 % interval over patients and seeds")
    axis.grid(axis="x", alpha=0.3)
    with replacing(path) as stream:
        picture.savefig(stream, format="png", dpi=110)
