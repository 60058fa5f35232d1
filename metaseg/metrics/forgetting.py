"""Forgetting: what adaptation to a target domain costs on the source domain (Lifelong-nnUNet, Sci Rep 2023 13:9381).

All metrics here are computed from mean Dice in [0, 1]; NaN in gives NaN out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Dice = TypeVar("Dice", float, np.ndarray)
"""One mean Dice, or an array of them."""


def forgetting(before: Dice, after: Dice) -> Dice:
    """Source Dice lost: ``before - after``, in [-1, 1]. Positive values mean that the source domain was forgotten.

    Args:
        before: Mean Dice on the source domain before adaptation.
        after: Mean Dice on the same cases after it.
    """
    return before - after


def backward_transfer(before: Dice, after: Dice) -> Dice:
    """Backward transfer BWT = ``after - before``, the negative of :func:`forgetting`."""
    return after - before


def balanced_mean(source: Dice, target: Dice) -> Dice:
    """Mean of source and target Dice after adaptation: each domain counts the same, however many cases it has."""
    return (source + target) / 2.0


def forward_transfer(pretrained_on_target: Dice, scratch_on_target: Dice) -> Dice:
    """Forward transfer FWT = R[source, target] - R[scratch, target], in [-1, 1].

    Args:
        pretrained_on_target: Mean target Dice of the network that knows the source alone, before it is tuned.
        scratch_on_target: Mean Dice on the same cases of a network trained from random weights on the target alone.
    """
    return pretrained_on_target - scratch_on_target


def retention_area(steps: Sequence[float], dice: Sequence[float]) -> float:
    """Area under a Dice curve over steps (or any other budget), by trapezoids, divided by the length of the budget.

    A constant curve scores its constant; a curve known at one step only scores that value.

    Args:
        steps: Strictly ascending budget values.
        dice: Dice at each of them.

    Returns:
        The mean height of the curve, in [0, 1].

    Raises:
        ValueError: The lengths differ, there is no point, or ``steps`` do not ascend.
    """
    return float(retention_areas(*_checked_curve(steps, dice)))


def retention_areas(steps: np.ndarray, dice: np.ndarray) -> np.ndarray:
    """:func:`retention_area` of many curves at once.

    Args:
        steps: Ascending budget values ``(..., mark)``; NaN after a curve's last mark.
        dice: Dice ``(..., mark)``, in shapes that broadcast.

    Returns:
        Mean heights ``(...)``; NaN for a curve with a NaN at one of its marks, or without marks.
    """
    widths = np.diff(steps, axis=-1)
    slabs = widths * (dice[..., 1:] + dice[..., :-1]) / 2.0
    area = np.where(np.isnan(widths), 0.0, slabs).sum(axis=-1)
    length = np.nansum(widths, axis=-1)
    return np.where(length > 0, area / np.where(length > 0, length, 1.0), dice[..., 0])


def steps_to_share(steps: Sequence[float], dice: Sequence[float], share: float = 0.9) -> float:
    """First budget at which a Dice curve reaches a share of its final value, on straight lines between the marks.

    It says how soon a curve is where it ends, not how high that is: a curve that starts at the share or above it, as
    every falling curve does and one that ends at 0, gives its first budget (0 for a curve from before the first step).

    Args:
        steps: Strictly ascending budget values.
        dice: Dice at each of them.
        share: Share of the final Dice, in (0, 1].

    Returns:
        A budget, in the unit of ``steps``.

    Raises:
        ValueError: The lengths differ, there is no point, ``steps`` do not ascend, or ``share`` is out of range.
    """
    return float(steps_to_shares(*_checked_curve(steps, dice), share))


def steps_to_shares(steps: np.ndarray, dice: np.ndarray, share: float = 0.9) -> np.ndarray:
    """:func:`steps_to_share` of many curves at once.

    Args:
        steps: Ascending budget values ``(..., mark)``; NaN after a curve's last mark.
        dice: Dice ``(..., mark)``, in shapes that broadcast.
        share: Share of the final Dice, in (0, 1].

    Returns:
        Budgets ``(...)``; NaN for a curve with a NaN at one of its marks, or without marks.

    Raises:
        ValueError: ``share`` is out of range.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share is {share}: expected more than 0, at most 1")
    steps, dice = np.broadcast_arrays(steps, dice)
    marks = ~np.isnan(steps)
    last = np.maximum(marks.sum(axis=-1, keepdims=True) - 1, 0)
    goal = share * np.take_along_axis(dice, last, axis=-1)
    after = np.argmax(dice >= goal, axis=-1)[..., np.newaxis]
    before = np.maximum(after - 1, 0)
    low, high = (np.take_along_axis(dice, index, axis=-1) for index in (before, after))
    begin, end = (np.take_along_axis(steps, index, axis=-1) for index in (before, after))
    rise = np.where(after > 0, high - low, 1.0)
    reached = np.where(after > 0, begin + (end - begin) * (goal - low) / np.where(rise > 0, rise, 1.0), begin)[..., 0]
    unknown = (marks & np.isnan(dice)).any(axis=-1) | ~marks.any(axis=-1)
    return np.where(unknown, np.nan, reached)


def _checked_curve(steps: Sequence[float], dice: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    budget, heights = np.asarray(steps, dtype=np.float64), np.asarray(dice, dtype=np.float64)
    if budget.ndim != 1 or budget.shape != heights.shape or not len(budget):
        raise ValueError(f"{len(budget)} steps and {len(heights)} values: expected as many of both, at least one")
    if not np.all(np.diff(budget) > 0):
        raise ValueError("steps must ascend")
    return budget, heights


@dataclass(frozen=True)
class Forgetting:
    """Source and target Dice before and after one adaptation.

    Attributes:
        source_before: Mean Dice on the source domain before adaptation, in [0, 1].
        source_after: The same after it.
        target_before: Mean Dice on the target domain before adaptation.
        target_after: The same after it.
    """

    source_before: float
    source_after: float
    target_before: float
    target_after: float

    @property
    def forgetting(self) -> float:
        """Source Dice lost, see :func:`forgetting`."""
        return forgetting(self.source_before, self.source_after)

    @property
    def backward_transfer(self) -> float:
        """Negative forgetting."""
        return backward_transfer(self.source_before, self.source_after)

    @property
    def plasticity(self) -> float:
        """Target Dice gained, ``target_after - target_before``."""
        return self.target_after - self.target_before

    @property
    def balanced_mean(self) -> float:
        """Mean of source and target Dice after adaptation."""
        return balanced_mean(self.source_after, self.target_after)

    def as_dict(self) -> dict[str, float]:
        """All eight metrics by name, for a table or a JSON file."""
        return {
            "source_before": self.source_before,
            "source_after": self.source_after,
            "target_before": self.target_before,
            "target_after": self.target_after,
            "forgetting": self.forgetting,
            "backward_transfer": self.backward_transfer,
            "plasticity": self.plasticity,
            "balanced_mean": self.balanced_mean,
        }
