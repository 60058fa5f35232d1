"""Charts of slice classifiers: curves over labels, figures with intervals, what was chosen, right and wrong.

Slices that a classifier saw, as thumbnails: what was chosen first and last, and the worst mistakes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from metaseg.cases.labels import WHOLE_LESION
from metaseg.classify.data import open_slices
from metaseg.classify.evaluate import run_config
from metaseg.classify.rounds import read_rounds
from metaseg.classify.slices import ClassifiedSlices
from metaseg.config.classification import SliceOptions
from metaseg.errors import MetasegError
from metaseg.files import FileKind, read_frame
from metaseg.metrics.classification import expected_calibration_error, reliability_bins
from metaseg.report.blocks import Block, Note, Pictures, number
from metaseg.report.chart_style import LIGHT, new_figure
from metaseg.report.charts import draw_lines
from metaseg.report.classification.inputs import TEST, Evaluation
from metaseg.report.inputs import ReportRun
from metaseg.report.panels import Panel, SlicePainter, data_address
from metaseg.studies.cells import quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLASS_ROLES = ("passive", "naive", "active", "best", "extra", "source", "other")
"""Colours of classes, in their order."""
DARK = 0.55
"""Share of a cell's row from which its colour is strong, so that its numbers take the page's colour."""
BINS = 10


def label_curves_figure(curves: pd.DataFrame, roles: Mapping[str, str], ylabel: str, title: str) -> Figure:
    """A figure against labels, a line and a band per entry.

    Args:
        curves: Columns ``method``, ``step``, ``mean``, ``low``, ``high``; steps are labels.
        roles: Entry to role of :data:`~metaseg.report.chart_style.COLOURS`.
        ylabel: Name of the figure.
        title: Heading.
    """
    figure, (axis,) = new_figure(5.4, float(np.clip(0.2 * len(roles) + 1.6, 3.6, 8.0)))
    axis.set_xlabel("labels")
    axis.set_ylabel(ylabel)
    axis.set_title(title)
    draw_lines(axis, curves, roles)
    return figure


def interval_figure(rows: Sequence[tuple[str, float, float, float, str]], xlabel: str, title: str) -> Figure:
    """Figures with their intervals, the first on top.

    Args:
        rows: Name, value, low, high (NaN where there is no interval) and role.
        xlabel: Name of the figure.
        title: Heading.
    """
    figure, (axis,) = new_figure(5.0, 1.1 + 0.36 * len(rows))
    for place, (_, value, low, high, role) in enumerate(rows):
        axis.hlines(place, low, high, color=LIGHT[role], linewidth=3.5, alpha=0.35)
        axis.plot([value], [place], "o", color=LIGHT[role], markersize=7)
    _name_rows(axis, [row[0] for row in rows])
    axis.locator_params(axis="x", nbins=5)
    axis.set_xlabel(xlabel)
    axis.set_title(title)
    return figure


def shares_figure(shares: Sequence[tuple[str, Sequence[float]]], classes: Sequence[str], title: str) -> Figure:
    """Class shares as stacked bars, the first on top.

    Args:
        shares: Name and share of each class.
        classes: Names of the classes.
        title: Heading.
    """
    figure, (axis,) = new_figure(5.0, 1.4 + 0.36 * len(shares))
    begun = np.zeros(len(shares))
    for place, name in enumerate(classes):
        widths = np.array([one[1][place] for one in shares])
        axis.barh(range(len(shares)), widths, 0.72, left=begun, color=class_colour(place), label=name)
        begun += widths
    _name_rows(axis, [one[0] for one in shares])
    axis.set_xlim(0, 1)
    axis.set_xlabel("share of what was chosen")
    axis.set_title(title)
    axis.grid(visible=False)
    _legend_below(figure, len(classes))
    return figure


def rounds_figure(rounds: Sequence[int], shares: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Class shares of what each round chose, as stacked columns.

    Args:
        rounds: Their numbers.
        shares: ``(rounds, classes)``.
        classes: Names of the classes.
        title: Heading.
    """
    figure, (axis,) = new_figure(5.2, 3.4)
    begun = np.zeros(len(rounds))
    for place, name in enumerate(classes):
        axis.bar(rounds, shares[:, place], 0.8, bottom=begun, color=class_colour(place), label=name)
        begun += shares[:, place]
    axis.set_ylim(0, 1)
    axis.set_xlabel("round")
    axis.set_ylabel("share of what was chosen")
    axis.set_title(title)
    axis.locator_params(axis="x", integer=True)
    axis.grid(visible=False)
    _legend_below(figure, len(classes))
    return figure


