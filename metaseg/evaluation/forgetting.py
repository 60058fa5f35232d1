"""Forgetting: what adaptation to a target domain costs on the source domain (Lifelong-nnUNet, Sci Rep 2023 13:9381).

All figures here are computed from mean Dice in [0, 1]; NaN in gives NaN out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def forgetting(before: float, after: float) -> float:
    """Source Dice lost: ``before - after``, in [-1, 1]. Positive values mean that the source domain was forgotten.

    Args:
        before: Mean Dice on the source domain before adaptation.
        after: Mean Dice on the same cases after it.
    """
    return before - after


def backward_transfer(before: float, after: float) -> float:
    """Backward transfer BWT = ``after - before``, the negative of :func:`forgetting`."""
    return after - before


def balanced_mean(source: float, target: float) -> float:
    """Mean of source and target Dice after adaptation: each domain counts the same, however many cases it has."""
    return (source + target) / 2.0


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
    budget, heights = np.asarray(steps, dtype=np.float64), np.asarray(dice, dtype=np.float64)
    if budget.ndim != 1 or budget.shape != heights.shape or not len(budget):
        raise ValueError(f"{len(budget)} steps and {len(heights)} values: expected as many of both, at least one")
    widths = np.diff(budget)
    if np.any(widths <= 0):
        raise ValueError("steps must ascend")
    if len(budget) == 1:
        return float(heights[0])
    return float(np.sum(widths * (heights[1:] + heights[:-1]) / 2.0) / (budget[-1] - budget[0]))


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
        """All eight figures by name, for a table or a JSON file."""
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
