"""The empty-mask policy: what a metric is worth where the label, the prediction or both are empty.

Every metric of the package asks :func:`settle_empties`; nothing else decides about empty masks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from metaseg.errors import unknown_name


class Status(StrEnum):
    """Which of label and prediction hold the target; one per case and target, so that cases can be counted."""

    VALID = "valid"
    """Both hold it: the metrics are computed."""
    MISSED = "missed"
    """The label holds it, the prediction does not."""
    FALSE = "false"
    """The prediction holds it, the label does not."""
    EMPTY_BOTH = "empty-both"
    """Neither holds it."""


@dataclass(frozen=True)
class EmptyPolicy:
    """What undefined metrics are worth. A missed or false target always has Dice 0 and the penalty as its HD95.

    Attributes:
        name: The name used in tables and options.
        dice_empty_both: Dice in [0, 1] of a case empty in both; NaN leaves the case out of means.
        hd95_empty_both: HD95 in mm of a case empty in both; NaN leaves the case out of means.
        hd95_penalty: HD95 in mm of a missed or false target; None takes the diagonal of the image.
    """

    name: str
    dice_empty_both: float
    hd95_empty_both: float
    hd95_penalty: float | None

    def penalty(self, diagonal: float) -> float:
        """HD95 of a missed or false target in an image of this ``diagonal`` (same unit)."""
        return diagonal if self.hd95_penalty is None else self.hd95_penalty


EMPTY_POLICIES: Mapping[str, EmptyPolicy] = {
    policy.name: policy
    for policy in (
        EmptyPolicy("exclude", math.nan, math.nan, None),
        # 374 mm: just over the diagonal of the BraTS grid, 240 x 240 x 155 mm.
        EmptyPolicy("brats", 1.0, 0.0, 374.0),
        EmptyPolicy("mist", 1.0, 0.0, None),
    )
}
"""``exclude`` (default), ``brats`` (official code of BraTS 2023) and ``mist`` (as BraTS, image diagonal as penalty)."""


@dataclass(frozen=True)
class Verdict:
    """Status of one target and, unless it is valid, the metrics that the policy gives it (None: compute them)."""

    status: Status
    dice: float | None
    hd95: float | None


def empty_policy(policy: EmptyPolicy | str) -> EmptyPolicy:
    """Look an empty-mask policy up by name.

    Raises:
        UsageError: There is no such policy.
    """
    if isinstance(policy, EmptyPolicy):
        return policy
    if policy not in EMPTY_POLICIES:
        raise unknown_name("empty-mask policy", policy, EMPTY_POLICIES)
    return EMPTY_POLICIES[policy]


def settle_empties(label_voxels: int, predicted_voxels: int, diagonal: float, policy: EmptyPolicy) -> Verdict:
    """Decide the status of one target and the metrics of an undefined one.

    Args:
        label_voxels: Size of the target in the label.
        predicted_voxels: Size of the target in the prediction.
        diagonal: Diagonal of the image, in mm (or pixels).
        policy: What undefined metrics are worth.

    Returns:
        The verdict; ``dice`` and ``hd95`` are None exactly where the status is ``valid``.

    Examples:
        >>> verdict = settle_empties(120, 0, diagonal=250.0, policy=EMPTY_POLICIES["exclude"])
        >>> str(verdict.status), verdict.dice, verdict.hd95
        ('missed', 0.0, 250.0)
    """
    if label_voxels and predicted_voxels:
        return Verdict(Status.VALID, None, None)
    if not label_voxels and not predicted_voxels:
        return Verdict(Status.EMPTY_BOTH, policy.dice_empty_both, policy.hd95_empty_both)
    return Verdict(Status.MISSED if label_voxels else Status.FALSE, 0.0, policy.penalty(diagonal))


def image_diagonal(shape: Sequence[int], spacing: Sequence[float], planar: bool = False) -> float:
    """Diagonal of an image, the distance penalty by default.

    Args:
        shape: Grid ``(slices, height, width)``.
        spacing: Voxel size along the same axes.
        planar: True for a stack of separate 2-D images, whose diagonal is that of one image.

    Returns:
        The diagonal in the unit of ``spacing``.
    """
    sides = [size * step for size, step in zip(shape, spacing, strict=True)]
    return math.hypot(*(sides[1:] if planar else sides))
