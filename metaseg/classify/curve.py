"""The curve of active learning: figures against labels, as table and picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metaseg.checked_files import FileKind, read_frame
from metaseg.classify.measure import FIGURES
from metaseg.classify.rounds import Round
from metaseg.evaluation.label_curves import area_under_budget_curve
from metaseg.written_files import replacing, write_text

CURVE_NAME, PICTURE_NAME = "curve.csv", "curve.png"


def curve_table(rounds: Sequence[Round], classes: Sequence[str]) -> pd.DataFrame:
    """One row for each round and part: labels so far, figures, and the shares of the classes in what was chosen."""
    rows = []
    for one in rounds:
        shares = {
            f"chosen_{name}": sum(label == number for label in one.labels) / max(len(one.labels), 1)
            for number, name in enumerate(classes)
        }
        for part, figures in one.figures.items():
            values = {name: math.nan if figures.get(name) is None else figures[name] for name in FIGURES}
            rows.append({"round": one.number, "labels": one.labelled, "part": part, **values, **shares})
    columns = ["round", "labels", "part", *FIGURES, *(f"chosen_{name}" for name in classes)]
    return pd.DataFrame(rows, columns=columns)


def read_curve(path: Path) -> pd.DataFrame:
    """The table that :func:`write_curve` wrote.

    Raises:
        RunError: The file is missing or damaged.
    """
    kind = FileKind("the curve of a run of active learning", "go on with the run with --resume")
    return read_frame(path, kind, ("part",), ("round", "labels"), tuple(FIGURES))


def budget_areas(table: pd.DataFrame, part: str) -> dict[str, float]:
    """Area under the budget curve of each figure on a part; NaN with fewer than two rounds."""
    rows = table[table["part"] == part].sort_values("labels").drop_duplicates("labels", keep="last")
    known = {name: rows[["labels", name]].dropna() for name in FIGURES}
    return {
        name: area_under_budget_curve(points["labels"], points[name]) if len(points) > 1 else math.nan
        for name, points in known.items()
    }


def write_curve(folder: Path, table: pd.DataFrame, figure: str, title: str, synthetic: bool) -> None:
    """Write ``curve.csv`` and ``curve.png``: a figure against labels on each part, and what was chosen below."""
    write_text(folder / CURVE_NAME, table.to_csv(index=False, lineterminator="\n"))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8.0, 5.6), layout="constrained")
    FigureCanvasAgg(picture)
    above, below = picture.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    names = {"test": "test part", "pool": "rest of the pool", "val": "validation part"}
    for part, rows in table.groupby("part", sort=False):
        above.plot(rows["labels"], rows[figure], marker="o", markersize=3.5, label=names.get(str(part), str(part)))
    above.set_ylabel("AUC" if figure == "auc" else figure.replace("_", " "))
    above.grid(alpha=0.3)
    above.legend(fontsize="small")
    _draw_shares(below, table.drop_duplicates("round"))
    below.set_ylim(0, 1)
    below.set_ylabel("share of what\nwas chosen")
    below.set_xlabel("labels")
    below.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    picture.suptitle(title + (" (synthetic data)" if synthetic else ""))
    with replacing(folder / PICTURE_NAME) as stream:
        picture.savefig(stream, format="png", dpi=110)


def _draw_shares(axis: Any, rounds: pd.DataFrame) -> None:
    """A bar for each round, from the labels before it to those after, parted by class."""
    ends = rounds["labels"].to_numpy(float)
    widths = np.maximum(np.diff(ends, prepend=0.0), 1.0)
    bottom = np.zeros(len(ends))
    for column in (name for name in rounds.columns if name.startswith("chosen_")):
        shares = rounds[column].to_numpy(float)
        axis.bar(
            ends, shares, -widths, bottom=bottom, align="edge", edgecolor="white", label=column.removeprefix("chosen_")
        )
        bottom += shares
