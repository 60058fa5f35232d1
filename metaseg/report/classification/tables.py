"""The tables of the page on slice classifiers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from metaseg.inference.classification_files import LEVELS
from metaseg.report.blocks import LEVEL, Cell, Column, Row, Table, number, p_value
from metaseg.report.classification.inputs import ClassifierStudy, Evaluation
from metaseg.studies.classifiers.tables import NAMES, Paper, beside_paper

LEVEL_NAMES = {"slice": "slices", "patient": "patients"}
RUN_METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "macro F1",
    "auc_macro": "AUC",
    "average_precision_macro": "average precision",
    "ece": "ECE",
    "brier": "Brier score",
}
CLASS_METRICS = {"recall": "recall", "precision": "precision", "f1": "F1", "auc": "AUC", "support": "slices"}


def metrics_table(study: ClassifierStudy, roles: Mapping[str, str]) -> Table:
    """Final metrics of all entries on the test part, the best first."""
    names = [study.metric, *(name for name in NAMES if name != study.metric)]
    hints = (
        "Mean over seeds on the test part; below it the 95 % interval over patients and seeds, and the SD over seeds."
    )
    columns = [Column("entry", number=False), *(Column(NAMES[name], hints) for name in names)]
    rows = []
    for label in study.entries:
        row = study.row(label)
        seeds = int(row["n_seeds"])
        cells = [_with_interval(row, name) for name in names]
        rows.append(Row([_entry(study, label, f"{seeds} seed{'s' if seeds != 1 else ''}"), *cells], roles[label]))
    return Table(f"Metrics of the test part, sorted by {NAMES[study.metric]}", columns, rows)


def labels_table(study: ClassifierStudy, roles: Mapping[str, str]) -> Table:
    """What the labels of each entry with a curve were worth."""
    base = study.work.titles[study.baseline]
    columns = [
        Column("entry", number=False),
        Column("labels", "Labels spent in all."),
        Column("area", "Area under the curve over the labels: the mean metric on the way, with its 95 % interval."),
        Column("labels needed", f"Labels for the metric with which {base} ends; a dash where it is not reached."),
        Column("labels saved", f"Share of the labels that {base} needs for it, with its 95 % interval over seeds."),
    ]
    rows = []
    for label in study.active:
        row = study.row(label)
        saved = _known(row, "labels_saved")
        cells = [
            Cell(number(_known(row, "labels"), 0)),
            Cell(number(_known(row, "area")), _between(row, "area")),
            Cell(number(_known(row, "labels_needed"), 0)),
            Cell("–" if math.isnan(saved) else f"{number(100 * saved, 0)} %", _between_saved(row)),
        ]
        rows.append(Row([_entry(study, label), *cells], roles[label]))
    return Table(f"What labels were worth, {NAMES[study.metric]} on the test part", columns, rows)


def pairs_table(study: ClassifierStudy, roles: Mapping[str, str]) -> Table | None:
    """Each entry against the baseline; None where there is no other."""
    if study.pairwise.empty:
        return None
    columns = [
        Column("entry", number=False),
        Column("patients", "Test patients that both have."),
        Column("difference", "Mean difference of the patients' accuracies, entry minus baseline."),
        Column("p", "Wilcoxon's signed-rank test over patients, each the mean of its seeds."),
        Column("p (Holm)", "The same, corrected for all comparisons of the table; bold below 0.05."),
        Column("effect", "Matched-pairs rank-biserial correlation, -1 to 1."),
    ]
    rows = []
    for row in study.pairwise.to_dict("records"):
        cells = [
            Cell(str(int(row["n_patients"]))),
            Cell(number(row["difference"], sign=True)),
            Cell(p_value(row["p"])),
            Cell(p_value(row["p_holm"]), strong=row["p_holm"] < LEVEL),
            Cell(number(row["rank_biserial"], 2, sign=True)),
        ]
        rows.append(Row([_entry(study, row["entry"]), *cells], roles[row["entry"]]))
    base = study.work.titles[study.baseline]
    return Table(f"Accuracy by patient, against {base}", columns, rows)


def paper_table(paper: Paper, study: ClassifierStudy) -> Table:
    """The paper's metrics beside ours."""
    columns = [Column("method", number=False), Column(paper.citation), Column("ours")]
    rows = [
        Row([Cell(row.name), Cell(row.value), Cell(value, between)])
        for row, value, between in beside_paper(paper, study.summary)
    ]
    return Table(f"Beside {paper.citation}: {paper.what}", columns, rows)


