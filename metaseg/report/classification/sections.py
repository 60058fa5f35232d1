"""The sections on a comparison of classifiers.

The sections on single runs of classifiers.

The page on slice classifiers: its sections, findings and lead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from metaseg.classify.rounds import CURVE_NAME, read_curve, read_rounds
from metaseg.errors import MetasegError
from metaseg.metrics.classification import confusion_counts, patient_probabilities, predicted_classes
from metaseg.report.blocks import (
    LEVEL,
    Block,
    Cell,
    Chart,
    Charts,
    Column,
    Details,
    Facts,
    Heading,
    Note,
    Page,
    Row,
    Section,
    Table,
    number,
    p_value,
)
from metaseg.report.chart_style import FigureSink, file_name
from metaseg.report.charts import training_figure
from metaseg.report.classification import charts, tables
from metaseg.report.classification.charts import SliceAlbum, chosen_blocks, grad_cam_blocks, mistake_blocks
from metaseg.report.classification.inputs import (
    EVALUATION,
    TEST,
    ClassifierInputs,
    ClassifierStudy,
    Evaluation,
    evaluation_of,
)
from metaseg.report.inputs import ReportRun
from metaseg.report.provenance import provenance_section
from metaseg.runs.logs import read_curves
from metaseg.studies.classifiers.tables import NAMES, NOTE, PAPERS, Predictions, label_bands

PARTS = {"test": "test part", "pool": "rest of the pool", "val": "validation part"}


def metrics_section(runs: Sequence[ReportRun]) -> Section:
    """Metrics of the test parts, of later evaluations, and of each class."""
    blocks: list[Block] = []
    found = [(run.method, one) for run in runs if (one := evaluation_of(run, TEST))]
    if found:
        blocks.append(tables.run_table(found, "Metrics of the test part"))
    later = [(run.method, one) for run in runs if (one := evaluation_of(run, EVALUATION))]
    if later:
        blocks.append(tables.run_table(later, "Metrics of 'metaseg classify evaluate'"))
    for name, one in found:
        blocks.append(tables.classes_table(one, f"{name}: each class on the test part, by slice"))
    without = [run.method for run in runs if not evaluation_of(run, TEST)]
    if without:
        blocks.append(Note(f"Not tested, or not yet: {', '.join(without)}.", "quiet"))
    return Section("metrics", "Metrics", blocks)


def curves_section(runs: Sequence[ReportRun], sink: FigureSink) -> Section:
    """Loss and validation of trainings, metrics over labels of active learning."""
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
        (validated, "metric on the validation part", "Validation part"),
    ):
        if chosen:
            figure = training_figure(chosen, ylabel, title)
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
            if "patient" in one.content["metrics"]:
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
    name, titles = NAMES[study.metric], study.work.titles
    shown = {titles[label]: roles[label] for label in study.active}
    figure = charts.label_curves_figure(
        label_bands(study.curves, study.metric, titles), shown, name, f"{name} on the test part"
    )
    caption = f"{name} on the test part against labels: mean over seeds, bands of one standard error."
    blocks: list[Block] = [Charts([sink.chart(figure, caption, "label-curves", name)], large=True)]
    if "other" in shown.values():
        blocks.append(Note("Entries in grey have their intervals in the table.", "quiet"))
    table = tables.labels_table(study, roles)
    return Section("labels", "What labels were worth", [*blocks, table, _reading_help([table])])


def study_metrics_section(study: ClassifierStudy, roles: Mapping[str, str], sink: FigureSink) -> Section:
    """Final metrics with intervals, and tests against the baseline."""
    name = NAMES[study.metric]
    rows = []
    for label in study.entries:
        row = study.row(label)
        value, low, high = (float(row[study.metric + end]) for end in ("", "_low", "_high"))
        rows.append((study.work.titles[label], value, low, high, roles[label]))
    figure = charts.interval_figure(rows, f"{name}, test part", "With all labels spent")
    caption = f"{name} on the test part, 95 % intervals over patients and seeds."
    blocks: list[Block] = [
        Charts([sink.chart(figure, caption, "metrics", name)]),
        tables.metrics_table(study, roles),
    ]
    pairs = tables.pairs_table(study, roles)
    if pairs is not None:
        blocks.append(pairs)
    blocks.append(_reading_help([block for block in blocks if isinstance(block, Table)]))
    return Section("metrics", "Final metrics", blocks)


def _reading_help(shown: Sequence[Table]) -> Details:
    """What the columns mean, for readers that cannot hover."""
    hints = {column.title: column.hint for table in shown for column in table.columns if column.hint}
    rows = [Row([Cell(title), Cell(hint)]) for title, hint in hints.items()]
    columns = [Column("column", number=False), Column("meaning", number=False)]
    return Details("How to read these tables", [Table("Columns", columns, rows)])


def paper_section(study: ClassifierStudy) -> Section:
    """The paper's metrics beside ours; nothing where the study names none."""
    name = study.work.study.paper
    blocks: list[Block] = [] if name is None else [tables.paper_table(PAPERS[name], study), Note(NOTE, "quiet")]
    return Section("paper", "Beside the paper", blocks)


