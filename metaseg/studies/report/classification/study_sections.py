"""The sections on a comparison of classifiers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from metaseg.classify.curve import read_curve
from metaseg.classify.rounds import read_rounds
from metaseg.errors import MetasegError
from metaseg.evaluation.classification import confusion_counts, predicted_classes
from metaseg.studies.classifiers.paper import NOTE, PAPERS
from metaseg.studies.classifiers.plots import NAMES, curve_band
from metaseg.studies.report.blocks import (
    Block,
    Cell,
    Charts,
    Column,
    Details,
    Note,
    Row,
    Section,
    Table,
)
from metaseg.studies.report.classification import charts, tables
from metaseg.studies.report.classification.inputs import TEST, ClassifierInputs, ClassifierStudy, evaluation_of
from metaseg.studies.report.classification.pictures import SliceAlbum, chosen_blocks
from metaseg.studies.report.figure_sink import FigureSink
from metaseg.studies.report.numbers import LEVEL, number, p_value
from metaseg.studies.report.runs import ReportRun

FREE = ("active", "passive", "extra")
"""Colours of the best entries besides the baseline and the very best, those with a curve first."""
OPEN_CONFUSIONS = 4
"""Confusion matrices that are shown at once; of more, all are folded away."""


def entry_roles(study: ClassifierStudy) -> dict[str, str]:
    """The colour of each entry: the baseline's, the best one's, and a few more; grey for the rest."""
    roles = dict.fromkeys(study.entries, "other")
    best = study.entries[0]
    roles[best] = "best"
    if study.baseline in roles:
        roles[study.baseline] = "naive"
    left = [label for label in dict.fromkeys([*study.active, *study.entries]) if roles[label] == "other"]
    return roles | dict(zip(left, FREE, strict=False))


def labels_section(study: ClassifierStudy, roles: Mapping[str, str], sink: FigureSink) -> Section:
    """Curves over labels and what the labels were worth; nothing without active learning."""
    if not study.active:
        return Section("labels", "", [])
    name, titles = NAMES[study.figure], study.work.titles
    rows = []
    for label in study.active:
        mean, error = curve_band(study.curves, label, study.figure)
        for step in mean.index:
            ends = {"low": mean[step] - error[step], "high": mean[step] + error[step]}
            rows.append({"method": titles[label], "step": step, "mean": mean[step], **ends})
    shown = {titles[label]: roles[label] for label in study.active}
    figure = charts.label_curves_figure(pd.DataFrame(rows), shown, name, f"{name} on the test part")
    caption = f"{name} on the test part against labels: mean over seeds, bands of one standard error."
    blocks: list[Block] = [Charts([sink.chart(figure, caption, "label-curves", name)], large=True)]
    if "other" in shown.values():
        blocks.append(Note("Entries in grey have their intervals in the table.", "quiet"))
    table = tables.labels_table(study, roles)
    return Section("labels", "What labels were worth", [*blocks, table, _reading_help([table])])


def figures_section(study: ClassifierStudy, roles: Mapping[str, str], sink: FigureSink) -> Section:
    """Final figures with intervals, and tests against the baseline."""
    name = NAMES[study.figure]
    rows = []
    for label in study.entries:
        row = study.row(label)
        value, low, high = (float(row[study.figure + end]) for end in ("", "_low", "_high"))
        rows.append((study.work.titles[label], value, low, high, roles[label]))
    figure = charts.interval_figure(rows, f"{name}, test part", "With all labels spent")
    caption = f"{name} on the test part, 95 % intervals over patients and seeds."
    blocks: list[Block] = [
        Charts([sink.chart(figure, caption, "figures", name)]),
        tables.figures_table(study, roles),
    ]
    pairs = tables.pairs_table(study, roles)
    if pairs is not None:
        blocks.append(pairs)
    blocks.append(_reading_help([block for block in blocks if isinstance(block, Table)]))
    return Section("figures", "Final figures", blocks)


def _reading_help(shown: Sequence[Table]) -> Details:
    """What the columns mean, for readers that cannot hover."""
    hints = {column.title: column.hint for table in shown for column in table.columns if column.hint}
    rows = [Row([Cell(title), Cell(hint)]) for title, hint in hints.items()]
    columns = [Column("column", number=False), Column("meaning", number=False)]
    return Details("How to read these tables", [Table("Columns", columns, rows)])


def paper_section(study: ClassifierStudy) -> Section:
    """The paper's figures beside ours; nothing where the study names none."""
    name = study.work.study.paper
    blocks: list[Block] = [] if name is None else [tables.paper_table(PAPERS[name], study), Note(NOTE, "quiet")]
    return Section("paper", "Beside the paper", blocks)


