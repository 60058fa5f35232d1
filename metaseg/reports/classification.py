"""The report on slice classifiers: its sections, tables and findings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from metaseg.cases.labels import WHOLE_LESION
from metaseg.classify.data import open_slices
from metaseg.classify.evaluate import run_config
from metaseg.classify.fitting import NAMES
from metaseg.classify.rounds import CURVE_NAME, PARTS, read_curve, read_rounds
from metaseg.classify.slices import ClassifiedSlices
from metaseg.config.classification import SliceOptions
from metaseg.errors import MetasegError
from metaseg.files import FileKind, read_frame
from metaseg.inference.classification_files import PREDICTIONS
from metaseg.metrics.classification import confusion_counts
from metaseg.metrics.probabilities import predicted_classes
from metaseg.metrics.statistics import FEWEST_SEEDS
from metaseg.pictures import charts
from metaseg.pictures.charts import new_figure
from metaseg.reports.blocks import (
    LEVEL,
    Block,
    Chart,
    Charts,
    Content,
    Details,
    Facts,
    Heading,
    Note,
    Panel,
    Pictures,
    Section,
    Table,
    TableColumn,
    Values,
    below,
    columns_table,
    deviation,
    explained,
    interval,
    number,
    p_value,
    plural,
    signed,
    significant,
    text_column,
    verdict,
    whole,
    whole_percent,
    with_interval,
)
from metaseg.reports.classification_inputs import (
    EVALUATION,
    TEST,
    ClassifierInputs,
    ClassifierStudy,
    Evaluation,
    evaluation_of,
    of_patients,
)
from metaseg.reports.figures import FigureSink, file_name
from metaseg.reports.inputs import Reopener, ReportRun
from metaseg.reports.overlays import SlicePainter, data_address
from metaseg.runs.logs import read_curves
from metaseg.sampling import PATTERNS
from metaseg.studies.classifiers.classes import by_entry, class_table, pooled_confusion
from metaseg.studies.classifiers.draws import draw_charts, uncertainty_chart
from metaseg.studies.classifiers.references import worth_text
from metaseg.studies.classifiers.selection import CANDIDATES, class_shares, pattern_table, selection_charts
from metaseg.studies.classifiers.tables import Predictions, highest_entry, label_bands
from metaseg.studies.classifiers.trials import FOUND
from metaseg.studies.papers import NOTE, SYNTHETIC, beside_paper, papers
from metaseg.studies.tables import intervals_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FREE = ("active", "passive", "extra")
"""Colours of the best entries besides the baseline and the very best, those with a curve first."""
OPEN_CONFUSIONS = 4
"""Confusion matrices that are shown at once; of more, all are folded away."""
SMALL, LARGE, SHOWN = 112, 200, 8
"""Longer side of a thumbnail and of a picture in pixels, and how many thumbnails of a round are shown."""
GRAD_CAMS, GRAD_CAM_WIDTH = 12, 560
BINS = 10
"""Bins of a reliability diagram."""
SETTINGS = ("given", "found")
RUN_METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "macro F1",
    "auc_macro": "macro AUC",
    "average_precision_macro": "macro average precision",
    "ece": "ECE",
    "brier": "Brier score",
}
LOW_IS_BEST = ("ece", "brier")
CLASS_METRICS = {"recall": "recall", "precision": "precision", "f1": "F1", "auc": "AUC"}


def classification_content(inputs: ClassifierInputs, sink: FigureSink, *, worst: int) -> Content:
    """Build the sections.

    Args:
        inputs: What was read.
        sink: Takes the figures.
        worst: Worst mistakes to show; 0 shows no pictures of slices.
    """
    reopener, runs, study = Reopener(), inputs.runs, inputs.study
    if study is None:
        sections = [
            _run_metrics_section(runs),
            _curves_section(runs, sink),
            _confusion_section(runs, sink),
            _of_runs("mistakes", "Mistakes, and where it looked", runs, partial(_mistakes, worst, reopener)),
            _of_runs("chosen", "What was chosen", runs if worst else (), partial(_chosen_blocks, reopener)),
        ]
        return Content(_runs_lead(runs), _run_findings(runs), sections)
    roles = _entry_roles(study)
    sections = [
        _labels_section(study, roles, sink),
        _study_metrics_section(study, roles, sink),
        _draws_section(inputs, study, sink),
        _paper_section(study, inputs.synthetic),
        _classes_section(study, sink),
        _search_section(study),
        _chosen_section(inputs, study, sink, reopener, worst > 0),
    ]
    return Content(_study_lead(study, len(runs)), _study_findings(study), sections)


# Single runs.


def _runs_lead(runs: Sequence[ReportRun]) -> str:
    what = "A slice classifier" if len(runs) == 1 else f"{len(runs)} slice classifiers"
    classes = {tested.predictions.classes for run in runs if (tested := evaluation_of(run, TEST))}
    return f"{what} of {', '.join(classes.pop())}." if len(classes) == 1 else f"{what}."


def _run_findings(runs: Sequence[ReportRun]) -> list[str]:
    told = []
    for run in runs:
        tested = evaluation_of(run, TEST)
        if tested is not None:
            level = tested.levels[0]
            unit = "pictures" if tested.predictions.pictures else "patients"
            of = f"the {tested.content.get('patients', '?')} {unit} of its test part"
            over = "" if level == "patient" else f", by slice with intervals over {unit}"
            told.append(f"{run.method}, on {of}{over}: {_auc_and_accuracy(tested.row(level))}.")
    return told


def _auc_and_accuracy(row: Mapping[str, float | None]) -> str:
    accuracy = f", accuracy {number(row['accuracy'])}" if row.get("accuracy") is not None else ""
    if row.get("auc_macro") is None:
        return f"macro AUC not known{accuracy}"
    return f"macro AUC {with_interval(row, 'auc_macro')}{accuracy}"


def _of_runs(
    anchor: str, title: str, runs: Sequence[ReportRun], blocks_of: Callable[[ReportRun], Sequence[Block]]
) -> Section:
    """A section with the blocks of each run, under its name where there are several."""
    blocks: list[Block] = []
    for run in runs:
        inside = blocks_of(run)
        if inside:
            blocks += [*([Heading(run.method)] if len(runs) > 1 else []), *inside]
    return Section(anchor, title, blocks)


def _run_metrics_section(runs: Sequence[ReportRun]) -> Section:
    """Metrics of the test parts, of later evaluations, and of each class."""
    blocks: list[Block] = []
    of_part = {
        part: {run.method: found for run in runs if (found := evaluation_of(run, part))} for part in (TEST, EVALUATION)
    }
    for part, what in ((TEST, "the test part"), (EVALUATION, "'metaseg classify evaluate'")):
        for level in ("patient", "slice"):
            blocks += _run_table(of_part[part], level, f"Metrics of {what} by {level}")
    tested = of_part[TEST]
    for name, found in tested.items():
        frame = pd.DataFrame([{"class": label, **found.row("slice", label)} for label in found.predictions.classes])
        columns = [TableColumn(metric, title, small=(interval,)) for metric, title in CLASS_METRICS.items()]
        caption = f"{name}: each class on the test part, by slice"
        blocks.append(
            Table(
                caption, frame, [text_column("class", "class"), *columns, TableColumn("support", "slices", write=whole)]
            )
        )
    without = [run.method for run in runs if run.method not in tested]
    if without:
        blocks.append(Note(f"Not tested, or not yet: {', '.join(without)}.", "quiet"))
    return Section("metrics", "Metrics", blocks)


def _run_table(evaluations: Mapping[str, Evaluation], level: str, caption: str) -> list[Table]:
    """Metrics of runs on one level; none where no run has it."""
    rows = [
        {"run": name, "run_below": f"{found.content.get(f'{level}s', '')} {level}s", **found.row(level)}
        for name, found in evaluations.items()
        if level in found.levels
    ]
    columns = [
        TableColumn(metric, title, small=(interval,), best="min" if metric in LOW_IS_BEST else "max")
        for metric, title in RUN_METRICS.items()
    ]
    frame = pd.DataFrame(rows, columns=None if rows else ["run", *RUN_METRICS])
    caption += "; in small print the 95 % interval over patients"
    return [Table(caption, frame, [text_column("run", "run", (below,)), *columns])] if rows else []


def _curves_section(runs: Sequence[ReportRun], sink: FigureSink) -> Section:
    """Loss and validation of trainings, metrics over labels of active learning."""

    def blocks_of(run: ReportRun) -> list[Block]:
        drawn = _active_charts(run, sink) if run.verb == "classify-active" else _training_charts(run, sink)
        blocks: list[Block] = [Charts(drawn)] if drawn else []
        strategy = run.manifest.get("strategy")
        if strategy:
            blocks.append(Facts("", [("strategy", f"{strategy}: {run.manifest.get('reason', '')}")]))
        return blocks

    return _of_runs("curves", "How it learned", runs, blocks_of)


def _training_charts(run: ReportRun, sink: FigureSink) -> list[Chart]:
    curves = read_curves(run.path)
    losses = {"training loss": curves["train/loss"]} if "train/loss" in curves else {}
    validated = {
        NAMES.get(name.partition("/")[0], name): curve
        for name, curve in sorted(curves.items())
        if name.endswith("/val")
    }
    return [
        sink.training(run.method, title, chosen, ylabel, file_name(title).lower())
        for chosen, ylabel, title in (
            (losses, "loss", "Training loss"),
            (validated, "metric on the validation part", "Validation part"),
        )
        if chosen
    ]


def _active_charts(run: ReportRun, sink: FigureSink) -> list[Chart]:
    path = run.path / CURVE_NAME
    if not path.exists():
        return []
    table, monitor = read_curve(path), str(run.settings.get("monitor") or "auc")
    name, base = NAMES[monitor], file_name(run.method)
    curves = {
        PARTS.get(str(part), str(part)): (rows["labels"].tolist(), rows[monitor].tolist())
        for part, rows in table.groupby("part", sort=False)
    }
    caption = f"{run.method}: {name} after each round."
    labels = {"xlabel": "labels", "ylabel": name}
    file = f"{base}-labels"
    draw: Callable[[Axes], None] = partial(charts.draw_curves, curves=curves)
    drawn = [sink.draw(draw, (5.2, 3.4), f"{name} against labels", caption, file, run.method, **labels)]
    columns = [column for column in table if column.startswith("chosen_")]
    first = table.drop_duplicates("round")
    if columns and len(first):
        classes = [column.removeprefix("chosen_") for column in columns]
        fractions = first[columns].to_numpy(np.float64)
        draw = partial(charts.draw_fractions, places=first["round"].astype(str), fractions=fractions, classes=classes)
        caption = f"{run.method}: class fractions of each round."
        labels = {"xlabel": "round", "ylabel": "fraction of what was chosen"}
        file = f"{base}-fractions"
        drawn.append(sink.draw(draw, (5.2, 3.4), "Classes of what was chosen", caption, file, run.method, **labels))
    return drawn


def _confusion_section(runs: Sequence[ReportRun], sink: FigureSink) -> Section:
    """Confusion matrices, ROC curves and reliability on the test part, by patient and by slice."""

    def blocks_of(run: ReportRun) -> list[Block]:
        tested = evaluation_of(run, TEST)
        if tested is None:
            return []
        by_slice = Charts(_judged(run, tested.predictions, "slices", sink))
        patients = of_patients(tested.predictions) if "patient" in tested.levels else None
        if patients is None:
            return [by_slice]
        return [Charts(_judged(run, patients, "patients", sink)), Details("By slice", [by_slice])]

    return _of_runs("confusion", "Right and wrong", runs, blocks_of)


def _judged(run: ReportRun, found: Predictions, level: str, sink: FigureSink) -> list[Chart]:
    counts = confusion_counts(predicted_classes(found.probabilities), found.labels, len(found.classes))
    predictions: dict[str, Any] = {"probabilities": found.probabilities, "labels": found.labels}
    drawn: Sequence[tuple[str, tuple[float, float], Callable[[Axes], None], str]] = (
        (
            "Confusion",
            charts.confusion_size(len(found.classes)),
            partial(charts.draw_confusion, counts=counts, classes=found.classes),
            "counts, and fractions of the true class",
        ),
        ("ROC", (4.4, 4.8), partial(charts.draw_roc, classes=found.classes, **predictions), "ROC of each class"),
        (
            "",
            (4.4, 4.6),
            partial(charts.draw_reliability, bins=BINS, **predictions),
            "how often it is right at each confidence; numbers are samples",
        ),
    )
    return [
        sink.draw(
            draw,
            size,
            heading,
            f"{run.method}: {len(found.labels)} test {level}, {text}.",
            f"{file_name(run.method)}-{heading.lower() or 'reliability'}-{level}",
            run.method,
        )
        for heading, size, draw, text in drawn
    ]


# Pictures of slices.


def _panels(run: ReportRun, captions: Mapping[str, tuple[str, ...]], size: int, reopener: Reopener) -> list[Panel]:
    """A picture of each slice that is named.

    Raises:
        MetasegError: The data are gone, or cannot be used.
    """
    slices = _slices(run, reopener)
    places = {name: place for place, name in enumerate(slices.ids)}
    panels = []
    for name, lines in captions.items():
        if name in places:
            case = slices.store.cases[int(slices.owners[places[name]])]
            painter = SlicePainter(case, int(slices.indices[places[name]]), slices.modalities, size)
            alt = f"Slice {name}: {', '.join(filter(None, lines))}"
            panels.append(painter.panel(None, WHOLE_LESION, alt, (*lines, name)))
    return panels


def _slices(run: ReportRun, reopener: Reopener) -> ClassifiedSlices:
    config = run_config(run.path)
    deciding = [str(getattr(config, field.name)) for field in fields(SliceOptions)]
    opened = partial(open_slices, config, annotator=bool(run.settings.get("ask")))
    return reopener.once(repr((deciding, config.seed, config.cache)), opened)


def _no_pictures(error: MetasegError) -> Note:
    return Note(f"No thumbnails: {error.found}{f' ({error.where})' if error.where else ''}.", "warning")


def _mistakes(worst: int, reopener: Reopener, run: ReportRun) -> list[Block]:
    """The worst mistakes, and Grad-CAM pictures where an evaluation made some."""
    tested = evaluation_of(run, TEST)
    blocks = _worst_mistakes(run, tested, worst, reopener) if tested and worst else []
    files = sorted(path for part in (TEST, EVALUATION) for path in (run.path / part / "grad_cam").glob("*.png"))
    if files:
        title = f"Where the classifier looked (Grad-CAM): the worst {min(len(files), GRAD_CAMS)} of the last evaluation"
        blocks.append(Pictures(title, [_grad_cam_panel(path) for path in files[:GRAD_CAMS]], wide=True))
    return blocks


def _worst_mistakes(run: ReportRun, tested: Evaluation, worst: int, reopener: Reopener) -> list[Block]:
    """The slices of the test part whose true class got the least probability."""
    found = tested.predictions
    kind = FileKind("the predictions of an evaluation")
    table = read_frame(tested.folder / PREDICTIONS, kind, ("slice", "patient", "truth", "predicted"))
    table["chance"] = found.probabilities[range(len(table)), found.labels]
    wrong = table[table["truth"] != table["predicted"]].sort_values("chance", kind="stable").head(worst)
    captions = {
        str(row["slice"]): (
            f"{row['truth']}, taken for {row['predicted']}",
            f"{number(row['chance'], 2)} for the truth",
        )
        for row in wrong.to_dict("records")
    }
    try:
        panels = _panels(run, captions, LARGE, reopener) if captions else []
    except MetasegError as error:
        return [_no_pictures(error)]
    return [Pictures("Worst mistakes on the test part", panels)] if panels else []


def _grad_cam_panel(path: Path) -> Panel:
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    width = min(picture.width, GRAD_CAM_WIDTH)
    picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    name = path.stem.partition("-")[2]
    return Panel(data_address(picture), picture.width, picture.height, f"Grad-CAM of {name}", (name,))


def _chosen_blocks(reopener: Reopener, run: ReportRun) -> list[Block]:
    """What active learning chose in its first round and in its last, with scores."""
    if run.verb != "classify-active":
        return []
    try:
        rounds = [done for done in read_rounds(run.path) if done.labels]
        if not rounds:
            return []
        classes = [str(name) for name in run.settings.get("classes") or ()] or _slices(run, reopener).classes
        blocks: list[Block] = []
        for order, chosen in {done.number: done for done in (rounds[0], rounds[-1])}.items():
            scores = [f"score {score:.3g}" if score is not None else "" for score in chosen.scores]
            rows = list(zip(chosen.chosen, chosen.labels, scores, strict=True))[:SHOWN]
            captions = {name: (classes[label], score) for name, label, score in rows}
            title = f"Round {order}: the first {len(rows)} of {len(chosen.chosen)} that were chosen"
            blocks.append(Pictures(title, _panels(run, captions, SMALL, reopener), small=True))
        return blocks
    except MetasegError as error:
        return [_no_pictures(error)]


# Comparisons.


def _study_lead(study: ClassifierStudy, runs: int) -> str:
    different = {found.classes for found in study.predictions.values()}
    of_classes = f" of {', '.join(different.pop())}" if len(different) == 1 else ""
    seeds = plural(len(study.work.study.seeds), "seed")
    return (
        f"A comparison of {len(study.work.entries)} slice classifiers{of_classes} over {seeds}, "
        f"{runs} runs; metrics are of test patients, by patient and by slice."
    )


def _entry_roles(study: ClassifierStudy) -> dict[str, str]:
    """The colour of each entry: the baseline's, the best one's, and a few more; grey for the rest."""
    roles = dict.fromkeys(study.entries, "other") | {study.entries[0]: "best"}
    if study.baseline in roles:
        roles[study.baseline] = "naive"
    left = [label for label in dict.fromkeys([*study.active, *study.entries]) if roles[label] == "other"]
    return roles | dict(zip(left, FREE, strict=False))


def _entry_rows(study: ClassifierStudy, frame: pd.DataFrame, roles: Mapping[str, str]) -> pd.DataFrame:
    """Rows of entries with their titles and colours."""
    return frame.assign(title=frame["entry"].map(study.work.titles), role=frame["entry"].map(roles))


def _seeds(row: Values, name: str) -> str:
    return plural(int(row["n_seeds"]), "seed")


def _reading_help(shown: Sequence[Table]) -> Details:
    """What the columns mean, for readers that cannot hover."""
    columns = columns_table(column for table in shown for column in table.columns)
    note = Note(
        "The best of each column is set in bold, which is no finding by itself: whether it is better than the others "
        "is tested apart. p values below 0.05 are underlined. A dash: not tested, or not known. Intervals over seeds, "
        f"and tests of methods, take at least {FEWEST_SEEDS} seeds."
    )
    return Details("How to read these tables", [note, columns])


def _labels_section(study: ClassifierStudy, roles: Mapping[str, str], sink: FigureSink) -> Section:
    """Curves over labels and what the labels were worth; nothing without active learning."""
    if not study.active:
        return Section("labels", "", [])
    name, titles = NAMES[study.metric], study.work.titles
    shown = {titles[label]: roles[label] for label in study.active}
    size = (5.4, float(np.clip(0.2 * len(shown) + 1.6, 3.6, 8.0)))
    drawn = []
    for part, file in (("test", "label-curves"), ("pool", "pool-curves")):
        bands = label_bands(study.curves, study.metric, titles, part)
        if bands.empty:
            continue
        caption = (
            f"{name} on the {PARTS[part]} against labels: mean over seeds, bands of one standard error (none with "
            f"fewer than {FEWEST_SEEDS} seeds)."
        )
        draw = partial(charts.draw_bands, curves=bands, roles=shown)
        heading = f"{name} on the {PARTS[part]}"
        drawn.append(sink.draw(draw, size, heading, caption, file, name, xlabel="labels", ylabel=name))
    blocks: list[Block] = [Charts(drawn, large=True)]
    if "other" in shown.values():
        blocks.append(Note("Entries in grey have their intervals in the table.", "quiet"))
    table = _labels_table(study, roles)
    blocks += [table, *_references_tables(study, roles), _reading_help([table])]
    return Section("labels", "What labels were worth", blocks)


def _references_tables(study: ClassifierStudy, roles: Mapping[str, str]) -> list[Table]:
    """Labels that entries need for the final metrics of others; nothing without references."""
    titles = study.work.titles
    against = {name: f"_{name}" for name in study.work.references if f"labels_needed_{name}" in study.summary}
    if not against:
        return []
    frame = _entry_rows(study, study.summary[study.summary["entry"].isin(study.active)], roles)
    columns = [text_column("title", "entry")]
    for name, of in {study.baseline: "", **against}.items():
        texts = [worth_text(row, of) for row in frame.to_dict("records")]
        frame = frame.assign(**{f"worth{of}": texts})
        final = study.summary.set_index("entry")[study.metric].get(name)
        columns.append(TableColumn(f"worth{of}", f"{titles[name]} ({number(final)})", write=str))
    caption = "Labels needed for the final metrics of others; in parentheses the percentage saved and its 95 % interval"
    return [Table(caption, frame, columns)]


def _labels_table(study: ClassifierStudy, roles: Mapping[str, str]) -> Table:
    """What the labels of each entry with a curve were worth."""
    base = study.work.titles[study.baseline]
    columns = explained(
        {
            "labels": "Labels spent in all.",
            "area": "Area under the curve over the labels: the mean metric on the way, with its 95 % interval.",
            "labels_needed": f"Labels for the metric with which {base} ends; a dash where it is not reached.",
            "labels_saved": f"Fraction of the labels that {base} needs for it, with its 95 % interval over seeds.",
        },
        text_column("title", "entry"),
        TableColumn("labels", "labels", write=whole),
        TableColumn("area", "area", small=(interval,), best="max"),
        TableColumn("labels_needed", "labels needed", write=whole, best="min"),
        TableColumn("labels_saved", "labels saved", write=whole_percent, small=(_between_saved,), best="max"),
    )
    rows = _entry_rows(study, study.summary[study.summary["entry"].isin(study.active)], roles)
    return Table(f"What labels were worth, {NAMES[study.metric]} on the test part", rows, columns)


def _between_saved(row: Values, name: str) -> str:
    """Resamples that never reach the metric save nothing at all."""
    ends = (row.get("labels_saved_low", math.nan), row.get("labels_saved_high", math.nan))
    if any(map(math.isnan, ends)):
        return ""
    if all(map(math.isinf, ends)):
        return "not reached"
    return " to ".join("not reached" if math.isinf(end) else whole_percent(end) for end in ends)


def _study_metrics_section(study: ClassifierStudy, roles: Mapping[str, str], sink: FigureSink) -> Section:
    """Final metrics with intervals, by patient and by slice, and tests against the baseline."""
    name, metric = NAMES[study.metric], study.metric
    levels = [("patient", study.patients), ("slice", study.summary)]
    drawn = []
    for level, found in levels:
        if len(found):
            frame = _entry_rows(study, found, roles)
            values = frame[["title", metric, f"{metric}_low", f"{metric}_high", "role"]]
            draw = partial(charts.draw_intervals, rows=list(values.itertuples(index=False, name=None)))
            caption = f"{name} on the test part by {level}, {intervals_text(found)}."
            size, xlabel = (5.0, 1.1 + 0.36 * len(frame)), f"{name} by {level}, test part"
            file = "metrics" if level == "slice" else "metrics-patients"
            drawn.append(sink.draw(draw, size, "With all labels spent", caption, file, name, xlabel=xlabel))
    tables = [_entries_table(study, level, _entry_rows(study, found, roles)) for level, found in levels if len(found)]
    if len(study.pairwise):
        tables.append(_pairs_table(study, roles))
    return Section("metrics", "Final metrics", [Charts(drawn), *tables, _reading_help(tables)])


def _entries_table(study: ClassifierStudy, level: str, frame: pd.DataFrame) -> Table:
    """Final metrics of all entries on the test part, the best first."""
    names = [study.metric, *(name for name in NAMES if name != study.metric)]
    hint = f"Mean over seeds on the test part; below it the {intervals_text(frame)}, and the SD over seeds."
    # The column of each deviation is called as deviation() expects it.
    frame = frame.rename(columns={f"{name}_sd_seeds": f"{name}_sd" for name in names})
    columns = [TableColumn(name, NAMES[name], hint, small=(interval, deviation), best="max") for name in names]
    caption = f"Metrics of the test part by {level}, sorted by {NAMES[study.metric]}"
    against = TableColumn(
        f"{study.metric}_p_best",
        "p against the highest",
        f"{NAMES[study.metric]} against the highest of all entries: Student's t with the variance over patients and "
        "over seeds, corrected after Holm for all pairs.",
        p_value,
        marked=significant,
    )
    columns = columns if frame[against.name].isna().all() else [columns[0], against, *columns[1:]]
    return Table(caption, frame, [text_column("title", "entry", (_seeds, _one_class)), *columns])


def _one_class(row: Values, name: str) -> str:
    """How many networks of an entry do not tell the test part apart; empty where all do."""
    return f"one class for all in {row['one_class']}" if row["one_class"] else ""


def _pairs_table(study: ClassifierStudy, roles: Mapping[str, str]) -> Table:
    """Each entry against the baseline."""
    columns = explained(
        {
            "n_patients": "Test patients that both have.",
            "difference": "Mean difference of the patients' accuracies, entry minus baseline.",
            "n_seeds": "Seeds that both have; of fewer than three, the test holds for these networks alone.",
            "p": "Wilcoxon's signed-rank test over patients, each the mean of its seeds.",
            "p_holm": "The same, corrected for all comparisons of the table.",
            "rank_biserial": "Matched-pairs rank-biserial correlation, -1 to 1.",
        },
        text_column("title", "entry"),
        TableColumn("n_patients", f"{study.unit}s", write=whole),
        TableColumn("n_seeds", "seeds", write=whole),
        TableColumn("difference", "difference", write=signed, best="max"),
        TableColumn("p", "p", write=p_value),
        TableColumn("p_holm", "p (Holm)", write=p_value, marked=significant),
        TableColumn("rank_biserial", "effect", write=partial(number, digits=2, sign=True), best="max"),
    )
    caption = f"Accuracy by patient, against {study.work.titles[study.baseline]}"
    return Table(caption, _entry_rows(study, study.pairwise, roles), columns)


def _draws_section(inputs: ClassifierInputs, study: ClassifierStudy, sink: FigureSink) -> Section:
    """Bands of a ranking, sizes of a draw, both parts, and the first uncertainty list; what the study has of them."""
    titled = ((run.path, f"{run.method}, seed {run.seed}") for run in inputs.runs)
    first = next((chart for path, title in titled if (chart := uncertainty_chart(path, title))), None)
    drawn = []
    for chart in (*draw_charts(study.work, study.finals), *([] if first is None else [first])):
        rows, columns = chart.grid
        figure, axes = new_figure(*chart.size, rows, columns, sharey="row")
        chart.draw(axes)
        axes[0].set_title(chart.title if columns == 1 else "")
        drawn.append(sink.chart(figure, chart.caption, chart.name, chart.title if columns > 1 else ""))
    return Section("draws", "Bands, sizes and parts", [Charts(drawn, large=True)] if drawn else [])


def _paper_section(study: ClassifierStudy, synthetic: bool) -> Section:
    """The paper's metrics beside ours; nothing where the study names none."""
    name, blocks = study.work.study.paper, list[Block]()
    if name is not None:
        paper, ours = papers()[name], "ours, SYNTHETIC" if synthetic else "ours"
        rows = [
            (beside.row.name, beside.row.what, beside.row.value, beside.ours, beside.interval)
            for beside in beside_paper(paper, study.summary)
        ]
        frame = pd.DataFrame(rows, columns=["method", "metric", "paper", "ours", "ours_below"])
        columns = [
            text_column("method", "method"),
            text_column("metric", "metric"),
            TableColumn("paper", paper.citation, write=str),
            TableColumn("ours", ours, write=str, small=(below,)),
        ]
        note = Note(SYNTHETIC, "warning") if synthetic else Note(NOTE, "quiet")
        blocks = [Table(f"Beside {paper.citation}", frame, columns), note]
    return Section("paper", "Beside the paper", blocks)


