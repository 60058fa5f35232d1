"""Charts whose unit is the patient or the slice: paired Dice, tasks over time, choices over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from metaseg.studies.report.chart_style import LIGHT, new_figure
from metaseg.studies.report.curve_charts import WORK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