def classes_section(inputs: ClassifierInputs, study: ClassifierStudy, sink: FigureSink) -> Section:
    """Figures of each class, and confusion matrices summed over seeds."""
    titles = study.work.titles
    evaluations = {
        label: [one for run in inputs.runs if run.method == titles[label] and (one := evaluation_of(run, TEST))]
        for label in study.entries
    }
    drawn = []
    for label in study.entries:
        found = [one for cell, one in study.predictions.items() if cell.label == label]
        classes = found[0].classes
        counts = sum(
            (confusion_counts(predicted_classes(one.probabilities), one.labels, len(classes)) for one in found),
            np.zeros((len(classes), len(classes)), dtype=np.int64),
        )
        figure = charts.confusion_figure(counts, classes, charts.wrapped(titles[label], 30))
        caption = f"{titles[label]}: test slices of all seeds, and the share of their true class."
        drawn.append(sink.chart(figure, caption, f"confusion-{label}", titles[label]))
    confusions: Block = Charts(drawn)
    if len(drawn) > OPEN_CONFUSIONS:
        confusions = Details("Confusion matrices", [confusions])
    return Section("classes", "Class by class", [tables.entry_classes_table(study, evaluations), confusions])


def chosen_section(
    inputs: ClassifierInputs, study: ClassifierStudy, sink: FigureSink, album: SliceAlbum, pictures: bool
) -> Section:
    """The classes of what was chosen, and the slices that each entry chose first and last."""
    counted: dict[str, list[dict[str, float]]] = {}
    for label in study.active:
        runs = [run for run in inputs.runs if run.method == study.work.titles[label]]
        counted[label] = [share for run in runs if (share := chosen_shares(run)) is not None]
    # Entries may be of different data, with classes of their own.
    classes = list(dict.fromkeys(name for ones in counted.values() for one in ones for name in one))
    shares = [
        (study.work.titles[label], [float(np.mean([one.get(name, 0.0) for one in ones])) for name in classes])
        for label, ones in counted.items()
        if ones
    ]
    if not shares:
        return Section("chosen", "", [])
    figure = charts.shares_figure(shares, classes, "Classes of the labelled slices")
    caption = "Class shares of what was chosen over all rounds, mean over seeds."
    blocks: list[Block] = [Charts([sink.chart(figure, caption, "class-shares", "Class shares")])]
    if pictures:
        for label in study.active:
            run = next(run for run in inputs.runs if run.method == study.work.titles[label])
            inside = chosen_blocks(run, album)
            if inside:
                blocks.append(Details(f"{run.method}, seed {run.seed}: first and last choices", inside))
    return Section("chosen", "What was chosen", blocks)


def chosen_shares(run: ReportRun) -> dict[str, float] | None:
    """Class shares of all that a run of active learning chose; None if nothing is known."""
    curve = run.path / "curve.csv"
    try:
        labels = [label for one in read_rounds(run.path) for label in one.labels]
        names = [name.removeprefix("chosen_") for name in read_curve(curve) if name.startswith("chosen_")]
    except MetasegError:
        return None
    return {name: labels.count(place) / len(labels) for place, name in enumerate(names)} if labels else None


def study_findings(study: ClassifierStudy) -> list[str]:
    """What the figures say, in a few sentences; no difference is claimed that its test does not carry."""
    titles, name = study.work.titles, NAMES[study.figure]
    best = study.entries[0]
    row = study.row(best)
    told = f"Of {len(study.entries)} entries, {titles[best]} has the highest {name} on the test part, "
    told = told if len(study.entries) > 1 else f"{titles[best]} has {name} on the test part of "
    told += number(row[study.figure])
    if not math.isnan(row[f"{study.figure}_low"]):
        told += f" (95 % CI {number(row[f'{study.figure}_low'])} to {number(row[f'{study.figure}_high'])})"
    told += "."
    tests = study.pairwise[study.pairwise["entry"] == best] if len(study.pairwise) else study.pairwise
    if len(tests):
        test = tests.iloc[0]
        against = f" Against {titles[study.baseline]}, its accuracy by patient "
        if math.isnan(test["p_holm"]):
            told += against + "was not tested (too few patients)."
        elif test["p_holm"] < LEVEL:
            word = "higher" if test["difference"] > 0 else "lower"
            told += against + f"is {word} by {number(abs(test['difference']))} ({_p(test['p_holm'])}, Holm)."
        else:
            told += against + f"is not shown to differ ({_p(test['p_holm'])}, Holm)."
    return [told, *_saving(study)]


def _p(value: float) -> str:
    text = p_value(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _saving(study: ClassifierStudy) -> Sequence[str]:
    titles = study.work.titles
    rows = [(label, study.row(label)) for label in study.active]
    known = [(label, row) for label, row in rows if not math.isnan(row.get("labels_saved", math.nan))]
    if not known:
        return []
    best, row = max(known, key=lambda pair: pair[1]["labels_saved"])
    low, high = row["labels_saved_low"], row["labels_saved_high"]
    saved = f"{titles[best]} reaches the figure with which {titles[study.baseline]} ends with "
    saved += f"{number(100 * (1 - row['labels_saved']), 0)} % of the labels that {titles[study.baseline]} needs for it"
    if math.isnan(low) or low <= 0 or not math.isfinite(high):
        return [saved + "; over seeds it is not shown that any are saved."]
    return [saved + f" (95 % CI of what is saved {number(100 * low, 0)} to {number(100 * high, 0)} %)."]