def _classes_section(study: ClassifierStudy, sink: FigureSink) -> Section:
    """Metrics of each class, and confusion matrices summed over seeds."""
    found, titles = by_entry(study.predictions), study.work.titles
    drawn = []
    for label in study.entries:
        names = next(iter(found[label].values())).classes
        draw = partial(charts.draw_confusion, counts=pooled_confusion(found[label]), classes=names)
        caption = f"{titles[label]}: test slices of all seeds, and the fraction of their true class."
        size, heading = charts.confusion_size(len(names)), charts.wrapped(titles[label], 30)
        drawn.append(sink.draw(draw, size, heading, caption, f"confusion-{label}", titles[label]))
    table = class_table({label: found[label] for label in study.entries}, study.work.study.resamples)
    rows = []
    for label, of_entry in table.groupby("entry", sort=False):
        cells = {"title": titles[str(label)]}
        for row in of_entry.to_dict("records"):
            beside = f"precision {number(row['precision'])}, F1 {number(row['f1'])}"
            cells |= {row["class"]: row["recall"], f"{row['class']}_below": beside}
        rows.append(cells)
    classes = list(dict.fromkeys(table["class"]))
    frame = pd.DataFrame(rows).fillna({f"{name}_below": "–" for name in classes})
    columns = [
        text_column("title", "entry"),
        *(TableColumn(name, name, small=(below,), best="max") for name in classes),
    ]
    caption = "Recall of each class by slice, mean over seeds; in small print its precision and F1"
    confusions: Block = Charts(drawn)
    if len(drawn) > OPEN_CONFUSIONS:
        confusions = Details("Confusion matrices", [confusions])
    note = Note("Their intervals are in classes.csv of the study.", "quiet")
    return Section("classes", "Class by class", [Table(caption, frame, columns), note, confusions])


