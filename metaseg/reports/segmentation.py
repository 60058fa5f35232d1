"""The report on adaptations of segmentation networks: its sections, tables and findings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from metaseg.adapt.choice import read_choice, read_trials
from metaseg.adapt.methods.registry import WAY_BACK
from metaseg.cases.labels import LabelSpace
from metaseg.metrics.statistics import FEWEST_SEEDS
from metaseg.pictures.charts import draw_curves
from metaseg.pictures.overlay import class_colours
from metaseg.reports import charts
from metaseg.reports.analysis import Analysis, Comparison, Group, SegmentationInputs, UnequalBudgets, analyse
from metaseg.reports.blocks import (
    LEVEL,
    Block,
    Chart,
    Charts,
    Content,
    Details,
    Facts,
    Heading,
    Key,
    Note,
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
    with_interval,
)
from metaseg.reports.figures import FigureSink, file_name
from metaseg.reports.inputs import Reopener, ReportRun
from metaseg.reports.overlays import (
    Choices,
    Overlays,
    SideBySide,
    make_choices,
    make_overlays,
    make_side_by_side,
)
from metaseg.reports.provenance import NOT_BESIDE
from metaseg.runs.folder import RunFolder
from metaseg.runs.logs import read_curves
from metaseg.studies.pairs import FRACTION, against_best
from metaseg.studies.papers import SYNTHETIC, Beside, beside_paper, papers
from metaseg.studies.told import TOLD_METRICS

FEW_METHODS = 6
"""Methods whose names fit beside small charts."""
PAPER = "han2018"
"""The paper whose methods are known by their settings."""


def segmentation_content(inputs: SegmentationInputs, sink: FigureSink, *, worst: int, region: str | None) -> Content:
    """Build the sections.

    Args:
        inputs: What was read.
        sink: Takes the figures.
        worst: Worst cases to show.
        region: Region asked for; None for the one that fits best.

    Raises:
        UsageError: No run was evaluated on that region.
        DataError: The tables are damaged.
    """
    sections: list[Section] = []
    analysis = analyse(inputs, region) if len(inputs.table) else None
    if analysis is not None:
        reopener = Reopener()
        shown = [runs for group in analysis.main_groups if (runs := _shown_runs(inputs, analysis, group))]
        choices = [make_choices(run, reopener) for runs in shown for run in runs]
        overlays = [
            part for runs in shown for part in make_overlays(runs, analysis.own, analysis.region, worst, reopener)
        ]
        pairs = [
            make_side_by_side(_papers_runs(runs, analysis), analysis.own, analysis.region, reopener)
            for runs in shown
            if worst and len(runs) > 1
        ]
        sections = [
            _retention_section(analysis, sink),
            _tables_section(analysis, inputs.synthetic, bool(inputs.settings.get("paper"))),
            _folds_section(inputs, analysis.region),
            _choice_section(inputs),
            _first_steps_section(analysis, sink),
            _paired_section(analysis, sink),
            _choices_section(choices, sink),
            _side_by_side_section(pairs, analysis.region, sink),
            _overlays_section(overlays, analysis.region),
        ]
    sections.append(_training_section([run for run in inputs.runs if not run.tuned], sink))
    return Content(_lead(inputs, analysis), _findings(analysis) if analysis else [], sections)


def _shown_runs(inputs: SegmentationInputs, analysis: Analysis, group: Group) -> list[ReportRun]:
    """The run of each shown method at the group's first seed that most of them have."""
    order = analysis.roles.shown
    runs = [run for run in inputs.tuned if Group(run.target, run.shots) == group and run.method in order]
    seeds = [run.seed for run in runs]
    seed = min(seeds, key=lambda seed: (-seeds.count(seed), seed), default=None)
    return sorted((run for run in runs if run.seed == seed), key=lambda run: order.index(run.method))


def _papers_runs(runs: Sequence[ReportRun], analysis: Analysis) -> list[ReportRun]:
    """The runs of the paper's three methods, or where fewer than two of them are there, of the first three shown."""
    papers = [run for name in analysis.roles.paper.values() for run in runs if run.method == name]
    return papers if len(papers) > 1 else list(runs[:3])


def _lead(inputs: SegmentationInputs, analysis: Analysis | None) -> str:
    if analysis is None:
        return "Pretraining of a segmentation network of brain tumours on its source disease."
    methods, groups = len(analysis.roles.colours), analysis.groups
    targets = ", ".join(dict.fromkeys(group.target for group in groups))
    if not inputs.settings:
        what = "Adaptation" if methods == 1 else f"{methods} adaptations"
        return (
            f"{what} of a brain-tumour segmentation network to {targets}: what was gained there, and what was "
            "forgotten."
        )
    shots = ", ".join(str(shots) for shots in sorted({group.shots for group in groups}))
    seeds = plural(len(set(inputs.table["seed"])), "seed")
    return (
        f"A comparison of {methods} ways to adapt a brain-tumour segmentation network to {targets} from few "
        f"labelled patients ({shots}), without forgetting its source disease; {seeds}, {len(inputs.runs)} runs."
    )