def parts_figure(curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], ylabel: str, title: str) -> Figure:
    """A figure against labels on each part."""
    figure, (axis,) = new_figure(5.2, 3.4)
    for role, (name, (labels, values)) in zip(("active", "passive", "naive"), curves.items(), strict=False):
        axis.plot(labels, values, color=LIGHT[role], linewidth=1.8, marker="o", markersize=4, label=name)
    axis.set_xlabel("labels")
    axis.set_ylabel(ylabel)
    axis.set_title(title)
    axis.locator_params(axis="x", integer=True)
    _legend_below(figure, 3)
    return figure


def confusion_figure(counts: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Counts and shares of each true class, along its row."""
    side = 0.95 * len(classes) + 1.5
    figure, (axis,) = new_figure(max(side + 0.5, 3.6), max(side, 3.1))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    from matplotlib.patches import Rectangle

    for row, column in np.ndindex(*counts.shape):
        share = float(shares[row, column])
        colour = LIGHT["active"] if row == column else LIGHT["worse"]
        axis.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, alpha=share, edgecolor=LIGHT["grid"])
        )
        ink = LIGHT["paper"] if share > DARK else LIGHT["ink"]
        axis.text(column, row - 0.1, str(counts[row, column]), ha="center", va="center", color=ink, fontsize=12)
        axis.text(column, row + 0.22, f"{100 * share:.0f} %", ha="center", va="center", color=ink, fontsize=8.5)
    names, ticks = [wrapped(name) for name in classes], np.arange(len(classes))
    slanted = len(classes) > 4
    axis.set_xticks(ticks, names, rotation=40 if slanted else 0, ha="right" if slanted else "center")
    axis.set_yticks(ticks, names)
    axis.set_xlim(-0.5, len(classes) - 0.5)
    axis.set_ylim(len(classes) - 0.5, -0.5)
    axis.set_aspect("equal")
    axis.grid(visible=False)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    axis.set_title(title)
    return figure


def roc_figure(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """The ROC curve of every class against all others; of two classes, that of the second."""
    from sklearn.metrics import auc, roc_curve

    figure, (axis,) = new_figure(4.4, 4.6)
    axis.plot([0, 1], [0, 1], color=LIGHT["faint"], linestyle=":", linewidth=1.0)
    for place, name in enumerate(classes):
        positive = labels == place
        if (len(classes) == 2 and place == 0) or positive.all() or not positive.any():
            continue
        false_rate, true_rate, _ = roc_curve(positive, probabilities[:, place])
        text = f"{name}: AUC {auc(false_rate, true_rate):.3f}"
        axis.plot(false_rate, true_rate, color=class_colour(place), linewidth=2.0, label=text)
    axis.set_xlim(-0.01, 1.01)
    axis.set_ylim(-0.01, 1.01)
    axis.set_aspect("equal")
    axis.set_xlabel("false positive rate")
    axis.set_ylabel("true positive rate")
    axis.set_title(title)
    _legend_below(figure, 1 if max(map(len, classes)) > 16 else 2)
    return figure


def reliability_figure(probabilities: np.ndarray, labels: np.ndarray, title: str) -> Figure:
    """How often the classifier is right against how sure it is."""
    figure, (axis,) = new_figure(4.4, 4.6)
    found, middles = reliability_bins(probabilities, labels, BINS), (np.arange(BINS) + 0.5) / BINS
    held = found.count > 0
    axis.bar(middles[held], found.accuracy[held], 0.9 / BINS, color=LIGHT["passive"], alpha=0.3)
    axis.plot([0, 1], [0, 1], color=LIGHT["faint"], linestyle=":", linewidth=1.0)
    axis.plot(found.confidence[held], found.accuracy[held], color=LIGHT["passive"], linewidth=1.8, marker="o")
    for middle, accuracy, count in zip(middles[held], found.accuracy[held], found.count[held], strict=True):
        axis.text(middle, accuracy + 0.015, str(count), ha="center", fontsize=8, color=LIGHT["faint"])
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.08)
    axis.set_aspect("equal")
    axis.set_xlabel("confidence")
    axis.set_ylabel("share that is right")
    axis.set_title(f"{title}, ECE {expected_calibration_error(probabilities, labels):.3f}")
    return figure


def class_colour(number: int) -> str:
    """The colour of a class in charts."""
    return LIGHT[CLASS_ROLES[number % len(CLASS_ROLES)]]


def wrapped(name: str, width: int = 14) -> str:
    """A name in lines."""
    return "\n".join(textwrap.wrap(name.replace("_", "_ "), width)).replace("_ ", "_") or name


def _name_rows(axis: Axes, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), [wrapped(name, 24) for name in names])
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)


def _legend_below(figure: Figure, columns: int) -> None:
    figure.legend(loc="outside lower center", ncols=min(columns, 3), fontsize=9)


SMALL, LARGE, SHOWN = 112, 200, 8
"""Longer side of a thumbnail and of a picture in pixels, and how many thumbnails of a round are shown."""
GRAD_CAMS, GRAD_CAM_WIDTH = 12, 560


class SliceAlbum:
    """Opens the slices of runs again, once for all runs that share them."""

    def __init__(self) -> None:
        self._opened: dict[str, ClassifiedSlices | MetasegError] = {}

    def slices(self, run: ReportRun) -> ClassifiedSlices:
        """The slices of a run.

        Raises:
            MetasegError: Its data are gone, or cannot be used.
        """
        config = run_config(run.path)
        deciding = [str(getattr(config, field.name)) for field in fields(SliceOptions)]
        key = repr((deciding, config.seed, config.cache))
        if key not in self._opened:
            try:
                # What a verb would print here belongs to the run, not to its report.
                with quiet():
                    self._opened[key] = open_slices(config, config, annotator=bool(run.settings.get("ask")))
            except MetasegError as error:
                self._opened[key] = error
        slices = self._opened[key]
        if isinstance(slices, MetasegError):
            raise slices
        return slices

    def panels(self, run: ReportRun, captions: Mapping[str, tuple[str, ...]], size: int) -> list[Panel]:
        """A picture of each slice.

        Args:
            run: Whose slices.
            captions: Name of the slice to the lines below it.
            size: Longer side in pixels.

        Raises:
            MetasegError: The data are gone, or cannot be used.
        """
        slices = self.slices(run)
        places = {name: place for place, name in enumerate(slices.ids)}
        return [_panel(slices, places[name], name, lines, size) for name, lines in captions.items() if name in places]


def _panel(slices: ClassifiedSlices, place: int, name: str, lines: tuple[str, ...], size: int) -> Panel:
    case = slices.store.cases[int(slices.owners[place])]
    painter = SlicePainter(case, int(slices.indices[place]), slices.modalities, size)
    return painter.panel(None, WHOLE_LESION, f"Slice {name}: {', '.join(filter(None, lines))}", (*lines, name))


def chosen_blocks(run: ReportRun, album: SliceAlbum) -> list[Block]:
    """What active learning chose in its first round and in its last, with scores."""
    try:
        rounds = [one for one in read_rounds(run.path) if one.labels]
        if not rounds:
            return []
        classes = _classes(run, album)
        blocks: list[Block] = []
        for one in dict.fromkeys((rounds[0].number, rounds[-1].number)):
            chosen = rounds[one - 1]
            scores = [f"score {score:.3g}" if score is not None else "" for score in chosen.scores]
            rows = list(zip(chosen.chosen, chosen.labels, scores, strict=True))[:SHOWN]
            captions = {name: (classes[label], score) for name, label, score in rows}
            title = f"Round {one}: the first {len(rows)} of {len(chosen.chosen)} that were chosen"
            blocks.append(Pictures(title, album.panels(run, captions, SMALL), small=True))
        return blocks
    except MetasegError as error:
        return [_no_pictures(error)]


def _classes(run: ReportRun, album: SliceAlbum) -> Sequence[str]:
    settings = run.settings.get("classes") or ()
    return [str(name) for name in settings] or album.slices(run).classes


def mistake_blocks(run: ReportRun, evaluation: Evaluation, worst: int, album: SliceAlbum) -> list[Block]:
    """The slices of the test part whose true class got the least probability."""
    found = evaluation.predictions
    columns = ("slice", "patient", "truth", "predicted")
    table = read_frame(evaluation.folder / "predictions.csv", FileKind("the predictions of an evaluation"), columns)
    table["chance"] = found.probabilities[range(len(table)), found.labels]
    wrong = table[table["truth"] != table["predicted"]].sort_values("chance", kind="stable").head(worst)
    if wrong.empty:
        return []
    captions = {
        str(row["slice"]): (
            f"{row['truth']}, taken for {row['predicted']}",
            f"{number(row['chance'], 2)} for the truth",
        )
        for row in wrong.to_dict("records")
    }
    try:
        panels = album.panels(run, captions, LARGE)
    except MetasegError as error:
        return [_no_pictures(error)]
    return [Pictures("Worst mistakes on the test part", panels)] if panels else []


def grad_cam_blocks(run: ReportRun) -> list[Block]:
    """Grad-CAM pictures that an evaluation left in the run."""
    files = sorted(path for part in (TEST, "evaluation") for path in (run.path / part / "grad_cam").glob("*.png"))
    if not files:
        return []
    title = f"Where the classifier looked (Grad-CAM): the worst {min(len(files), GRAD_CAMS)} of the last evaluation"
    return [Pictures(title, [_picture_panel(path) for path in files[:GRAD_CAMS]], wide=True)]


def _picture_panel(path: Path) -> Panel:
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    width = min(picture.width, GRAD_CAM_WIDTH)
    picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    name = path.stem.partition("-")[2]
    return Panel(data_address(picture), picture.width, picture.height, f"Grad-CAM of {name}", (name,))


def _no_pictures(error: MetasegError) -> Note:
    return Note(f"No thumbnails: {error.found}{f' ({error.where})' if error.where else ''}.", "warning")