def _search_section(study: ClassifierStudy) -> Section:
    """What the searches of the study found; nothing where none was asked for."""
    path, blocks = study.work.folder / "searches.csv", list[Block]()
    if study.work.spaces and path.exists():
        found = read_frame(path, FileKind("what the searches of a study found"), FOUND)
        for label, rows in found.groupby("entry", sort=False):
            metric, trials, *values = rows.iloc[0][["metric", "trials", "value_found", "value_given"]]
            best, given = (number(float(value)) for value in values)
            title = study.work.titles.get(str(label), str(label))
            caption = f"{title}: best of {trials} trials by {metric}, {best} ({given} as given)"
            columns = [text_column("setting", "setting"), *(TableColumn(name, name, write=str) for name in SETTINGS)]
            blocks.append(Table(caption, rows, columns))
        blocks.append(Note("Trials are judged by the validation part alone; the test part was never opened.", "quiet"))
    return Section("searches", "What the search found", blocks)


def _chosen_section(
    inputs: ClassifierInputs, study: ClassifierStudy, sink: FigureSink, reopener: Reopener, pictures: bool
) -> Section:
    """The classes of what was chosen, and the slices that each entry chose first and last."""
    runs = {label: [run for run in inputs.runs if run.method == study.work.titles[label]] for label in study.active}
    # Entries may be of different data, with classes of their own: the others are no part of what they chose.
    chosen = pd.DataFrame(
        {
            study.work.titles[label]: pd.DataFrame(known).fillna(0.0).mean()
            for label, ones in runs.items()
            if (known := [fractions for run in ones if (fractions := _chosen_fractions(run)) is not None])
        }
    ).fillna(0.0)
    if chosen.empty:
        return Section("chosen", "", [])
    draw = partial(
        charts.draw_fractions,
        places=range(chosen.shape[1]),
        fractions=chosen.to_numpy().T,
        classes=list(chosen.index),
        sizes=0.72,
        names=list(chosen.columns),
    )
    heading, xlabel = "Classes of the labelled slices", "fraction of what was chosen"
    caption = "Class fractions of what was chosen over all rounds, mean over seeds."
    size, file = (5.0, 1.4 + 0.36 * chosen.shape[1]), "class-fractions"
    chart = sink.draw(draw, size, heading, caption, file, "Class fractions", xlabel=xlabel)
    blocks: list[Block] = [Charts([chart])]
    for panels in selection_charts(study.choosing, study.work.titles, study.work.study.pattern_round):
        figure, axes = charts.new_figure(*panels.size, *panels.grid, sharey="row")
        panels.draw(axes)
        file = panels.name.replace("_", "-")
        blocks.append(Charts([sink.chart(figure, panels.caption, file, panels.title)], large=True))
    blocks += _selection_tables(study)
    for first in (ones[0] for ones in runs.values() if pictures):
        inside = _chosen_blocks(reopener, first)
        if inside:
            blocks.append(Details(f"{first.method}, seed {first.seed}: first and last choices", inside))
    return Section("chosen", "What was chosen", blocks)