def run_table(evaluations: Sequence[tuple[str, Evaluation]], caption: str) -> Table:
    """Metrics of runs, by slice and by patient."""
    columns = [Column("run", number=False), *(Column(title) for title in RUN_METRICS.values())]
    rows = []
    for name, one in evaluations:
        for level in LEVELS:
            if level in one.content["metrics"]:
                count = one.content.get(LEVEL_NAMES[level], "")
                cells = [_metric(one.metric(level, metric)) for metric in RUN_METRICS]
                rows.append(Row([Cell(name, f"by {level}, {count} {LEVEL_NAMES[level]}"), *cells]))
    return Table(f"{caption}; in small print the 95 % interval over patients", columns, rows)


def classes_table(evaluation: Evaluation, caption: str) -> Table:
    """Metrics of each class, by slice."""
    columns = [Column("class", number=False), *(Column(title) for title in CLASS_METRICS.values())]
    rows = []
    for name in evaluation.classes:
        cells = [_metric(evaluation.metric("slice", f"{metric}/{name}"), metric) for metric in CLASS_METRICS]
        rows.append(Row([Cell(name), *cells]))
    return Table(caption, columns, rows)


def entry_classes_table(study: ClassifierStudy, evaluations: Mapping[str, Sequence[Evaluation]]) -> Table:
    """Recall of each class, and precision in small print, means over the seeds of each entry."""
    classes = list(dict.fromkeys(name for ones in evaluations.values() for one in ones for name in one.classes))
    columns = [Column("entry", number=False), *(Column(name) for name in classes)]
    rows = []
    for label, ones in evaluations.items():
        cells = []
        for name in classes:
            recall, precision = (_mean(ones, f"{metric}/{name}") for metric in ("recall", "precision"))
            cells.append(Cell(number(recall), f"precision {number(precision)}"))
        rows.append(Row([_entry(study, label), *cells]))
    return Table("Recall of each class by slice, mean over seeds; in small print its precision", columns, rows)


def _entry(study: ClassifierStudy, label: str, small: str = "") -> Cell:
    return Cell(study.work.titles[label], small)


def _mean(evaluations: Sequence[Evaluation], name: str) -> float:
    values = [value for one in evaluations if (value := one.metric("slice", name).get("value")) is not None]
    return sum(values) / len(values) if values else math.nan


def _with_interval(row: Mapping[str, Any], name: str) -> Cell:
    lines = [_between(row, name)]
    deviation = row[f"{name}_sd_seeds"]
    if not math.isnan(deviation):
        lines.append(f"SD {number(deviation)}")
    return Cell(number(row[name]), "\n".join(filter(None, lines)))


def _metric(values: Mapping[str, float | None], metric: str = "") -> Cell:
    value, low, high = (values.get(part) for part in ("value", "low", "high"))
    if value is None:
        return Cell("–")
    if metric == "support":
        return Cell(f"{value:.0f}")
    return Cell(number(value), f"{number(low)} to {number(high)}" if low is not None and high is not None else "")


def _known(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name, math.nan)
    return float(value)


def _between(row: Mapping[str, Any], name: str) -> str:
    low, high = _known(row, f"{name}_low"), _known(row, f"{name}_high")
    return "" if math.isnan(low) else f"{number(low)} to {number(high)}"


def _between_saved(row: Mapping[str, Any]) -> str:
    """Resamples that never reach the metric save nothing at all."""
    ends = (_known(row, "labels_saved_low"), _known(row, "labels_saved_high"))
    if any(map(math.isnan, ends)):
        return ""
    if all(map(math.isinf, ends)):
        return "not reached"
    return " to ".join("not reached" if math.isinf(end) else f"{number(100 * end, 0)} %" for end in ends)
