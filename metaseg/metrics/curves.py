"""Metrics of curves: Dice kept over steps, and how much a metric gains from labels.

A label curve has one point a round of active learning: the labels spent so far, and a metric of which more is better.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def retention_area(steps: np.ndarray, dice: np.ndarray) -> np.ndarray:
    """Area under Dice curves over steps (or any other budget), by trapezoids, divided by the length of the budget.

    A constant curve scores its constant; a curve known at one step only scores that value.

    Args:
        steps: Ascending budget values ``(..., mark)``; NaN after a curve's last mark.
        dice: Dice ``(..., mark)``, in shapes that broadcast.

    Returns:
        Mean heights ``(...)``, in [0, 1]; NaN for a curve with a NaN at one of its marks, or without marks.

    Examples:
        >>> float(retention_area(np.array([0.0, 10.0, 20.0]), np.array([0.8, 0.6, 0.4])))
        0.6
    """
    widths = np.diff(steps, axis=-1)
    slabs = widths * (dice[..., 1:] + dice[..., :-1]) / 2.0
    area = np.where(np.isnan(widths), 0.0, slabs).sum(axis=-1)
    length = np.nansum(widths, axis=-1)
    return np.where(length > 0, area / np.where(length > 0, length, 1.0), dice[..., 0])


def steps_to_fraction(steps: np.ndarray, dice: np.ndarray, fraction: float = 0.9) -> np.ndarray:
    """First budget at which Dice curves reach a fraction of their final value, on straight lines between the marks.

    It says how soon a curve is where it ends, not how high that is: a curve that starts at the fraction or above it, as
    every falling curve does and one that ends at 0, gives its first budget (0 for a curve from before the first step).

    Args:
        steps: Ascending budget values ``(..., mark)``; NaN after a curve's last mark.
        dice: Dice ``(..., mark)``, in shapes that broadcast.
        fraction: Of the final Dice, in (0, 1].

    Returns:
        Budgets ``(...)``, in the unit of ``steps``; NaN for a curve with a NaN at one of its marks, or without marks.

    Raises:
        ValueError: ``fraction`` is out of range.

    Examples:
        >>> float(steps_to_fraction(np.array([0.0, 100.0, 200.0]), np.array([0.0, 0.45, 0.5])))
        100.0
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction is {fraction}: expected more than 0, at most 1")
    steps, dice = np.broadcast_arrays(steps, dice)
    marks = ~np.isnan(steps)
    last = np.maximum(marks.sum(axis=-1, keepdims=True) - 1, 0)
    goal = fraction * np.take_along_axis(dice, last, axis=-1)
    after = np.argmax(dice >= goal, axis=-1)[..., np.newaxis]
    before = np.maximum(after - 1, 0)
    low, high = (np.take_along_axis(dice, index, axis=-1) for index in (before, after))
    begin, end = (np.take_along_axis(steps, index, axis=-1) for index in (before, after))
    rise = np.where(after > 0, high - low, 1.0)
    reached = np.where(after > 0, begin + (end - begin) * (goal - low) / np.where(rise > 0, rise, 1.0), begin)[..., 0]
    unknown = (marks & np.isnan(dice)).any(axis=-1) | ~marks.any(axis=-1)
    return np.where(unknown, np.nan, reached)


def area_under_budget_curve(labels: ArrayLike, metrics: ArrayLike) -> float:
    """Area under the curve, by trapezoids, with the budget rescaled to ``0 .. 1`` (AUBC, Lüth et al. 2025).

    It is the mean height of the curve over the budget, so that a constant curve scores its constant. Curves are
    comparable only where they begin and end at the same numbers of labels.

    Args:
        labels: Labels spent by the end of each round, ``(rounds,)``, rising; at least two rounds.
        metrics: The metric after each round, ``(rounds,)``.

    Returns:
        The area, in the unit of the metric.

    Raises:
        ValueError: The labels do not rise, a value is not finite, or there are fewer than two rounds.

    Examples:
        >>> area_under_budget_curve([10, 20, 40], [0.5, 0.7, 0.8])
        0.7
    """
    spent, height = _curve(labels, metrics)
    if len(spent) < 2:
        raise ValueError("an area needs two rounds")
    # Written out: the function of NumPy is called trapz before 2.0 and trapezoid since.
    budget = (spent - spent[0]) / (spent[-1] - spent[0])
    return float(np.sum(np.diff(budget) * (height[:-1] + height[1:]) / 2))


def labels_to_reach(labels: ArrayLike, metrics: ArrayLike, target: float) -> float:
    """The first number of labels at which the curve reaches a target, on a straight line between rounds.

    A curve that falls below the target again later has reached it all the same.

    Args:
        labels: Labels spent by the end of each round, ``(rounds,)``, rising.
        metrics: The metric after each round, ``(rounds,)``.
        target: The metric to reach.

    Returns:
        The labels, between the first and the last; the first where the curve begins at the target or above it; NaN
        where it never gets there.

    Raises:
        ValueError: The labels do not rise, a value is not finite, or there is no round.

    Examples:
        >>> labels_to_reach([10, 20, 40], [0.5, 0.7, 0.8], 0.75)
        30.0
    """
    spent, height = _curve(labels, metrics)
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


def labels_saved(labels_a: ArrayLike, metrics_a: ArrayLike, labels_b: ArrayLike, metrics_b: ArrayLike) -> float:
    """The fraction of its labels that a method saves against a baseline, at the metric with which the baseline ends.

    ``1 - a / b``, where a and b are the labels at which method and baseline *first* reach the baseline's final metric.
    Taking b so, instead of all labels that the baseline spent, is metaseg's choice: a baseline whose curve goes up and
    down has often been there before, and a curve should save nothing against itself.

    Args:
        labels_a: Labels of the method by the end of each round, rising.
        metrics_a: Its metrics.
        labels_b: Labels of the baseline, rising.
        metrics_b: Its metrics.

    Returns:
        At most 1; 0.5 means that half of the labels do, below 0 that the method needs more than the baseline. NaN where
        the method never gets there, or the baseline needs no label.

    Raises:
        ValueError: Labels do not rise, a value is not finite, or there is no round.

    Examples:
        >>> labels_saved([10, 20], [0.5, 0.8], [10, 20, 40], [0.5, 0.7, 0.8])
        0.5
    """
    _, baseline = _curve(labels_b, metrics_b)
    target = float(baseline[-1])
    own, other = labels_to_reach(labels_a, metrics_a, target), labels_to_reach(labels_b, metrics_b, target)
    return 1 - own / other if other > 0 else math.nan


def _curve(labels: ArrayLike, metrics: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    spent, height = np.asarray(labels, dtype=np.float64), np.asarray(metrics, dtype=np.float64)
    if spent.ndim != 1 or spent.shape != height.shape or spent.size == 0:
        raise ValueError(f"need labels and metrics of the same rounds, got shapes {spent.shape} and {height.shape}")
    if not (np.all(np.isfinite(spent)) and np.all(np.isfinite(height))):
        raise ValueError("a number of labels or a metric is not finite")
    if spent[0] < 0 or np.any(np.diff(spent) <= 0):
        raise ValueError("the labels must rise from round to round, from 0 or more")
    return spent, height