def _selection_tables(study: ClassifierStudy) -> list[Block]:
    """Classes by round, and patterns over all rounds; means over seeds."""
    titles = study.work.titles
    shares, patterns = class_shares(study.choosing), pattern_table(study.choosing)
    rounds = [str(number) for number in sorted(set(shares["round"]))]
    by_round = shares.pivot_table("fraction", ["entry", "class"], "round", sort=False).set_axis(rounds, axis=1)
    pools = shares.groupby(["entry", "class"], sort=False)["pool_fraction"].mean()
    frame = by_round.assign(pool=pools).reset_index()
    frame["title"] = frame["entry"].map(titles) + ": " + frame["class"]
    columns = [TableColumn(name, name, write=whole_percent) for name in (*rounds, "pool")]
    tables = [Table("Classes of what was chosen, by round", frame, [text_column("title", "entry and class"), *columns])]
    if len(patterns):
        keys = ["entry", "candidates"]
        counted = patterns.pivot_table("fraction", keys, "pattern", sort=False).reset_index()
        counted["title"] = counted["entry"].map(titles) + ": " + counted["candidates"].map(CANDIDATES)
        columns = [TableColumn(name, name, meaning, write=whole_percent) for name, meaning in PATTERNS.items()]
        caption = "Prediction patterns of candidates, mean over rounds and seeds"
        tables.append(Table(caption, counted, [text_column("title", "entry and candidates"), *columns]))
    return [Details("Classes and patterns in numbers", tables)]


