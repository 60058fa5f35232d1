"""The sections on single runs of classifiers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metaseg.classify.curve import CURVE_NAME, read_curve
from metaseg.evaluation.classification import confusion_counts, patient_probabilities, predicted_classes
from metaseg.runs.progress_plot import read_curves
from metaseg.studies.classifiers.plots import NAMES
from metaseg.studies.classifiers.tables import Predictions
from metaseg.studies.report import patient_charts
from metaseg.studies.report.blocks import Block, Chart, Charts, Details, Facts, Heading, Note, Section
from metaseg.studies.report.classification import charts, tables
from metaseg.studies.report.classification.inputs import EVALUATION, TEST, Evaluation, evaluation_of
from metaseg.studies.report.classification.pictures import (
    SliceAlbum,
    chosen_blocks,
    grad_cam_blocks,
    mistake_blocks,
)
from metaseg.studies.report.figure_sink import FigureSink, file_name
from metaseg.studies.report.runs import ReportRun

PARTS = {"test": "test part", "pool": "rest of the pool", "val": "validation part"}


def figures_section(runs: Sequence[ReportRun]) -> Section:
    """Figures of the test parts, of later evaluations, and of each class."""
    blocks: list[Block] = []
    found = [(run.method, one) for run in runs if (one := evaluation_of(run, TEST))]
    if found:
        blocks.append(tables.run_table(found, "Figures of the test part"))
    later = [(run.method, one) for run in runs if (one := evaluation_of(run, EVALUATION))]
    if later:
        blocks.append(tables.run_table(later, "Figures of 'metaseg classify evaluate'"))
    for name, one in found:
        blocks.append(tables.classes_table(one, f"{name}: each class on the test part, by slice"))
    without = [run.method for run in runs if not evaluation_of(run, TEST)]
    if without:
        blocks.append(Note(f"Not tested, or not yet: {', '.join(without)}.", "quiet"))
    return Section("figures", "Figures", blocks)


def curves_section(runs: Sequence[ReportRun], sink: FigureSink) -> Section:
    """Loss and validation of trainings, figures over labels of active learning."""
    blocks: list[Block] = []
    for run in runs:
        drawn = _active_charts(run, sink) if run.verb == "classify-active" else _training_charts(run, sink)
        if drawn:
            blocks += [*_heading(run, runs), Charts(drawn)]
        strategy = run.manifest.get("strategy")
        if strategy:
            blocks.append(Facts("", [("strategy", f"{strategy}: {run.manifest.get('reason', '')}")]))
    return Section("curves", "How it learned", blocks)


def _training_charts(run: ReportRun, sink: FigureSink) -> list[Chart]:
    curves = read_curves(run.path)
    validated = {
        NAMES.get(name.partition("/")[0], name): curve for name, curve in curves.items() if name.endswith("/val")
    }
    drawn = []
    for chosen, ylabel, title in (
        ({"training loss": curves["train/loss"]} if "train/loss" in curves else {}, "loss", "Training loss"),
        (validated, "figure on the validation part", "Validation part"),
    ):
        if chosen:
            figure = patient_charts.training_figure(chosen, ylabel, title)
            name = f"{file_name(run.method)}-{file_name(title).lower()}"
            drawn.append(sink.chart(figure, f"{run.method}: {title.lower()} over the steps.", name, run.method))
    return drawn


def _active_charts(run: ReportRun, sink: FigureSink) -> list[Chart]:
    path = run.path / CURVE_NAME
    if not path.exists():
        return []
    table, monitor = read_curve(path), str(run.settings.get("monitor") or "auc")
    parts = {
        PARTS.get(str(part), str(part)): (rows["labels"].tolist(), rows[monitor].tolist())
        for part, rows in table.groupby("part", sort=False)
    }
    name, base = NAMES[monitor], file_name(run.method)
    figure = charts.parts_figure(parts, name, f"{name} against labels")
    drawn = [sink.chart(figure, f"{run.method}: {name} after each round.", f"{base}-labels", run.method)]
    columns = [column for column in table.columns if column.startswith("chosen_")]
    first = table.drop_duplicates("round")
    if columns and len(first):
        classes = [column.removeprefix("chosen_") for column in columns]
        rounds = [int(one) for one in first["round"]]
        figure = charts.rounds_figure(
            rounds, first[columns].to_numpy(np.float64), classes, "Classes of what was chosen"
        )
        drawn.append(sink.chart(figure, f"{run.method}: class shares of each round.", f"{base}-shares", run.method))
    return drawn


def confusion_section(runs: Sequence[ReportRun], sink: FigureSink) -> Section:
    """Confusion matrices, ROC curves and reliability on the test part, by slice and by patient."""
    blocks: list[Block] = []
    for run in runs:
        one = evaluation_of(run, TEST)
        if one is not None:
            blocks += [*_heading(run, runs), Charts(_judged(run, one.predictions, "slices", sink))]
            if "patient" in one.content["figures"]:
                patients = _of_patients(one)
                blocks.append(Details("By patient", [Charts(_judged(run, patients, "patients", sink))]))
    return Section("confusion", "Right and wrong", blocks)


def _of_patients(one: Evaluation) -> Predictions:
    found = one.predictions
    probabilities, labels, patients = patient_probabilities(found.probabilities, found.labels, found.patients)
    return Predictions(probabilities, labels, patients, found.classes)


def _judged(run: ReportRun, found: Predictions, level: str, sink: FigureSink) -> list[Chart]:
    counts = confusion_counts(predicted_classes(found.probabilities), found.labels, len(found.classes))
    what = f"{run.method}: {len(found.labels)} test {level}"
    drawn = (
        (
            charts.confusion_figure(counts, found.classes, "Confusion"),
            "counts, and shares of the true class",
            "confusion",
        ),
        (charts.roc_figure(found.probabilities, found.labels, found.classes, "ROC"), "ROC of each class", "roc"),
        (
            charts.reliability_figure(found.probabilities, found.labels, "Reliability"),
            "how often it is right at each confidence; numbers are samples",
            "reliability",
        ),
    )
    return [
        sink.chart(figure, f"{what}, {text}.", f"{file_name(run.method)}-{name}-{level}", run.method)
        for figure, text, name in drawn
    ]


def mistakes_section(runs: Sequence[ReportRun], worst: int, album: SliceAlbum) -> Section:
    """The worst mistakes, and Grad-CAM pictures where an evaluation made some."""
    blocks: list[Block] = []
    for run in runs:
        one = evaluation_of(run, TEST)
        inside = [*(mistake_blocks(run, one, worst, album) if one and worst else []), *grad_cam_blocks(run)]
        if inside:
            blocks += [*_heading(run, runs), *inside]
    return Section("mistakes", "Mistakes, and where it looked", blocks)


def chosen_section(runs: Sequence[ReportRun], album: SliceAlbum) -> Section:
    """What active learning chose first and last."""
    blocks: list[Block] = []
    for run in runs:
        inside = chosen_blocks(run, album) if run.verb == "classify-active" else []
        if inside:
            blocks += [*_heading(run, runs), *inside]
    return Section("chosen", "What was chosen", blocks)


def _heading(run: ReportRun, runs: Sequence[ReportRun]) -> list[Block]:
    return [Heading(run.method)] if len(runs) > 1 else []
