"""Retention curves (Dice over the work spent) and trajectories (source against target Dice) of many methods."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from metaseg.studies.report.chart_style import FAMILY_MARKERS, LIGHT, new_figure, put_end_labels

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
        roles: Method to role of :data:`~metaseg.studies.report.chart_style.COLOURS`.
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
        roles: Method to role of :data:`~metaseg.studies.report.chart_style.COLOURS`.
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