def _chosen_fractions(run: ReportRun) -> dict[str, float] | None:
    """Class fractions of all that a run of active learning chose; None if nothing is known."""
    try:
        labels = [label for done in read_rounds(run.path) for label in done.labels]
        names = [name for name in read_curve(run.path / CURVE_NAME) if name.startswith("chosen_")]
    except MetasegError:
        return None
    counts = {name.removeprefix("chosen_"): labels.count(place) for place, name in enumerate(names)}
    return {name: count / len(labels) for name, count in counts.items()} if labels else None


def _study_findings(study: ClassifierStudy) -> list[str]:
    """What the metrics say, in a few sentences; no difference is claimed that its test does not carry."""
    titles, metric = study.work.titles, study.metric
    frame, of = (study.patients, study.unit) if len(study.patients) else (study.summary, "slice")
    best = frame.iloc[0]
    value = f"{NAMES[metric]} {with_interval(best, metric)}"
    highest = highest_entry(frame, titles, metric)
    told = [f"By {of}, of {len(frame)} entries {highest}; {value}." if highest else f"By {of}: {value}."]
    over = f"Intervals are over {best['interval_over']}" if best["interval_over"] else "There is no interval"
    told.append(f"{over}: {plural(best['n_units'], study.unit)} of the test part, {plural(best['n_seeds'], 'seed')}.")
    first = study.entries[0]
    tests = study.pairwise[study.pairwise["entry"] == first] if len(study.pairwise) else study.pairwise
    if len(tests):
        told_by_test = verdict(tests.iloc[0], "difference", "is higher", "is lower")
        base = titles[study.baseline]
        told.append(f"Against {base}, the accuracy of {titles[first]} by {study.unit} {told_by_test}.")
    return [" ".join(told), *_saving(study)]


def _saving(study: ClassifierStudy) -> Sequence[str]:
    """Which entry saves most labels, corrected for all that were compared with the baseline."""
    if "labels_saved" not in study.summary or study.summary["labels_saved"].isna().all():
        return []
    titles = study.work.titles
    best, base = study.summary.loc[study.summary["labels_saved"].idxmax()], titles[study.baseline]
    saved = (
        f"{titles[best['entry']]} reaches the metric with which {base} ends with "
        f"{whole_percent(1 - best['labels_saved'])} of the labels that {base} needs for it"
    )
    p = best["labels_saved_p_holm"]
    if math.isnan(p):
        return [saved + f"; whether any are saved was not tested (fewer than {FEWEST_SEEDS} seeds)."]
    compared = f"p = {p_value(p)}, Holm, {plural(study.summary['labels_saved_p'].count(), 'comparison')}"
    if p >= LEVEL or best["labels_saved"] <= 0:
        return [saved + f"; over seeds it is not shown that any are saved ({compared})."]
    return [saved + f" (95 % CI of what is saved, over seeds: {_between_saved(best, '')}; {compared})."]