def classes_section(inputs: ClassifierInputs, study: ClassifierStudy, sink: FigureSink) -> Section:
    """Metrics of each class, and confusion matrices summed over seeds."""
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


def study_chosen_section(
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
    """What the metrics say, in a few sentences; no difference is claimed that its test does not carry."""
    titles, name = study.work.titles, NAMES[study.metric]
    best = study.entries[0]
    row = study.row(best)
    told = f"Of {len(study.entries)} entries, {titles[best]} has the highest {name} on the test part, "
    told = told if len(study.entries) > 1 else f"{titles[best]} has {name} on the test part of "
    told += number(row[study.metric])
    if not math.isnan(row[f"{study.metric}_low"]):
        told += f" (95 % CI {number(row[f'{study.metric}_low'])} to {number(row[f'{study.metric}_high'])})"
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
    saved = f"{titles[best]} reaches the metric with which {titles[study.baseline]} ends with "
    saved += f"{number(100 * (1 - row['labels_saved']), 0)} % of the labels that {titles[study.baseline]} needs for it"
    if math.isnan(low) or low <= 0 or not math.isfinite(high):
        return [saved + "; over seeds it is not shown that any are saved."]
    return [saved + f" (95 % CI of what is saved {number(100 * low, 0)} to {number(100 * high, 0)} %)."]


PATIENT_PARTS = {"train": "training", "val": "validation", "test": "test", "inherited": "of earlier weights"}


def classification_page(inputs: ClassifierInputs, sink: FigureSink, *, worst: int) -> Page:
    """Build the page.

    Args:
        inputs: What was read.
        sink: Takes the metrics.
        worst: Worst mistakes to show; 0 shows none.
    """
    study = inputs.study
    sections = _run_sections(inputs, sink, worst) if study is None else _study_sections(inputs, study, sink, worst)
    sections.append(
        provenance_section(inputs.runs, inputs.settings if study else None, PATIENT_PARTS, "entry at its first seed")
    )
    return Page(
        title=f"Report on {inputs.name}",
        lead=_lead(inputs),
        findings=_findings(inputs),
        notes=inputs.notes,
        sections=[section for section in sections if section.blocks],
        synthetic=inputs.synthetic,
    )


def _study_sections(inputs: ClassifierInputs, study: ClassifierStudy, sink: FigureSink, worst: int) -> list[Section]:
    roles, album = entry_roles(study), SliceAlbum()
    return [
        labels_section(study, roles, sink),
        study_metrics_section(study, roles, sink),
        paper_section(study),
        classes_section(inputs, study, sink),
        study_chosen_section(inputs, study, sink, album, worst > 0),
    ]


def _run_sections(inputs: ClassifierInputs, sink: FigureSink, worst: int) -> list[Section]:
    album = SliceAlbum()
    return [
        metrics_section(inputs.runs),
        curves_section(inputs.runs, sink),
        confusion_section(inputs.runs, sink),
        mistakes_section(inputs.runs, worst, album),
        chosen_section(inputs.runs, album) if worst else Section("chosen", "", []),
    ]


def _findings(inputs: ClassifierInputs) -> list[str]:
    if inputs.study is not None:
        return study_findings(inputs.study)
    told = []
    for run in inputs.runs:
        one = evaluation_of(run, TEST)
        if one is not None:
            auc = one.metric("slice", "auc_macro")
            value, low, high = (auc.get(part) for part in ("value", "low", "high"))
            text = f"{run.method}: AUC {number(value)}" if value is not None else f"{run.method}: AUC not known"
            if low is not None and high is not None:
                text += f" (95 % CI over patients {number(low)} to {number(high)})"
            accuracy = one.metric("slice", "accuracy").get("value")
            text += f", accuracy {number(accuracy)}" if accuracy is not None else ""
            counts = f"{one.content.get('slices', '?')} slices of {one.content.get('patients', '?')} patients"
            told.append(f"{text} on the {counts} of its test part.")
    return told


def _lead(inputs: ClassifierInputs) -> str:
    study = inputs.study
    if study is None:
        what = "A slice classifier" if len(inputs.runs) == 1 else f"{len(inputs.runs)} slice classifiers"
        classes = _classes(inputs)
        return f"{what} of {', '.join(classes)}." if classes else f"{what}."
    different = {one.classes for one in study.predictions.values()}
    of_classes = f" of {', '.join(next(iter(different)))}" if len(different) == 1 else ""
    seeds = len(study.work.study.seeds)
    return (
        f"A comparison of {len(study.work.entries)} slice classifiers{of_classes} over {seeds} "
        f"seed{'s' if seeds != 1 else ''}, {len(inputs.runs)} runs; metrics are of test patients, by slice."
    )


def _classes(inputs: ClassifierInputs) -> tuple[str, ...]:
    found = [one.classes for run in inputs.runs if (one := evaluation_of(run, TEST))]
    return found[0] if found and len(set(found)) == 1 else ()
