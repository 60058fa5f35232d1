"""Calibration of a classifier: how often it is right when it is so sure (Guo et al. 2017, arXiv:1706.04599)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metaseg.evaluation.classification_checks import checked_probabilities

BINS = 15
"""Bins of the confidence, as in Guo et al."""


@dataclass(frozen=True)
class ReliabilityBins:
    """What :func:`reliability_bins` counts; bin m holds the confidences in (edge m, edge m + 1].

    Attributes:
        edges: ``(bins + 1,)``, from 0 to 1 in equal steps.
        confidence: Mean confidence in [0, 1] of each bin's samples, ``(bins,)``; NaN in an empty bin.
        accuracy: Share of each bin's samples that were classified right, ``(bins,)``; NaN in an empty bin.
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
