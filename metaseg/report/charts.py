"""The sections made of charts: retention curves and trajectories, paired patients, choices, trainings.

Retention curves (Dice over the work spent) and trajectories (source against target Dice) of many methods.

Charts whose unit is the patient or the slice: paired Dice, tasks over time, choices over time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from metaseg.report.analysis import Analysis, Choices, Group
from metaseg.report.blocks import Block, Chart, Charts, Details, Facts, Heading, Note, Pictures, Section, number
from metaseg.report.chart_style import FAMILY_MARKERS, LIGHT, FigureSink, file_name, new_figure, put_end_labels
from metaseg.report.inputs import ReportRun
from metaseg.runs.folder import RunFolder
from metaseg.runs.logs import read_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOMAIN_TITLES = {"target": "Target: the new disease", "source": "Source: what it knew"}
WORK = "work spent (slice gradient evaluations)"


def retention_figure(
    curves: pd.DataFrame, domain: str, roles: Mapping[str, str], region: str, floors: Collection[str] = ()
) -> Figure:
    """One chart for the page: Dice of one domain over the work, a line and a band per method.

    Args:
        curves: Rows of one target and number of shots; see :func:`draw_retention`.
        domain: ``target`` or ``source``.
        roles: Method to role of :data:`~metaseg.report.chart_style.COLOURS`.
        region: Region whose Dice it is.
        floors: See :func:`draw_retention`.
    """
    figure, (axis,) = new_figure(5.2, _height(roles))
    draw_retention(axis, curves[curves["domain"] == domain], roles, region, floors)
    axis.set_title(DOMAIN_TITLES[domain])
    return figure


def retention_pair(curves: pd.DataFrame, roles: Mapping[str, str], region: str, floors: Collection[str] = ()) -> Figure:
    """Both domains side by side, for a file."""
    figure, axes = new_figure(11.2, _height(roles) + 0.3, columns=2)
    for axis, domain in zip(axes, DOMAIN_TITLES, strict=True):
        draw_retention(axis, curves[curves["domain"] == domain], roles, region, floors)
        axis.set_title(DOMAIN_TITLES[domain])
    return figure


def draw_retention(
    axis: Axes, curves: pd.DataFrame, roles: Mapping[str, str], region: str, floors: Collection[str] = ()
) -> None:
    """Draw mean Dice with 95 % bands.

    Args:
        axis: Where to.
        curves: See :func:`draw_lines`; of one target, number of shots and domain.
        roles: See :func:`retention_figure`.
        region: For the label of the axis.
        floors: Methods that know nothing of the source, such as training from scratch: the axis need not reach them.
    """
    axis.set_xlabel(WORK)
    axis.set_ylabel(f"Dice {region}")
    draw_lines(axis, curves, roles, floors)


def draw_lines(axis: Axes, curves: pd.DataFrame, roles: Mapping[str, str], floors: Collection[str] = ()) -> None:
    """Draw means with their bands, each named at its end; highlighted ones lie above the others.

    Args:
        axis: Where to.
        curves: Columns ``method``, ``step``, ``mean``, ``low``, ``high``.
        roles: Method to role of :data:`~metaseg.report.chart_style.COLOURS`.
        floors: Methods that the axis need not reach.
    """
    ends = []
    for method in _drawn_order(roles):
        rows = curves[curves["method"] == method].dropna(subset=["mean"]).sort_values("step")
        if rows.empty:
            continue
        role = roles[method]
        strong, colour = role != "other", LIGHT[role]
        if strong:
            axis.fill_between(rows["step"], rows["low"], rows["high"], color=colour, alpha=0.14, linewidth=0)
        axis.plot(
            rows["step"],
            rows["mean"],
            color=colour,
            linewidth=2.2 if strong else 1.0,
            marker="o" if strong else None,
            markersize=4,
            zorder=3 if strong else 2,
        )
        ends.append((float(rows["mean"].iloc[-1]), method, colour, strong))
    axis.set_xlim(left=0)
    axis.margins(x=0.0)
    _limit(axis, curves[~curves["method"].isin(floors)][["mean", "low", "high"]])
    put_end_labels(axis, ends)


def trajectory_figure(
    curves: pd.DataFrame,
    roles: Mapping[str, str],
    families: Mapping[str, str],
    region: str,
    title: str,
    floors: Collection[str] = (),
) -> Figure:
    """Source against target Dice, a path per method from the network before to the network after.

    Args:
        curves: Rows of one target and number of shots, both domains; see :func:`draw_retention`.
        roles: See :func:`retention_figure`.
        families: Method to family, which the marker at a path's end tells.
        region: Region whose Dice it is.
        title: Heading.
        floors: See :func:`draw_retention`.
    """
    figure, (axis,) = new_figure(5.2, _height(roles) + 0.5)
    wide = curves.pivot_table(index=["method", "step"], columns="domain", values="mean").reset_index()
    kinds = sorted(set(families.values()))
    ends, points = [], []
    if {"source", "target"} <= set(wide.columns):
        for method in _drawn_order(roles):
            path = wide[wide["method"] == method].dropna().sort_values("step")
            if path.empty:
                continue
            role = roles[method]
            strong, colour = role != "other", LIGHT[role]
            marker = FAMILY_MARKERS[kinds.index(families.get(method, kinds[0])) % len(FAMILY_MARKERS)]
            axis.plot(
                path["target"],
                path["source"],
                color=colour,
                linewidth=2.0 if strong else 0.9,
                zorder=3 if strong else 2,
            )
            axis.plot(
                path["target"].iloc[-1:], path["source"].iloc[-1:], marker=marker, color=colour,
                markersize=8 if strong else 5, zorder=4, linestyle="none",
            )  # fmt: skip
            points.append((float(path["target"].iloc[-1]), float(path["source"].iloc[-1]), colour))
            ends.append((float(path["source"].iloc[-1]), method, colour, strong))
        start = wide[wide["step"] == wide["step"].min()]
        x, y = float(start["target"].mean()), float(start["source"].mean())
        axis.plot([x], [y], marker="*", markersize=13, color=LIGHT["ink"], zorder=5, linestyle="none")
        axis.annotate("before", (x, y), xytext=(9, 6), textcoords="offset points", fontsize=9, color=LIGHT["ink"])
    axis.set_xlabel(f"target Dice {region} →")
    axis.set_ylabel(f"source Dice {region} →")
    axis.set_title(title)
    if "source" in wide:
        _limit(axis, wide[~wide["method"].isin(floors)][["source"]])
    right = axis.get_xlim()[1]
    axis.set_xlim(right=right)
    for x, y, colour in points:
        # From the end of the path to its name at the edge.
        axis.hlines(y, x, right, color=colour, linewidth=0.5, alpha=0.6, zorder=1)
    put_end_labels(axis, ends)
    if len(kinds) > 1:
        for number, kind in enumerate(kinds):
            marker = FAMILY_MARKERS[number % len(FAMILY_MARKERS)]
            axis.plot([], [], marker=marker, color=LIGHT["faint"], linestyle="none", label=kind)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=len(kinds), fontsize=9)
    return figure


def _drawn_order(roles: Mapping[str, str]) -> list[str]:
    """The others first, so that highlighted methods lie above them."""
    return sorted(roles, key=lambda method: roles[method] != "other")


def _height(roles: Mapping[str, str]) -> float:
    """Inches that leave room for every name at the right edge."""
    return float(np.clip(0.17 * len(roles) + 1.0, 3.6, 9.0))


def _limit(axis: Axes, values: pd.DataFrame) -> None:
    """Dice never leaves [0, 1], and neither does the axis."""
    known = values.to_numpy(dtype=np.float64)
    known = known[~np.isnan(known)]
    if known.size:
        room = 0.06 * max(float(np.ptp(known)), 0.02)
        axis.set_ylim(max(-0.01, float(known.min()) - room), min(1.01, float(known.max()) + room))


MOST_PATIENTS = 40
"""Patients of one chart; of more, the worst are drawn."""

TASK_COLOURS = {"learned": "learned", "unlearned": "unlearned", "source": "source", "plain": "other"}


def paired_figure(pairs: pd.DataFrame, first: str, second: str, region: str, title: str) -> Figure:
    """Two Dice values of every patient joined by a line, the worst patient on top.

    Args:
        pairs: Columns ``patient``, ``first``, ``second``.
        first: What the open circle is.
        second: What the full circle is; patients are sorted by it.
        region: Region whose Dice it is.
        title: Heading.
    """
    rows = pairs.sort_values(["second", "first", "patient"], kind="stable").head(MOST_PATIENTS)
    figure, (axis,) = new_figure(5.2, 1.35 + 0.2 * max(len(rows), 3))
    places = np.arange(len(rows))
    better = (rows["second"] >= rows["first"]).to_numpy()
    for colour, chosen in (("better", better), ("worse", ~better)):
        axis.hlines(places[chosen], rows["first"][chosen], rows["second"][chosen], color=LIGHT[colour], linewidth=2)
        axis.plot(rows["second"][chosen], places[chosen], "o", color=LIGHT[colour], markersize=6)
    axis.plot(rows["first"], places, "o", markerfacecolor=LIGHT["paper"], color=LIGHT["faint"], markersize=5.5)
    axis.set_yticks(places, list(map(_short, rows["patient"])), fontsize=8.5)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(-0.02, 1.02)
    axis.set_xlabel(f"Dice {region}: ○ {first}, ● {second}")
    axis.set_title(title)
    axis.grid(axis="y", visible=False)
    return figure


def tasks_figure(tasks: pd.DataFrame, title: str) -> Figure:
    """How many slices of the visited case counted as learned and as unlearned, over the work.

    Args:
        tasks: Columns ``step``, ``learned``, ``unlearned``.
        title: Heading.
    """
    figure, (axis,) = new_figure(5.2, 3.0)
    for name in ("learned", "unlearned"):
        axis.plot(tasks["step"], tasks[name], color=LIGHT[name], linewidth=1.8, marker="o", markersize=3.5, label=name)
    axis.set_xlabel(WORK)
    axis.set_ylabel("slices of the visited case")
    axis.set_ylim(bottom=0)
    axis.set_title(title)
    axis.legend(ncols=2, fontsize=9)
    return figure


def choices_figure(chosen: pd.DataFrame, title: str) -> Figure:
    """Dice of every chosen slice at the moment of its choice, over the work; the line is the threshold.

    Args:
        chosen: Columns ``step``, ``task``, ``role``, ``dice``, ``threshold``; rows without a Dice are left out.
        title: Heading.
    """
    figure, (axis,) = new_figure(5.2, 3.0)
    known = chosen.dropna(subset=["dice"])
    for task, rows in known.groupby("task", sort=True):
        for role, marker in (("support", "o"), ("query", "x")):
            part = rows[rows["role"] == role]
            axis.plot(
                part["step"], part["dice"], marker, color=LIGHT[TASK_COLOURS.get(str(task), "other")],
                markersize=4, alpha=0.8, label=f"{task}, {role}",
            )  # fmt: skip
    lines = known.dropna(subset=["threshold"]).drop_duplicates("step")
    axis.step(lines["step"], lines["threshold"], where="post", color=LIGHT["ink"], linewidth=1.2, label="threshold")
    axis.set_xlabel(WORK)
    axis.set_ylabel("Dice when chosen")
    axis.set_ylim(-0.03, 1.03)
    axis.set_title(title)
    axis.legend(ncols=3, fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure


def training_figure(curves: dict[str, tuple[list[int], list[float]]], ylabel: str, title: str) -> Figure:
    """Curves of one training by name, such as its loss or its validation Dice."""
    figure, (axis,) = new_figure(5.2, 3.2)
    for role, (name, (steps, values)) in zip(
        ("naive", "passive", "active", "best", "extra"), sorted(curves.items()), strict=False
    ):
        marker = "o" if len(steps) < 60 else None
        axis.plot(steps, values, color=LIGHT[role], linewidth=1.8, marker=marker, markersize=4, label=name)
    axis.set_xlabel("step")
    axis.set_ylabel(ylabel)
    axis.set_title(title)
    axis.legend(fontsize=9)
    return figure


def _short(patient: object) -> str:
    text = str(patient)
    return text if len(text) <= 22 else f"{text[:10]}…{text[-11:]}"


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
    sink.save(retention_pair(rows, colours, region, floors), f"{slug(group)}-retention", group.title)
    charts = []
    for domain in DOMAIN_TITLES:
        if (rows["domain"] == domain).any():
            figure = retention_figure(rows, domain, colours, region, floors)
            charts.append(sink.chart(figure, f"{group.title}: Dice {region} on the {domain} over the work spent."))
    if {"source", "target"} <= set(rows["domain"]):
        families = {method: analysis.families[method] for method in colours}
        figure = trajectory_figure(rows, colours, families, region, "Source against target", floors)
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
        f"good. Charts hold at most {MOST_PATIENTS} patients, the worst."
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
    figure = paired_figure(pairs, first[0], second[0], analysis.region, title)
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
            figure = tasks_figure(one.tasks, "Learned and unlearned slices")
            charts.append(
                sink.chart(figure, f"{run.method}: slices of the visited case on both sides of the threshold.")
            )
        if one.chosen["dice"].notna().any():
            figure = choices_figure(one.chosen, "Order of the chosen slices")
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
                figure = training_figure(chosen, ylabel, title)
                charts.append(
                    sink.chart(figure, f"{run.method}: {title.lower()}.", f"{file_name(run.method)}-{word}", run.method)
                )
        best = RunFolder.open(run.path).state.metrics
        facts = [(name.removeprefix("dice/val/"), number(value)) for name, value in best.items() if value is not None]
        blocks += [Heading(run.method), Charts(charts)] if charts else [Note(f"{run.method} has no metrics yet.")]
        blocks += [Facts("Mean Dice of the validation patients, best weights", facts)] if facts else []
    return Section("training", "Pretraining", blocks)


def slug(group: Group) -> str:
    """A group as part of a file's name."""
    return f"{file_name(group.target)}-shots-{group.shots}"
