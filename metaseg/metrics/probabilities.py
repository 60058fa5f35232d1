"""Class probabilities: the checks of all metrics and scores, and how well they are calibrated.

Calibration says how often a classifier is right when it is so sure (Guo et al. 2017, arXiv:1706.04599).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SUM_TOLERANCE = 1e-3
"""How far probabilities of a sample may sum from 1: those of a network in half precision are that far off."""


def require_probabilities(values: np.ndarray, axis: int = -1) -> None:
    """Make sure that values are class probabilities.

    Args:
        values: Of any shape.
        axis: The class axis.

    Raises:
        ValueError: A value is not finite or outside [0, 1], or the classes do not sum to 1.
    """
    if not np.isfinite(values).all():
        raise ValueError("probabilities that are not finite; was a softmax left out?")
    if values.size and (values.min() < 0.0 or values.max() > 1.0 + SUM_TOLERANCE):
        raise ValueError("probabilities outside [0, 1]; was a softmax left out?")
    if (np.abs(values.sum(axis=axis) - 1.0) > SUM_TOLERANCE).any():
        raise ValueError("probabilities that do not sum to 1 over the classes; was a softmax left out?")


def checked_probabilities(
    probabilities: np.ndarray, labels: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Make sure that predictions and labels are what they should be.

    Args:
        probabilities: ``(n, c)``.
        labels: Class indices ``(n,)`` in ``0 .. c - 1``.

    Returns:
        Both, as ``float64`` and ``int64``.

    Raises:
        ValueError: There is no sample or only one class, shapes differ, a probability is not finite or outside [0, 1],
            those of a sample do not sum to 1, or a label names no class.
    """
    chance, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if chance.ndim != 2 or truth.shape != chance.shape[:1] or not len(chance) or chance.shape[1] < 2:
        raise ValueError(
            f"probabilities {chance.shape} and labels {truth.shape}: expected (n, c) and (n,), n >= 1, c >= 2"
        )
    require_probabilities(chance)
    return chance, checked_indices(truth, chance.shape[1])


def checked_indices(values: Sequence[int] | np.ndarray, classes: int) -> np.ndarray:
    """Class indices ``(n,)`` as ``int64``.

    Raises:
        ValueError: They are no whole numbers in ``0 .. classes - 1``.
    """
    indices = np.asarray(values)
    if indices.size and indices.dtype.kind not in "iu":
        raise ValueError(f"class indices of type {indices.dtype}: expected whole numbers")
    if indices.size and (indices.min() < 0 or indices.max() >= classes):
        raise ValueError(f"class indices outside 0 .. {classes - 1}")
    return indices.astype(np.int64)


def checked_classes(classes: Sequence[str], count: int) -> tuple[str, ...]:
    """Names of ``count`` classes.

    Raises:
        ValueError: There are more or fewer, or two are the same.
    """
    names = tuple(classes)
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"class names {', '.join(names)}: expected {count} different ones")
    return names


def predicted_classes(probabilities: np.ndarray) -> np.ndarray:
    """Index of each sample's most probable class, ``(n, c)`` to ``(n,)``; the first of those that share it."""
    return np.asarray(probabilities).argmax(axis=1)


def brier_terms(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Squared distance of each sample's probabilities from its truth, summed over classes: ``(n,)`` in [0, 2]."""
    return np.square(probabilities - np.eye(probabilities.shape[1])[labels]).sum(axis=1)


BINS = 15
"""Bins of the confidence, as in Guo et al."""


@dataclass(frozen=True)
class ReliabilityBins:
    """What :func:`reliability_bins` counts; bin m holds the confidences in (edge m, edge m + 1].

    Attributes:
        edges: ``(bins + 1,)``, from 0 to 1 in equal steps.
        confidence: Mean confidence in [0, 1] of each bin's samples, ``(bins,)``; NaN in an empty bin.
        accuracy: Fraction of each bin's samples that were classified right, ``(bins,)``; NaN in an empty bin.
        count: Samples in each bin, ``(bins,)``.
    """

    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


def reliability_bins(
    probabilities: np.ndarray, labels: Sequence[int] | np.ndarray, bins: int = BINS
) -> ReliabilityBins:
    """Sort samples by the probability of the class that they were given (their confidence).

    Args:
        probabilities: ``(n, c)``, rows sum to 1.
        labels: Class indices ``(n,)``.
        bins: Number of bins of equal width.

    Raises:
        ValueError: The input is no set of predictions, or there is no bin.
    """
    place, confidence, right = binned_confidence(probabilities, labels, bins)
    count = np.bincount(place, minlength=bins)
    known = np.where(count > 0, count, np.nan)
    return ReliabilityBins(
        edges=np.linspace(0.0, 1.0, bins + 1),
        confidence=np.bincount(place, weights=confidence, minlength=bins) / known,
        accuracy=np.bincount(place, weights=right, minlength=bins) / known,
        count=count,
    )


def expected_calibration_error(
    probabilities: np.ndarray, labels: Sequence[int] | np.ndarray, bins: int = BINS
) -> float:
    """Mean distance of confidence and accuracy over the bins, weighted by their samples; empty bins weigh nothing.

    Args:
        probabilities: ``(n, c)``, rows sum to 1.
        labels: Class indices ``(n,)``.
        bins: Number of bins of equal width.

    Returns:
        The error in [0, 1]; 0 is best.

    Raises:
        ValueError: The input is no set of predictions, or there is no bin.

    Examples:
        >>> round(expected_calibration_error(np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]]), [0, 0, 1]), 3)
        0.333
    """
    place, confidence, right = binned_confidence(probabilities, labels, bins)
    gaps = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(place))


def binned_confidence(
    probabilities: np.ndarray, labels: Sequence[int] | np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each sample's bin, confidence and whether it was right (1.0 or 0.0), ``(n,)`` each.

    Of classes with the same highest probability the first counts as predicted.
    """
    if bins < 1:
        raise ValueError(f"{bins} bins: expected at least one")
    chance, truth = checked_probabilities(probabilities, labels)
    confidence = chance.max(axis=1)
    place = np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:-1], confidence, side="left")
    return place, confidence, (chance.argmax(axis=1) == truth).astype(np.float64)
