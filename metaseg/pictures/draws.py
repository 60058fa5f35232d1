"""Charts of what was drawn from a ranking of slices: a metric by band, by size, and by part (Hao et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from metaseg.pictures.charts import LIGHT, legend_below, limit_to_fractions, series_roles, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PART_ROLES: Mapping[str, str] = {"validation": "naive", "test": "passive"}
"""Roles of the parts."""


def draw_points(
    axis: Axes,
    rows: pd.DataFrame,
    roles: Mapping[str, str],
    lines: Mapping[str, tuple[float, str]],
    ticks: Sequence[str] = (),
) -> None:
    """Draw points with their intervals, joined by a line for each series.

    Args:
        axis: Where to.
        rows: Columns ``series``, ``place``, ``value``, ``low``, ``high``; NaN where there is no interval.
        roles: Series to role of :data:`~metaseg.pictures.charts.COLOURS`.
        lines: Values that stand as dotted lines, by name, each with its role.
        ticks: Names of the places 0, 1, ...; none leaves the axis its numbers.
    """
    for number, (name, of_series) in enumerate(rows.groupby("series", sort=False)):
        known = of_series.dropna(subset=["value"]).sort_values("place")
        ends = np.abs(known[["low", "high"]].to_numpy(np.float64) - known[["value"]].to_numpy(np.float64)).T
        axis.errorbar(
            known["place"],
            known["value"],
            yerr=np.nan_to_num(ends),
            color=LIGHT[roles[str(name)]],
            linestyle=("-", "-.", "--")[number % 3],
            linewidth=1.8,
            marker="o",
            markersize=4.5,
            capsize=2.5,
            elinewidth=0.9,
            label=name,
        )
    for name, (value, role) in lines.items():
        axis.axhline(value, color=LIGHT[role], linestyle=":", linewidth=1.6, label=name)
    held = [rows[["value", "low", "high"]], pd.DataFrame({"value": [value for value, _ in lines.values()]})]
    limit_to_fractions(axis, pd.concat(held).clip(0.0, 1.0))
    if ticks:
        axis.set_xticks(range(len(ticks)), ticks)
    legend_below(axis, 2)


def draw_part_bars(axis: Axes, rows: pd.DataFrame, titles: Sequence[str]) -> None:
    """Draw a bar for each entry and part with its interval, from half the lowest value on (Figs. 5 and 6).

    Args:
        axis: Where to.
        rows: Columns ``series`` (the part), ``place`` (of the entry in ``titles``), ``value``, ``low``, ``high``.
        titles: Names of the entries.
    """
    parts = list(dict.fromkeys(rows["series"]))
    width = 0.8 / max(len(parts), 1)
    for number, part in enumerate(parts):
        known = rows[(rows["series"] == part) & rows["value"].notna()]
        places = known["place"].to_numpy(np.float64) + (number - (len(parts) - 1) / 2) * width
        ends = np.abs(known[["low", "high"]].to_numpy(np.float64) - known[["value"]].to_numpy(np.float64)).T
        axis.bar(places, known["value"], width, color=LIGHT[PART_ROLES[str(part)]], label=part)
        axis.errorbar(places, known["value"], yerr=np.nan_to_num(ends), fmt="none", color=LIGHT["ink"], capsize=2.5)
    axis.set_xticks(range(len(titles)), [wrapped(title, 13) for title in titles], fontsize=8)
    axis.set_ylim(bottom=max(0.0, float(rows["value"].min()) / 2), top=1.0)
    legend_below(axis, len(parts))


def series_of_draws(series: Sequence[str]) -> dict[str, str]:
    """Roles of series of sizes: the first in orange as in the paper, and the others apart from it."""
    return dict(zip(series, ("naive", "active", "passive", *series_roles(series).values()), strict=False))
