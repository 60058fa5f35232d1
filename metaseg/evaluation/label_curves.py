"""Figures of learning curves: how much a figure gains from labels, and how many labels a method saves.

A curve has one point a round of active learning: the labels spent so far, and a figure of which more is better.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def area_under_budget_curve(labels: ArrayLike, figures: ArrayLike) -> float:
    """Area under the curve, by trapezoids, with the budget rescaled to ``0 .. 1`` (AUBC, Lüth et al. 2025).

    It is the mean height of the curve over the budget, so that a constant curve scores its constant. Curves are
    comparable only where they begin and end at the same numbers of labels.

    Args:
        labels: Labels spent by the end of each round, ``(rounds,)``, rising; at least two rounds.
        figures: The figure after each round, ``(rounds,)``.

    Returns:
        The area, in the unit of the figure.

    Raises:
        ValueError: The labels do not rise, a value is not finite, or there are fewer than two rounds.
    """
    spent, height = _curve(labels, figures)
    if len(spent) < 2:
        raise ValueError("an area needs two rounds")
    # Written out: the function of NumPy is called trapz before 2.0 and trapezoid since.
    budget = (spent - spent[0]) / (spent[-1] - spent[0])
    return float(np.sum(np.diff(budget) * (height[:-1] + height[1:]) / 2))


def labels_to_reach(labels: ArrayLike, figures: ArrayLike, target: float) -> float:
    """The first number of labels at which the curve reaches a target, on a straight line between rounds.

    A curve that falls below the target again later has reached it all the same.

    Args:
        labels: Labels spent by the end of each round, ``(rounds,)``, rising.
        figures: The figure after each round, ``(rounds,)``.
        target: The figure to reach.

    Returns:
        The labels, between the first and the last; the first where the curve begins at the target or above it; NaN
        where it never gets there.

    Raises:
        ValueError: The labels do not rise, a value is not finite, or there is no round.
    """
    spent, height = _curve(labels, figures)
    if not math.isfinite(target):
        raise ValueError(f"a target of {target}")
    reached = np.flatnonzero(height >= target)
    if reached.size == 0:
        return math.nan
    after = int(reached[0])
    if after == 0:
        return float(spent[0])
    way = (target - height[after - 1]) / (height[after] - height[after - 1])
    return float(spent[after - 1] + way * (spent[after] - spent[after - 1]))


def labels_saved(labels_a: ArrayLike, figures_a: ArrayLike, labels_b: ArrayLike, figures_b: ArrayLike) -> float:
    """The share of its labels that a method saves against a baseline, at the figure with which the baseline ends.

    ``1 - a / b``, where a and b are the labels at which method and baseline *first* reach the baseline's final figure.
    Taking b so, instead of all labels that the baseline spent, is metaseg's choice: a baseline whose curve goes up and
    down has often been there before, and a curve should save nothing against itself.

    Args:
        labels_a: Labels of the method by the end of each round, rising.
        figures_a: Its figures.
        labels_b: Labels of the baseline, rising.
        figures_b: Its figures.

    Returns:
        At most 1; 0.5 means that half of the labels do, below 0 that the method needs more than the baseline. NaN where
        the method never gets there, or the baseline needs no label.

    Raises:
        ValueError: Labels do not rise, a value is not finite, or there is no round.
    """
    _, baseline = _curve(labels_b, figures_b)
    target = float(baseline[-1])
    own, other = labels_to_reach(labels_a, figures_a, target), labels_to_reach(labels_b, figures_b, target)
    return 1 - own / other if other > 0 else math.nan


def _curve(labels: ArrayLike, figures: ArrayLike) -> tuple[FloatArray, FloatArray]:
    spent, height = np.asarray(labels, dtype=np.float64), np.asarray(figures, dtype=np.float64)
    if spent.ndim != 1 or spent.shape != height.shape or spent.size == 0:
        raise ValueError(f"need labels and figures of the same rounds, got shapes {spent.shape} and {height.shape}")
    if not (np.all(np.isfinite(spent)) and np.all(np.isfinite(height))):
        raise ValueError("a number of labels or a figure is not finite")
    if spent[0] < 0 or np.any(np.diff(spent) <= 0):
        raise ValueError("the labels must rise from round to round, from 0 or more")
    return spent, height