# Retention curves, paired patients, choices, trainings.


def _retention_section(analysis: Analysis, sink: FigureSink) -> Section:
    """Dice over the work on target and source, and one against the other."""
    text = (
        "Lines are means over patients and seeds, bands their 95 % bootstrap intervals over both; over patients alone "
        f"where there are fewer than {FEWEST_SEEDS} seeds."
    )
    if "other" in analysis.roles.colours.values():
        text += " Methods in grey have their intervals in the tables."
    blocks: list[Block] = [Note(text, "quiet")]
    for group in analysis.groups:
        drawn = Charts(_retention_charts(analysis, group, sink), len(analysis.roles.colours) > FEW_METHODS)
        blocks += _open_or_folded(analysis, group, [drawn])
    return Section("retention", "What is gained and what is kept", blocks)


def _open_or_folded(analysis: Analysis, group: Group, blocks: Sequence[Block]) -> list[Block]:
    """The main groups are shown under a heading, the others are folded away."""
    if group in analysis.main_groups:
        return [Heading(group.title), *blocks]
    return [Details(group.title, blocks)]


def _retention_charts(analysis: Analysis, group: Group, sink: FigureSink) -> list[Chart]:
    rows, region, floors = group.of(analysis.curves), analysis.region, analysis.roles.floors
    colours = {method: analysis.roles.colours[method] for method in analysis.ends.rows(group).index}
    draw = partial(charts.retention_figure, rows, roles=colours, region=region, floors=floors)
    domains = [domain for domain in charts.DOMAIN_TITLES if (rows["domain"] == domain).any()]
    drawn = [
        sink.chart(draw([domain]), f"{group.title}: Dice {region} on the {domain} over the work spent.")
        for domain in domains
    ]
    sink.save(draw(domains), f"{_slug(group)}-retention", group.title)
    if len(domains) == 2:
        families = {method: analysis.families[method] for method in colours}
        figure = charts.trajectory_figure(rows, colours, families, region, floors)
        caption = (
            f"{group.title}: the path of each method from before (star) to the end of the work; further right is "
            "better on the target, further up is better on the source."
        )
        drawn.append(sink.chart(figure, caption, f"{_slug(group)}-trajectory", group.title))
    return drawn


def _first_steps_section(analysis: Analysis, sink: FigureSink) -> Section:
    """Dice after the first 1, 2, 4, ... updates; nothing where no run was evaluated then."""
    blocks: list[Block] = []
    for group in analysis.groups:
        rows = group.of(analysis.steps)
        if rows.empty:
            continue
        roles = {method: role for method, role in analysis.roles.colours.items() if (rows["method"] == method).any()}
        domains = [domain for domain in charts.DOMAIN_TITLES if (rows["domain"] == domain).any()]
        draw = partial(
            charts.first_steps_figure, rows, roles=roles, region=analysis.region, floors=analysis.roles.floors
        )
        drawn = [
            sink.chart(draw([domain]), f"{group.title}: Dice {analysis.region} on the {domain} over the first updates.")
            for domain in domains
        ]
        sink.save(draw(domains), f"{_slug(group)}-first-steps", group.title)
        tables = [_first_steps_table(analysis, group, rows[rows["domain"] == domain], domain) for domain in domains]
        blocks += _open_or_folded(analysis, group, [Charts(drawn, len(roles) > FEW_METHODS), *tables])
    note = (
        "The same number of updates is not the same work: a meta-step takes several gradients. In small print the 95 % "
        "interval over patients and seeds (over patients alone with fewer than "
        f"{FEWEST_SEEDS} seeds), and the difference from {analysis.roles.reference} after as many updates; underlined "
        "where Wilcoxon's p over patients is below 0.05 after Holm's correction for all methods and updates of a table."
    )
    return Section("steps", "The first steps", [Note(note, "quiet"), *blocks] if blocks else [])


