"""Charts that only the report has: retention curves, trajectories, paired patients, and what was chosen when."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from metaseg.pictures.charts import (
    LIGHT,
    draw_bands,
    drawn_order,
    legend_below,
    limit_to_fractions,
    new_figure,
    put_end_labels,
)
from metaseg.pictures.overlay import blend_probability, class_colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from metaseg.reports.overlays import SideBySide

DOMAIN_TITLES = {"target": "Target: the new disease", "source": "Source: what it knew"}
WORK = "work spent (slice gradient evaluations)"
FAMILY_MARKERS = ("o", "s", "^", "D", "v", "P")
MOST_PATIENTS = 40
"""Patients of one chart; of more, the worst are drawn."""
TASK_COLOURS = {"learned": "learned", "unlearned": "unlearned", "source": "source", "plain": "other"}


def retention_figure(
    curves: pd.DataFrame, domains: Collection[str], roles: Mapping[str, str], region: str, floors: Collection[str] = ()
) -> Figure:
    """Dice of domains over the work, side by side: a line and a 95 % band per method.

    Args:
        curves: Columns ``domain`` and those of :func:`~metaseg.pictures.charts.draw_bands`, of one target and number
            of shots.
        domains: ``target``, ``source`` or both.
        roles: Method to role of :data:`~metaseg.pictures.charts.COLOURS`.
        region: Region whose Dice it is.
        floors: Methods that know nothing of the source, such as training from scratch: the axis need not reach them.
    """
    figure, axes = new_figure(5.4 * len(domains), _height(roles), columns=len(domains))
    for axis, domain in zip(axes, domains, strict=True):
        axis.set(xlabel=WORK, ylabel=f"Dice {region}")
        axis.set_title(DOMAIN_TITLES[domain])
        draw_bands(axis, curves[curves["domain"] == domain], roles, floors)
    return figure


def first_steps_figure(
    steps: pd.DataFrame, domains: Collection[str], roles: Mapping[str, str], region: str, floors: Collection[str] = ()
) -> Figure:
    """Dice of domains over the first updates, side by side, on a logarithmic axis that begins with the network before.

    Args:
        steps: Rows of :func:`metaseg.studies.first_steps.first_steps`, of one target and number of shots.
        domains: ``target``, ``source`` or both.
        roles: See :func:`retention_figure`.
        region: Region whose Dice it is.
        floors: See :func:`retention_figure`.
    """
    curves = steps.rename(columns={"update": "step", "dice": "mean"})
    ticks = [0, *(2**power for power in range(int(curves["step"].max()).bit_length()))]
    figure, axes = new_figure(5.4 * len(domains), _height(roles), columns=len(domains))
    for axis, domain in zip(axes, domains, strict=True):
        # Linear from 0, the network before, to the first update, and logarithmic from there.
        axis.set_xscale("symlog", base=2, linthresh=1, linscale=1)
        draw_bands(axis, curves[curves["domain"] == domain], roles, floors)
        axis.set_xticks(ticks, ["before", *map(str, ticks[1:])])
        axis.minorticks_off()
        axis.set(xlabel="updates of the network (meta-steps, or steps)", ylabel=f"Dice {region}")
        axis.set_title(DOMAIN_TITLES[domain])
    return figure


def trajectory_figure(
    curves: pd.DataFrame,
    roles: Mapping[str, str],
    families: Mapping[str, str],
    region: str,
    floors: Collection[str] = (),
) -> Figure:
    """Source against target Dice, a path per method from the network before to the network after.

    Args:
        curves: As for :func:`retention_figure`, with both domains.
        roles: See :func:`retention_figure`.
        families: Method to family, which the marker at a path's end tells.
        region: Region whose Dice it is.
        floors: See :func:`retention_figure`.
    """
    figure, (axis,) = new_figure(5.2, _height(roles) + 0.5)
    wide = curves.pivot_table(index=["method", "step"], columns="domain", values="mean").reset_index().dropna()
    kinds = sorted(set(families.values()))
    markers = dict(zip(kinds, FAMILY_MARKERS, strict=False))
    ends = []
    for method in drawn_order(roles):
        path = wide[wide["method"] == method].sort_values("step")
        if path.empty:
            continue
        strong, colour = roles[method] != "other", LIGHT[roles[method]]
        axis.plot(
            path["target"], path["source"], color=colour, linewidth=2.0 if strong else 0.9, zorder=3 if strong else 2
        )
        last = path.iloc[-1]
        marker = markers[families.get(method, kinds[0])]
        axis.plot(last["target"], last["source"], marker, color=colour, markersize=8 if strong else 5, zorder=4)
        ends.append((float(last["target"]), float(last["source"]), method, colour, strong))
    start = wide[wide["step"] == wide["step"].min()]
    x, y = float(start["target"].mean()), float(start["source"].mean())
    axis.plot(x, y, "*", markersize=13, color=LIGHT["ink"], zorder=5)
    axis.annotate("before", (x, y), xytext=(9, 6), textcoords="offset points", fontsize=9, color=LIGHT["ink"])
    axis.set(xlabel=f"target Dice {region} →", ylabel=f"source Dice {region} →")
    axis.set_title("Source against target")
    limit_to_fractions(axis, wide[~wide["method"].isin(floors)][["source"]])
    right = axis.get_xlim()[1]
    axis.set_xlim(right=right)
    for x, y, _, colour, _ in ends:
        # From the end of the path to its name at the edge.
        axis.hlines(y, x, right, color=colour, linewidth=0.5, alpha=0.6, zorder=1)
    put_end_labels(axis, [end[1:] for end in ends])
    if len(kinds) > 1:
        for kind, marker in markers.items():
            axis.plot([], [], marker, color=LIGHT["faint"], label=kind)
        legend_below(axis, len(kinds))
    return figure


def side_by_side_figure(shown: SideBySide) -> Figure:
    """A training and a test patient, a row of overlays and one of heat maps each, a column per method.

    Args:
        shown: The pictures, with at least one patient.
    """
    from matplotlib.patches import Patch

    columns, rows = len(shown.patients[0].names), 2 * len(shown.patients)
    figure, axes = new_figure(2.15 * columns, 2.35 * rows, rows=rows, columns=columns)
    grid = [axes[start : start + columns] for start in range(0, len(axes), columns)]
    for number, patient in enumerate(shown.patients):
        above, below = grid[2 * number], grid[2 * number + 1]
        for place, name in enumerate(patient.names):
            above[place].imshow(patient.overlays[place])
            below[place].imshow(patient.heat_maps[place])
            above[place].set_title(name, fontsize=10, loc="center")
            above[place].set_xlabel(patient.captions[place], fontsize=8.5)
        above[0].set_ylabel("\n".join(textwrap.wrap(patient.title, 30)), fontsize=8.5)
        below[0].set_ylabel(f"probability of {shown.heated}", fontsize=8.5)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.grid(visible=False)
    colours = [] if shown.space is None else class_colours(shown.space)
    classes = [Patch(color=(red / 255, green / 255, blue / 255), label=name) for name, (red, green, blue) in colours]
    steps = (1.0, 0.75, 0.5, 0.25)
    heat = blend_probability(np.full((1, len(steps)), 40, np.uint8), np.array([steps]))[0] / 255.0
    heats = [
        Patch(color=(red, green, blue), label=f"{step:g}") for (red, green, blue), step in zip(heat, steps, strict=True)
    ]
    named = {"fontsize": 8.5, "title_fontsize": 8.5, "ncols": 1}
    figure.legend(handles=classes, title="classes", loc="outside right upper", **named)
    figure.legend(handles=heats, title="probability", loc="outside right lower", **named)
    return figure


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
    axis.set(ylim=(len(rows) - 0.4, -0.6), xlim=(-0.02, 1.02), xlabel=f"Dice {region}: ○ {first}, ● {second}")
    axis.set_title(title)
    axis.grid(axis="y", visible=False)
    return figure


def choices_figure(chosen: pd.DataFrame) -> Figure:
    """Dice of every chosen slice at the moment of its choice, over the work; the line is the threshold.

    Args:
        chosen: Columns ``step``, ``task``, ``role``, ``dice``, ``threshold``; rows without a Dice are left out.
    """
    figure, (axis,) = new_figure(5.2, 3.4)
    known = chosen.dropna(subset=["dice"])
    for task, rows in known.groupby("task", sort=True):
        colour = LIGHT[TASK_COLOURS.get(str(task), "other")]
        for role, marker in (("support", "o"), ("query", "x")):
            part = rows[rows["role"] == role]
            axis.plot(
                part["step"], part["dice"], marker, color=colour, markersize=4, alpha=0.8, label=f"{task}, {role}"
            )
    lines = known.dropna(subset=["threshold"]).drop_duplicates("step")
    axis.step(lines["step"], lines["threshold"], where="post", color=LIGHT["ink"], linewidth=1.2, label="threshold")
    axis.set(xlabel=WORK, ylabel="Dice when chosen", ylim=(-0.03, 1.03))
    axis.set_title("Order of the chosen slices")
    legend_below(axis, 2)
    return figure


def _height(roles: Mapping[str, str]) -> float:
    """Inches that leave room for every name at the right edge."""
    return float(np.clip(0.17 * len(roles) + 1.0, 3.6, 9.0))


def _short(patient: object) -> str:
    text = str(patient)
    return text if len(text) <= 22 else f"{text[:10]}…{text[-11:]}"
