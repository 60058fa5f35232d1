"""The sections made of charts: retention curves and trajectories, paired patients, choices, trainings."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from metaseg.runs.folder import RunFolder
from metaseg.runs.progress_plot import read_curves
from metaseg.studies.report import curve_charts, patient_charts
from metaseg.studies.report.analysis import Analysis, Group
from metaseg.studies.report.blocks import Block, Chart, Charts, Details, Facts, Heading, Note, Pictures, Section
from metaseg.studies.report.choices import Choices
from metaseg.studies.report.figure_sink import FigureSink, file_name
from metaseg.studies.report.numbers import number
from metaseg.studies.report.runs import ReportRun

FEW_METHODS = 6
"""Methods whose names fit beside small charts."""


def retention_section(analysis: Analysis, sink: FigureSink) -> Section:
    """Dice over the work on target and source, and one against the other."""
    text = "Lines are means over patients and seeds, bands their 95 % bootstrap intervals over both."
    if "other" in analysis.roles.colours.values():
        text += " Methods in grey have their intervals in the tables."
    blocks: list[Block] = [Note(text, "quiet")]
    main = analysis.main_groups
    for group in analysis.groups:
        charts = Charts(_retention_charts(analysis, group, sink), len(analysis.roles.colours) > FEW_METHODS)
        if group in main:
            blocks += [Heading(group.title), charts]
        else:
            blocks.append(Details(group.title, [charts]))
    return Section("retention", "What is gained and what is kept", blocks)


def _retention_charts(analysis: Analysis, group: Group, sink: FigureSink) -> list[Chart]:
    rows, region = group.of(analysis.curves), analysis.region
    colours = {method: analysis.roles.colours[method] for method in analysis.methods(group)}
    floors = analysis.roles.floors
    sink.save(curve_charts.retention_pair(rows, colours, region, floors), f"{slug(group)}-retention", group.title)
    charts = []
    for domain in curve_charts.DOMAIN_TITLES:
        if (rows["domain"] == domain).any():
            figure = curve_charts.retention_figure(rows, domain, colours, region, floors)
            charts.append(sink.chart(figure, f"{group.title}: Dice {region} on the {domain} over the work spent."))
    if {"source", "target"} <= set(rows["domain"]):
        families = {method: analysis.families[method] for method in colours}
        figure = curve_charts.trajectory_figure(rows, colours, families, region, "Source against target", floors)
        caption = (
            f"{group.title}: the path of each method from before (star) to the end of the work; further right is "
            "better on the target, further up is better on the source."
        )
        charts.append(sink.chart(figure, caption, f"{slug(group)}-trajectory", group.title))
    return charts


def paired_section(analysis: Analysis, sink: FigureSink) -> Section:
    """A line per patient: the reference against each shown method, or before against after of one method."""
    blocks: list[Block] = []
    for group in analysis.main_groups:
        methods = [method for method in analysis.roles.shown if analysis.work.row(group, method) is not None]
        reference = analysis.roles.reference
        charts = []
        for domain in ("target", "source"):
            if len(methods) == 1:
                before = analysis.last_dice(group, methods[0], domain, first=True)
                after = analysis.last_dice(group, methods[0], domain)
                charts += _paired_chart(analysis, group, domain, ("before", before), (methods[0], after), sink)
            elif reference in methods:
                first = analysis.last_dice(group, reference, domain)
                for method in methods:
                    if method != reference:
                        second = analysis.last_dice(group, method, domain)
                        charts += _paired_chart(analysis, group, domain, (reference, first), (method, second), sink)
        if charts:
            blocks += [Heading(group.title), Charts(charts)]
    note = (
        "Each line is a patient, the mean over seeds, the worst on top: green where the full circle is at least as "
        f"good. Charts hold at most {patient_charts.MOST_PATIENTS} patients, the worst."
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
    figure = patient_charts.paired_figure(pairs, first[0], second[0], analysis.region, title)
    better = int((pairs["second"] > pairs["first"]).sum())
    caption = f"{group.title}, {domain}: {second[0]} is above {first[0]} in {better} of {len(pairs)} patients."
    return [sink.chart(figure, caption, f"{slug(group)}-paired-{domain}-{file_name(second[0])}", group.title)]


def choices_section(choices: Sequence[Choices], sink: FigureSink) -> Section:
    """Learned and unlearned counts over time, the order of the choices, and the first chosen slices."""
    blocks: list[Block] = []
    opened = next((one for one in choices if len(one.tasks)), choices[0] if choices else None)
    for one in choices:
        run = one.run
        inside: list[Block] = [Note(_choice_text(one), "quiet")]
        charts = []
        if len(one.tasks):
            figure = patient_charts.tasks_figure(one.tasks, "Learned and unlearned slices")
            charts.append(
                sink.chart(figure, f"{run.method}: slices of the visited case on both sides of the threshold.")
            )
        if one.chosen["dice"].notna().any():
            figure = patient_charts.choices_figure(one.chosen, "Order of the chosen slices")
            charts.append(sink.chart(figure, f"{run.method}: Dice of every chosen slice when it was chosen."))
        if charts:
            inside.append(Charts(charts))
        if one.thumbnails:
            inside.append(Pictures("The first chosen slices, with their outlines", one.thumbnails, small=True))
        if one.problem:
            inside.append(Note(one.problem, "warning"))
        title = f"{run.target}: {run.method}, {run.shots} labelled patients, seed {run.seed}"
        blocks.append(Details(title, inside, open=one is opened))
    return Section("choices", "Which slices were chosen, and when", blocks)


def _choice_text(one: Choices) -> str:
    if one.chosen.empty:
        return "Nothing was logged."
    counts = ", ".join(f"{count} {task}" for task, count in sorted(one.counts.items()))
    text = f"{len(one.chosen)} choices ({counts}) from {one.chosen['patient'].nunique()} patients."
    if one.filled:
        text += f" In {one.filled} of {len(one.tasks)} scorings one side was empty and was filled from the other."
    return text


def training_section(runs: Sequence[ReportRun], sink: FigureSink) -> Section:
    """Loss and validation Dice of pretrainings."""
    blocks: list[Block] = []
    for run in runs:
        curves = read_curves(run.path)
        charts = []
        for ylabel, word, title in (("loss", "loss", "Training loss"), ("Dice", "dice", "Validation Dice")):
            chosen = {name.split("/", 1)[-1]: curve for name, curve in curves.items() if word in name.lower()}
            if chosen:
                figure = patient_charts.training_figure(chosen, ylabel, title)
                charts.append(
                    sink.chart(figure, f"{run.method}: {title.lower()}.", f"{file_name(run.method)}-{word}", run.method)
                )
        best = RunFolder.open(run.path).state.figures
        facts = [(name.removeprefix("dice/val/"), number(value)) for name, value in best.items() if value is not None]
        blocks += [Heading(run.method), Charts(charts)] if charts else [Note(f"{run.method} has no figures yet.")]
        blocks += [Facts("Mean Dice of the validation patients, best weights", facts)] if facts else []
    return Section("training", "Pretraining", blocks)


def slug(group: Group) -> str:
    """A group as part of a file's name."""
    return f"{file_name(group.target)}-shots-{group.shots}"