def _first_steps_table(analysis: Analysis, group: Group, rows: pd.DataFrame, domain: str) -> Table:
    """A row per method, a column per number of updates."""
    wide: list[dict[str, Any]] = []
    for method, of_method in rows.groupby("method", sort=False):
        cells: dict[str, Any] = {"method": method, "n_seeds": of_method["n_seeds"].iloc[0]}
        cells["role"] = analysis.roles.colours[str(method)]
        for row in of_method.to_dict("records"):
            name = f"after_{row['update']}"
            cells |= {name: row["dice"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
            cells |= {f"{name}_difference": row["difference"], f"{name}_p": row["p_holm"]}
        wide.append(cells)
    columns = [
        TableColumn(
            f"after_{update}", str(update) if update else "before", small=(interval, _difference), marked=_tested
        )
        for update in sorted(set(rows["update"]))
    ]
    caption = f"{group.title}, {domain}: Dice {analysis.region} by the number of updates"
    frame = pd.DataFrame(wide)
    known = {f"{column.name}_difference": math.nan for column in columns if f"{column.name}_difference" not in frame}
    return Table(caption, frame.assign(**known), [_method_column(analysis), *columns])


def _tested(row: Values, name: str) -> bool:
    """Whether the difference below a value was tested over seeds, and found."""
    return row["n_seeds"] >= FEWEST_SEEDS and bool(row.get(f"{name}_p", math.nan) < LEVEL)


def _paired_section(analysis: Analysis, sink: FigureSink) -> Section:
    """A line per patient: the reference against each shown method, or before against after of one method."""
    blocks: list[Block] = []
    reference = analysis.roles.reference
    for group in analysis.main_groups:
        here = analysis.work.rows(group).index
        methods = [method for method in analysis.roles.shown if method in here]
        drawn = []
        for domain in ("target", "source"):
            last = {method: analysis.last_dice(group, method, domain) for method in methods}
            if len(methods) == 1:
                before = ("before", analysis.last_dice(group, methods[0], domain, first=True))
                drawn += _paired_chart(analysis, group, domain, before, (methods[0], last[methods[0]]), sink)
            elif reference in methods:
                first = (reference, last.pop(reference))
                for second in last.items():
                    drawn += _paired_chart(analysis, group, domain, first, second, sink)
        if drawn:
            blocks += [Heading(group.title), Charts(drawn)]
    note = (
        "Each line is a patient, the mean over seeds, the worst on top: green where the full circle is at least as "
        f"good. Charts hold at most {charts.MOST_PATIENTS} patients, the worst."
    )
    return Section("patients", "Patient by patient", [Note(note, "quiet"), *blocks] if blocks else [])


def _paired_chart(
    analysis: Analysis,
    group: Group,
    domain: str,
    first: tuple[str, pd.DataFrame],
    second: tuple[str, pd.DataFrame],
    sink: FigureSink,
) -> list[Chart]:
    """The chart of one pair; none where they have no patient in common."""
    both = first[1].merge(second[1], on=["seed", "patient"], suffixes=("_first", "_second")).dropna()
    if both.empty:
        return []
    pairs = both.groupby("patient", as_index=False)[["dice_first", "dice_second"]].mean()
    pairs.columns = pd.Index(["patient", "first", "second"])
    title = f"{domain}: {second[0]}" if first[0] == "before" else f"{domain}: {first[0]} against {second[0]}"
    figure = charts.paired_figure(pairs, first[0], second[0], analysis.region, title)
    better = int((pairs["second"] > pairs["first"]).sum())
    caption = f"{group.title}, {domain}: {second[0]} is above {first[0]} in {better} of {len(pairs)} patients."
    return [sink.chart(figure, caption, f"{_slug(group)}-paired-{domain}-{file_name(second[0])}", group.title)]


def _choices_section(choices: Sequence[Choices], sink: FigureSink) -> Section:
    """Learned and unlearned counts over time, the order of the choices, and the first chosen slices."""
    blocks: list[Block] = []
    opened = next((made for made in choices if len(made.tasks)), choices[0] if choices else None)
    for made in choices:
        run = made.run
        inside: list[Block] = [Note(_choice_text(made), "quiet")]
        drawn = []
        if len(made.tasks):
            caption = f"{run.method}: slices of the visited case on both sides of the threshold."
            roles = {"learned": "learned", "unlearned": "unlearned"}
            curves = {name: (made.tasks["step"].tolist(), made.tasks[name].tolist()) for name in roles}
            draw = partial(draw_curves, curves=curves, roles=roles)
            labels = {"xlabel": charts.WORK, "ylabel": "slices of the visited case"}
            drawn.append(sink.draw(draw, (5.2, 3.0), "Learned and unlearned slices", caption, **labels))
        if made.chosen["dice"].notna().any():
            caption = f"{run.method}: Dice of every chosen slice when it was chosen."
            drawn.append(sink.chart(charts.choices_figure(made.chosen), caption))
        if drawn:
            inside.append(Charts(drawn))
        if made.thumbnails:
            inside.append(Pictures("The first chosen slices, with their outlines", made.thumbnails, small=True))
        if made.problem:
            inside.append(Note(made.problem, "warning"))
        title = f"{run.target}: {run.method}, {run.shots} labelled patients, seed {run.seed}"
        blocks.append(Details(title, inside, open=made is opened))
    return Section("choices", "Which slices were chosen, and when", blocks)


def _choice_text(made: Choices) -> str:
    if made.chosen.empty:
        return "Nothing was logged."
    counted = made.chosen["task"].value_counts(sort=False).sort_index()
    counts = ", ".join(f"{count} {task}" for task, count in counted.items())
    text = f"{len(made.chosen)} choices ({counts}) from {made.chosen['patient'].nunique()} patients."
    if made.fallbacks:
        text += f" In {made.fallbacks} of {len(made.tasks)} scorings the threshold parted nothing."
    return text


def _training_section(runs: Sequence[ReportRun], sink: FigureSink) -> Section:
    """Loss and validation Dice of pretrainings."""
    blocks: list[Block] = []
    for run in runs:
        curves = read_curves(run.path)
        drawn = []
        for ylabel, word, title in (("loss", "loss", "Training loss"), ("Dice", "dice", "Validation Dice")):
            chosen = {name.split("/", 1)[-1]: curve for name, curve in sorted(curves.items()) if word in name.lower()}
            if chosen:
                drawn.append(sink.training(run.method, title, chosen, ylabel, word))
        best = RunFolder.open(run.path).state.metrics
        facts = [(name.removeprefix("dice/val/"), number(value)) for name, value in best.items() if value is not None]
        blocks += [Heading(run.method), Charts(drawn)] if drawn else [Note(f"{run.method} has no metrics yet.")]
        blocks += [Facts("Mean Dice of the validation patients, best weights", facts)] if facts else []
    return Section("training", "Pretraining", blocks)


def _slug(group: Group) -> str:
    """A group as part of a file's name."""
    return f"{file_name(group.target)}-shots-{group.shots}"


# Tables.


def _difference(row: Values, name: str) -> str:
    """The mean difference to the reference, below a p value."""
    value = row[f"{name}_difference"]
    return "" if pd.isna(value) else signed(value)


_COLUMNS = explained(
    {
        "target_before": "Mean Dice on the target's patients before tuning; below it the SD over patients.",
        "target_after": "The same at the end; below it the 95 % interval and the SD over patients.",
        "source_before": "Mean Dice on the source's patients before tuning.",
        "source_after": "The same at the end.",
        "forgetting": "Source Dice before minus after; positive means lost.",
        "backward_transfer": "Source Dice after minus before: the negative of what was forgotten.",
        "forward_transfer": "Target Dice before tuning minus that of a network trained from scratch.",
        "balanced_mean": "Mean of target and source Dice at the end.",
        "balanced_area": "Area under the retention curves over the work, mean of target and source.",
        "steps_to_90": "Work at which a run reaches 90 % of its own final target Dice; a dash where the target fell.",
        "target_after_p": "Paired Wilcoxon over patients against the reference, target Dice, Holm-corrected.",
        "forgetting_p": "The same for what was forgotten.",
    },
    TableColumn("target_before", "target before", small=(deviation,)),
    TableColumn("target_after", "target after", small=(interval, deviation), best="max"),
    TableColumn("source_before", "source before", small=(deviation,)),
    TableColumn("source_after", "source after", small=(interval, deviation), best="max"),
    TableColumn("forgetting", "forgotten", write=signed, small=(interval,), best="min"),
    TableColumn("backward_transfer", "backward transfer", write=signed, best="max"),
    TableColumn("forward_transfer", "forward transfer", write=signed, small=(interval,)),
    TableColumn("balanced_mean", "balanced mean", small=(interval,), best="max"),
    TableColumn("balanced_area", "area", small=(interval,), best="max"),
    # No best: a method that ends low is soon there.
    TableColumn("steps_to_90", "steps to 90 %", write=whole),
    TableColumn("target_after_p", "p target", write=p_value, small=(_difference,), marked=significant),
    TableColumn("forgetting_p", "p forgotten", write=p_value, small=(_difference,), marked=significant),
)
"""Columns at equal work, behind the method."""
_AT_SECONDS = ("target_after", "source_after", "forgetting", "balanced_mean", "target_after_p", "forgetting_p")


def _tables_section(analysis: Analysis, synthetic: bool, asked: bool) -> Section:
    blocks: list[Block] = []
    for group in analysis.groups:
        tables = [
            _work_table(analysis, group),
            _told_table(analysis, group),
            _both_axes_table(analysis, group),
            _ends_table(analysis, group),
            _seconds_table(analysis, group),
        ]
        blocks += _open_or_folded(analysis, group, [table for table in tables if table is not None])
    if analysis.seconds_problem:
        blocks.append(Note(analysis.seconds_problem, "warning"))
    blocks.append(_reading_help())
    if analysis.roles.paper:
        blocks.append(Heading("Beside the paper"))
        blocks += _beside_paper(analysis, synthetic, asked)
    return Section("metrics", "All methods" if len(analysis.roles.colours) > 1 else "Metrics", blocks)


_PAPER_NOTE = (
    "Han et al. 2018 pretrained a VGG-16 network on BraTS and adapted it to the metastases of their own hospital, 30 "
    "patients in all. Data, network, patients and budget differ here: what can be compared is the order of the "
    "methods, not the height of their metrics."
)


def _beside_paper(analysis: Analysis, synthetic: bool, asked: bool) -> list[Block]:
    """The paper's table; of phantoms only where the study asks for it, and marked."""
    if synthetic and not asked:
        return [Note(NOT_BESIDE)]
    note = Note(SYNTHETIC, "warning") if synthetic else Note(_PAPER_NOTE, "quiet")
    return [_paper_table(analysis, synthetic), note]


def _reading_help() -> Details:
    text = (
        "Means over patients and seeds; in small print the 95 % bootstrap interval over both (over patients alone, for "
        f"these networks, with fewer than {FEWEST_SEEDS} seeds) and the sample standard deviation over patients. The "
        "best of each column is set in bold, which is no finding by itself. p values: Wilcoxon's signed-rank test over "
        "patients, each the mean of its seeds, corrected after Holm for the comparisons with the reference; below "
        "them the mean difference to the reference. p values below 0.05 are underlined. A dash: not tested, or cannot "
        "be computed from these runs."
    )
    return Details("How to read these tables", [Note(text), columns_table(_COLUMNS)])


def _method_column(analysis: Analysis) -> TableColumn:
    def family_and_seeds(row: Values, name: str) -> str:
        return f"{analysis.families.get(row[name], '')}, {plural(int(row['n_seeds']), 'seed')}"

    return text_column("method", "method", (family_and_seeds,))


def _method_rows(analysis: Analysis, compared: Comparison, group: Group) -> pd.DataFrame:
    """The summary of a group with the tests against the reference."""
    rows = compared.rows(group).assign(role=analysis.roles.colours)
    rows["steps_to_90"] = rows["steps_to_90"].where(rows["target_after"] >= rows["target_before"])
    for metric in ("target_after", "forgetting"):
        tests = compared.tests_of(group, metric)
        rows[f"{metric}_p"] = tests["p_holm"].astype(float)
        rows[f"{metric}_p_difference"] = tests["mean_difference"].astype(float)
    return rows


def _titled(analysis: Analysis, group: Group) -> str:
    """What a table is of, and whose figures in it are cross-validated."""
    methods = [str(method) for method in analysis.ends.rows(group).index]
    validated = [method for method in methods if method in analysis.cross_validated]
    if not validated:
        return group.title
    return f"{group.title}, cross-validated" + ("" if validated == methods else f" ({', '.join(validated)})")


def _work_table(analysis: Analysis, group: Group) -> Table:
    """All methods of a group at equal work, the best balanced mean first."""
    columns, caption = _COLUMNS, f"{_titled(analysis, group)}: Dice {analysis.region}"
    unequal = analysis.unequal.get(group)
    if unequal is not None and not unequal.work:
        caption += " at the end of each run, sorted by balanced mean"
        columns = _untested(columns)
    elif analysis.work.tests.empty:
        columns = _untested(columns)
    else:
        caption += f" at equal work, sorted by balanced mean; p against {analysis.roles.reference}"
    if unequal is not None:
        caption += f". {_budgets_text(unequal)}"
    return Table(caption, _method_rows(analysis, analysis.work, group), [_method_column(analysis), *columns])


def _told_table(analysis: Analysis, group: Group) -> Table | None:
    """One network, disease told, and told by the gates; None where nothing is known of the source."""
    rows = group.of(analysis.told)
    if rows["source_after"].isna().all():
        return None
    columns = [
        text_column("method", "method"),
        text_column("network", "which network"),
        *(replace(column, best="") for column in _COLUMNS if column.name in TOLD_METRICS),
        TableColumn("error_source", "gate wrong on source", "Fraction of source cases that it took for the target."),
        TableColumn("error_target", "gate wrong on target", "Fraction of target cases that it took for the source."),
    ]
    caption = (
        f"{group.title}: Dice {analysis.region} of one network for both diseases, where the disease of a case is told "
        "(--as source, --as target), and where the run's gate tells it (--as auto)"
    )
    return Table(caption, rows.assign(role=rows["method"].map(analysis.roles.colours)), columns)


def _untested(columns: Sequence[TableColumn]) -> list[TableColumn]:
    return [column for column in columns if not column.name.endswith("_p")]


def _budgets_text(unequal: UnequalBudgets) -> str:
    """What budgets differ, and at what work their runs are compared."""
    text = f"The budgets differ ({unequal.text})"
    if not unequal.work:
        return f"{text}, and no two runs were evaluated at the same work: nothing is tested"
    text += f": compared after {unequal.work:,.0f} slice gradients, where all were evaluated"
    left_out = [name for name in unequal.budgets if name not in unequal.methods]
    return f"{text} but {', '.join(left_out)}" if left_out else text


def _ends_table(analysis: Analysis, group: Group) -> Table | None:
    """All methods of a group at the end of their own budgets, where these differ and were compared before."""
    unequal = analysis.unequal.get(group)
    if unequal is None or not unequal.work:
        return None
    caption = (
        f"{_titled(analysis, group)}: Dice {analysis.region} at the end of each run's own budget ({unequal.text}), "
        "which is not equal work: nothing is tested"
    )
    columns = [_method_column(analysis), *_untested(_COLUMNS)]
    return Table(caption, _method_rows(analysis, analysis.ends, group), columns)


def _folds_section(inputs: SegmentationInputs, region: str) -> Section:
    """Dice of each labelled target patient by the network that was not tuned on it; nothing without folds."""
    blocks: list[Block] = []
    for run in inputs.tuned:
        if run.method not in inputs.folds:
            continue
        table = inputs.folds[run.method]
        rows = table[(table["domain"] == "target") & (table["region"] == region)]
        mean = {"patient": "mean", "fold": "", "before": rows["before"].mean(), "after": rows["after"].mean()}
        frame = pd.concat([rows.astype({"fold": str}), pd.DataFrame([mean])], ignore_index=True)
        caption = (
            f"{run.method}, {run.target}: Dice {region} of each labelled patient by the network of its fold, which was "
            f"not tuned on it ({plural(table['fold'].nunique(), 'fold')})"
        )
        columns = [text_column("patient", "patient"), TableColumn("fold", "fold", write=str)]
        columns += [TableColumn("before", "before"), TableColumn("after", "after, cross-validated")]
        blocks.append(Table(caption, frame, columns))
    return Section("folds", "Cross-validation", blocks)


def _choice_section(inputs: SegmentationInputs) -> Section:
    """What each method's choice of settings tried, of its first run on every target; nothing where none chose."""
    blocks: list[Block] = []
    first = {(run.target, run.method): run for run in reversed(inputs.tuned)}
    for run in inputs.tuned:
        trials = read_trials(run.path) if first[run.target, run.method] is run else None
        if trials is None:
            continue
        choice = read_choice(run.path) or {}
        caption = (
            f"{run.method}, {run.target}, seed {run.seed}: settings tried by folds over the shots, the highest mean of "
            "target and source Dice is taken"
        )
        if "slice_gradients" in choice:
            caption += f". It took {choice['slice_gradients']:,} slice gradients beside the run's budget"
        if "way_back" in choice:
            kept = choice["way_back"]
            caption += f". Kept of the final network: {kept[WAY_BACK]:g} of the way ({kept['why']})"
        columns = [
            text_column("stage", "stage"),
            text_column("settings", "settings"),
            TableColumn(WAY_BACK, "of the way"),
            TableColumn("target", "target"),
            TableColumn("source", "source"),
            TableColumn("forgotten", "forgotten"),
            text_column("taken", ""),
        ]
        blocks.append(Table(caption, trials.assign(taken=np.where(trials["chosen"], "chosen", "")), columns))
    return Section("choice", "Choice of settings", blocks)


def _seconds_table(analysis: Analysis, group: Group) -> Table | None:
    """All methods of a group at equal seconds; None where the seconds are not known."""
    if analysis.seconds is None:
        return None
    cut = group.of(analysis.seconds_table)
    reached = cut.groupby(["method", "seed"])["reached"].all().groupby("method")
    counts = reached.sum().astype(int).astype(str) + " of " + reached.size().astype(str)
    columns = [
        _method_column(analysis),
        TableColumn(
            "runs", "runs that got there", "Runs that computed as long; the others count with their last mark.", str
        ),
        TableColumn("spent", "work done", "Slice gradient evaluations by then.", whole),
        *(column for column in _COLUMNS if column.name in _AT_SECONDS),
    ]
    seconds = cut.loc[cut["reached"].astype(bool), "seconds"].max()
    caption = (
        f"{_titled(analysis, group)}: Dice {analysis.region} at equal seconds of computing ({number(seconds, 1)} s, as "
        "long as the quickest method took for its whole budget), sorted by balanced mean"
    )
    return Table(caption, _method_rows(analysis, analysis.seconds, group).assign(runs=counts), columns)


def _both_axes_table(analysis: Analysis, group: Group) -> Table | None:
    """Who is as good as the reference on the target and forgets at most half as much; None with one method only."""
    rows = group.of(analysis.both)
    # A training from random weights has nothing to forget.
    rows = rows[~rows["method"].isin(analysis.roles.floors)].sort_values(["both", "gain"], ascending=False)
    if rows.empty:
        return None
    reference = analysis.roles.reference
    rows = rows.assign(half=FRACTION * rows["forgotten_by_baseline"], role=rows["method"].map(analysis.roles.colours))
    rows["both"] = rows["both"].map({True: "yes", False: "no"}).where(rows["n_seeds"] >= FEWEST_SEEDS, "not tested")
    test = partial(TableColumn, write=p_value, marked=significant)
    columns = [
        text_column("method", "method"),
        TableColumn("gain", "target gain", f"Final target Dice minus that of {reference}.", signed, (interval,), "max"),
        test("gain_p", "p", "Paired Wilcoxon over patients, not corrected."),
        TableColumn("forgotten", "forgotten", write=signed, best="min"),
        TableColumn(
            "spared", "spared", f"What {reference} forgot minus what the method forgot.", signed, (interval,), "max"
        ),
        test("spared_p", "p"),
        TableColumn("half", f"half of {reference}'s"),
        TableColumn(
            "excess", "excess", "Forgotten minus that half; negative keeps within it.", signed, (interval,), "min"
        ),
        test("excess_p", "p"),
        TableColumn(
            "both",
            "both",
            f"Gain of at least 0, and excess below 0 with p < 0.05; not tested with fewer than {FEWEST_SEEDS} seeds.",
            str,
            marked=lambda row, name: row[name] == "yes",
            number=False,
        ),
    ]
    return Table(
        f"{_titled(analysis, group)}: target Dice as good as {reference}'s, and at most half of it forgotten",
        rows,
        columns,
    )


def _paper_table(analysis: Analysis, synthetic: bool) -> Table:
    """The paper's results, and ours of the methods that have its settings."""
    groups, roles, paper = analysis.main_groups, analysis.roles, papers()[PAPER]
    named = {method: name for name, method in roles.paper.items()}
    ours: dict[str, list[Beside]] = {}
    for group in groups:
        found = analysis.work.rows(group)
        found = found[found["method"].isin(named)].assign(method=lambda rows: rows["method"].map(named))
        ours[group.title] = beside_paper(paper, found, "method")
    rows = []
    for place, row in enumerate(paper.rows):
        role = roles.colours.get(roles.paper.get(row.entry, ""), "other")
        cells = {"method": row.name, "paper": row.value, "role": "" if role == "other" else role}
        for title, beside in ours.items():
            cells |= {title: beside[place].ours, f"{title}_below": beside[place].interval}
        rows.append(cells)
    columns = [
        text_column("method", "method"),
        TableColumn("paper", paper.citation, write=str),
        *(
            TableColumn(group.title, group.title + (", SYNTHETIC" if synthetic else ""), write=str, small=(below,))
            for group in groups
        ),
    ]
    caption = f"Enhancing-tumour Dice of the paper (mean ± SD over patients) beside Dice {analysis.region} here"
    return Table(caption, pd.DataFrame(rows), columns)


# Worst cases.


def _side_by_side_section(pairs: Sequence[SideBySide], region: str, sink: FigureSink) -> Section:
    """A training and a test patient under the methods, as the paper's figure 3 has them."""
    blocks: list[Block] = []
    for shown in pairs:
        if shown.problem:
            blocks.append(Note(shown.problem, "warning"))
            continue
        caption = (
            f"{shown.target}, seed {shown.seed}: the first labelled patient, and the test patient in the middle by "
            f"mean Dice of the methods; above the segmentation, below the probability of {shown.heated}. Dice {region} "
            "and false-positive volume (FP) are of the whole case."
        )
        figure, name = charts.side_by_side_figure(shown), f"{file_name(shown.target)}-side-by-side"
        blocks.append(Charts([sink.chart(figure, caption, name, f"{shown.target}, seed {shown.seed}")], large=True))
    return Section("patients-shown", "A training and a test patient, side by side", blocks)


def _overlays_section(overlays: Sequence[Overlays], region: str) -> Section:
    blocks: list[Block] = []
    spaces: list[LabelSpace] = []
    for drawn in overlays:
        if drawn.problem:
            blocks.append(Note(drawn.problem, "warning"))
        if drawn.space is None:
            continue
        spaces.append(drawn.space)
        blocks.append(Heading(f"{drawn.target}: {drawn.domain} cases, seed {drawn.seed}"))
        blocks += [Pictures(f"{case}, {where}", panels) for case, where, panels in drawn.rows]
        blocks.append(_volumes_table(drawn, region))
    if spaces:
        keys = {name: "#" + bytes(colour).hex() for space in spaces for name, colour in class_colours(space)}
        titles = {"ED": "edema (ED)", "NCR": "necrosis (NCR)", "ET": "enhancing tumour (ET)"}
        note = (
            "The worst cases first, by their mean Dice at the end over the methods shown; of each the slice that shows "
            "most. Where letters stand, R is the patient's right. 'False positive' is predicted tumour of any class "
            "outside the true tumour, in all slices of the case."
        )
        key = Key([(titles.get(name, name), colour) for name, colour in keys.items()])
        blocks = [Note(note, "quiet"), key, *blocks]
    return Section("cases", "Worst cases, and their false positives", blocks)


def _volumes_table(drawn: Overlays, region: str) -> Table:
    networks = list(dict.fromkeys(drawn.errors["network"]))
    rows = []
    for case, errors in drawn.errors.groupby("case", sort=False):
        cells = {"case": case}
        for error in errors.itertuples():
            cells |= {error.network: error.false_positive, f"{error.network}_below": f"Dice {number(error.dice, 2)}"}
        rows.append(cells)
    columns = [text_column("case", "case"), *(TableColumn(name, name, write=str, small=(below,)) for name in networks)]
    caption = f"{drawn.target}, {drawn.domain} cases: false-positive volume of the case; below it its Dice {region}"
    return Table(caption, pd.DataFrame(rows), columns)


# Findings.


def _findings(analysis: Analysis) -> list[str]:
    """What the metrics say, a few sentences a target; no difference is claimed that its test does not carry."""
    told = [_finding(analysis, group) for group in analysis.main_groups]
    return [text for text in told if text]


def _finding(analysis: Analysis, group: Group) -> str:
    rows = analysis.work.rows(group)
    best = rows.iloc[0]
    method = str(best["method"])
    if len(rows) == 1:
        return _one_method(_titled(analysis, group), analysis.region, best)
    if math.isnan(best["balanced_mean"]):
        return (
            f"{_titled(analysis, group)}: no source patients were watched, so that nothing can be said of forgetting."
        )
    p = {str(name): rows.loc[name, "balanced_mean_p_best"] for name in rows.index[1:]}
    text = (
        f"{_titled(analysis, group)}: of {len(rows)} methods, {method} has the highest balanced mean of target and "
        f"source Dice {analysis.region}, {with_interval(best, 'balanced_mean')}; it is {against_best('higher', p)}"
    )
    text += ". " + _against_reference(analysis, group, method)
    unequal = analysis.unequal.get(group)
    text += f"{_budgets_text(unequal)}. " if unequal is not None else ""
    return text + _least_forgetting(analysis, group, rows) + _how_many(best)


def _against_reference(analysis: Analysis, group: Group, method: str) -> str:
    reference = analysis.roles.reference
    if method == reference:
        return ""
    told = [
        f"{what} {verdict(test, 'mean_difference', more, less)}"
        for metric, more, less, what in (
            ("target_after", "is higher", "is lower", "its target Dice"),
            ("forgetting", "is greater", "is smaller", "its forgetting"),
        )
        if (test := analysis.work.test(group, method, metric)) is not None
    ]
    return f"Against {reference}: {'; '.join(told)}. " if told else ""


def _least_forgetting(analysis: Analysis, group: Group, rows: pd.DataFrame) -> str:
    known = rows.dropna(subset=["forgetting"])
    if known.empty:
        return ""
    least = str(known["forgetting"].idxmin())
    p = {str(name): known.loc[name, "forgetting_p_best"] for name in known.index if name != least}
    text = (
        f"{least} forgets least source Dice, {with_interval(known.loc[least], 'forgetting')}; that is "
        f"{against_best('less', p)}"
    )
    reference = analysis.roles.reference
    if least != reference and reference in known.index:
        text += f" ({reference}: {with_interval(known.loc[reference], 'forgetting')})"
    return text + ". "


def _one_method(title: str, region: str, row: pd.Series) -> str:
    text = (
        f"{title}: target Dice {region} {number(row['target_before'])} before and "
        f"{with_interval(row, 'target_after')} after"
    )
    if not math.isnan(row["forgetting"]):
        text += (
            f"; source Dice {number(row['source_before'])} before and {with_interval(row, 'source_after')} after, "
            f"{with_interval(row, 'forgetting')} forgotten"
        )
    return text + ". " + _how_many(row)


def _how_many(row: pd.Series) -> str:
    seeds = int(row["n_seeds"])
    patients = f"{int(row['n_target_patients'])} target and {int(row['n_source_patients'])} source patients"
    over = "patients and seeds" if seeds >= FEWEST_SEEDS else "patients alone, for the networks of these seeds"
    return f"{plural(seeds, 'seed')}, {patients}; intervals are over {over}."
