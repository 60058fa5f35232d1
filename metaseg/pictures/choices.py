"""Charts of what active learning chose, round after round: classes, and prediction patterns of candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from metaseg.pictures.charts import LIGHT, draw_fractions, legend_below, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BARS = 10
"""Bars of the histogram of a candidate's predictions."""
POSITIVE, NEGATIVE, UNKNOWN = "worse", "passive", "other"
"""Roles of candidates of the positive class (red, as in Zhou et al. 2017, Fig. 10), of others and of no known class."""


def draw_fractions_by_round(
    axes: Sequence[Axes],
    panels: Mapping[str, pd.DataFrame],
    pools: Mapping[str, pd.Series] | None = None,
    *,
    headings: bool = True,
    legend: bool = True,
) -> None:
    """Draw stacked fractions round by round, a panel for each entry.

    Args:
        axes: At least as many as panels; those that are left over are taken away.
        panels: Title to fractions: a row for each round, a column for each name, the same columns in all.
        pools: Title to fractions of the whole pool, which stand as a last bar, apart.
        headings: Whether each panel has its title.
        legend: Whether there is a legend below the figure.
    """
    for axis, (title, fractions) in zip(axes, panels.items(), strict=False):
        places = np.arange(1.0, len(fractions) + 1)
        rows, ticks = fractions.to_numpy(np.float64), [str(number) for number in fractions.index]
        if pools and title in pools:
            places = np.append(places, len(fractions) + 1.8)
            rows, ticks = (
                np.vstack([rows, pools[title].reindex(fractions.columns).to_numpy(np.float64)]),
                [*ticks, "pool"],
            )
        draw_fractions(axis, places, rows, list(fractions.columns), legend=False)
        # With many rounds every second or third number is enough; the pool is always named.
        step = max(1, -(-len(fractions) // 8))
        named = [place for place in range(len(ticks)) if place % step == 0 or ticks[place] == "pool"]
        axis.set_xticks(places[named], [ticks[place] for place in named])
        if headings:
            axis.set_title(wrapped(title, 26), fontsize=9)
    for axis in axes[len(panels) :]:
        axis.remove()
    if panels and legend:
        legend_below(axes[0], 4)


def draw_pattern_histograms(
    axis: Axes, predictions: Sequence[Sequence[float]], patterns: Sequence[str], labels: Sequence[int | None]
) -> None:
    """Draw a histogram of the patches' predictions of each candidate, one below the other (Zhou et al. 2017, Fig. 10).

    Args:
        axis: Where to.
        predictions: Of each candidate, the first on top.
        patterns: Letter of each, which stands beside it.
        labels: Class of each; 1, the positive one, is red, others are blue, None is grey.
    """
    edges = np.linspace(0, 1, BARS + 1)
    for place, (values, pattern, label) in enumerate(zip(predictions, patterns, labels, strict=True)):
        counts = np.histogram(values, edges)[0] / max(len(values), 1)
        role = UNKNOWN if label is None else POSITIVE if label == 1 else NEGATIVE
        axis.bar(edges[:-1], -0.85 * counts, 1 / BARS, bottom=place + 0.9, align="edge", color=LIGHT[role])
        axis.axhline(place + 0.9, color=LIGHT["grid"], linewidth=0.6, zorder=0)
        axis.text(1.04, place + 0.75, pattern, fontsize=8, color=LIGHT["ink"], va="center")
    axis.set(xlim=(0, 1), ylim=(max(len(predictions), 1), 0), xticks=(0, 0.5, 1), yticks=())
    axis.grid(visible=False)
    axis.spines["left"].set_visible(False)


def name_positive_and_others(axis: Axes, classes: Sequence[str]) -> None:
    """A legend below the figure: what is red and what is blue in :func:`draw_pattern_histograms`."""
    from matplotlib.patches import Patch

    others = [name for number, name in enumerate(classes) if number != 1]
    handles = [
        Patch(color=LIGHT[role], label=name) for role, name in ((POSITIVE, classes[1]), (NEGATIVE, ", ".join(others)))
    ]
    axis.figure.legend(handles=handles, loc="outside lower center", ncols=2)
