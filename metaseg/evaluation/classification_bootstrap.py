"""Intervals of a classifier's figures: patients are drawn with replacement, all slices of a patient together.

A resample is a weight for every slice, how often its patient was drawn; figures of all resamples are computed at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from metaseg.evaluation.calibration import BINS, binned_confidence
from metaseg.evaluation.classification import brier_terms, patient_indices, predicted_classes
from metaseg.evaluation.classification_checks import checked_classes, checked_probabilities
from metaseg.evaluation.statistics import draw_weights, known_mean, percentile_interval

HEADLINES = ("accuracy", "balanced_accuracy", "f1_macro", "auc_macro")
_AT_ONCE = 4_000_000
"""Weights of slices held at a time."""


def bootstrap_figures(
    probabilities: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    patients: Sequence[str] | np.ndarray,
    classes: Sequence[str],
    generator: np.random.Generator,
    resamples: int = 1000,
    names: Sequence[str] | None = HEADLINES,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of figures of :func:`metaseg.evaluation.classification.classification_figures`.

    Args:
        probabilities: ``(n, c)``, rows sum to 1.
        labels: Class indices ``(n,)``.
        patients: Each slice's patient ``(n,)``.
        classes: The ``c`` names.
        generator: Source of randomness.
        resamples: Number of resamples.
        names: The figures wanted; None gives all but the supports.
        level: Coverage in (0, 1).

    Returns:
        Name to lower and upper end; NaN with fewer than two patients. Resamples in which a figure is not known, as the
        recall of a class that was not drawn, are left out of its interval.

    Raises:
        ValueError: The input is no set of predictions of these classes, or a figure has no interval.
    """
    chance, truth = checked_probabilities(probabilities, labels)
    known, of_slice = patient_indices(patients, len(chance))
    drawn = draw_weights(len(known), resamples, generator)
    step = max(1, _AT_ONCE // len(chance))
    parts = [
        weighted_figures(chance, truth, drawn[begin : begin + step][:, of_slice], classes)
        for begin in range(0, resamples, step)
    ]
    wanted = tuple(parts[0]) if names is None else tuple(names)
    if unknown := [name for name in wanted if name not in parts[0]]:
        raise ValueError(f"no interval of {', '.join(unknown)}: expected some of {', '.join(parts[0])}")
    if len(known) < 2:
        return dict.fromkeys(wanted, (math.nan, math.nan))
    return {name: percentile_interval(np.concatenate([part[name] for part in parts]), level) for name in wanted}


def weighted_figures(
    probabilities: np.ndarray, labels: Sequence[int] | np.ndarray, weights: np.ndarray, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Figures of many resamples at once, with the names and for empty classes the rules of ``classification.py``.

    Args:
        probabilities: ``(n, c)``, rows sum to 1.
        labels: Class indices ``(n,)``.
        weights: How often each sample counts in each resample, ``(r, n)``, at least 0, none all 0.
        classes: The ``c`` names.

    Returns:
        Name to values ``(r,)``; without supports.
    """
    chance, truth = checked_probabilities(probabilities, labels)
    names = checked_classes(classes, chance.shape[1])
    counts = weighted_confusion(predicted_classes(chance), truth, weights, len(names))
    total = weights.sum(axis=1)
    per_class = _decision_figures(counts) | _ranking_figures(chance, truth, weights)
    present = counts.sum(axis=2) > 0
    figures = {"accuracy": np.trace(counts, axis1=1, axis2=2) / total}
    figures["balanced_accuracy"] = known_mean(per_class["recall"])
    for figure, values in per_class.items():
        figures[f"{figure}_macro"] = known_mean(np.where(present, values, np.nan))
    if len(names) == 2:
        figures["auc"] = figures["auc_macro"]
    place, confidence, right = binned_confidence(chance, truth, BINS)
    gaps = np.eye(BINS)[place] * (right - confidence)[:, np.newaxis]
    figures["ece"] = np.abs(weights @ gaps).sum(axis=1) / total
    figures["brier"] = weights @ brier_terms(chance, truth) / total
    for figure, values in per_class.items():
        figures |= {f"{figure}/{name}": values[:, column] for column, name in enumerate(names)}
    return figures


def weighted_confusion(predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrices of many resamples.

    Args:
        predicted: Class indices ``(n,)``.
        labels: Class indices ``(n,)``.
        weights: ``(r, n)``.
        classes: Their number.

    Returns:
        Sums of weights ``(r, classes, classes)``, rows truth.
    """
    pair = np.eye(classes * classes)[labels * classes + predicted]
    return (weights @ pair).reshape(-1, classes, classes)


def weighted_ranking(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ROC-AUC and average precision of many resamples.

    The AUC is the share of pairs of a positive and a negative sample in which the positive one scores higher, equal
    scores counting half. The average precision is the sum over thresholds of the rise of the recall times the
    precision.

    Args:
        scores: ``(n,)``.
        positive: Whether a sample is of the class, ``(n,)``.
        weights: ``(r, n)``.

    Returns:
        Both in [0, 1], ``(r,)`` each; NaN where positives or negatives weigh nothing.
    """
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    hits = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    misses = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1)
    hits_so_far, misses_so_far = hits.cumsum(axis=1), misses.cumsum(axis=1)
    positives, negatives = hits_so_far[:, -1], misses_so_far[:, -1]
    known = (positives > 0) & (negatives > 0)
    beaten = negatives[:, np.newaxis] - misses_so_far + misses / 2
    auc = (hits * beaten).sum(axis=1) / np.where(known, positives * negatives, 1.0)
    reached = hits_so_far + misses_so_far
    precision = hits_so_far / np.where(reached > 0, reached, 1.0)
    average = (hits * precision).sum(axis=1) / np.where(known, positives, 1.0)
    return np.where(known, auc, np.nan), np.where(known, average, np.nan)


def _decision_figures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 from confusion matrices ``(r, c, c)``; ``(r, c)`` each."""
    right = np.diagonal(counts, axis1=1, axis2=2)
    truth, given = counts.sum(axis=2), counts.sum(axis=1)
    met = truth + given > 0
    return {
        "precision": np.where(met, right / np.where(given > 0, given, 1.0), np.nan),
        "recall": np.where(truth > 0, right / np.where(truth > 0, truth, 1.0), np.nan),
        "f1": np.where(met, 2.0 * right / np.where(met, truth + given, 1.0), np.nan),
    }


def _ranking_figures(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """AUC and average precision of each class against all others, ``(r, c)`` each."""
    classes = probabilities.shape[1]
    both = [weighted_ranking(probabilities[:, one], labels == one, weights) for one in range(classes)]
    auc, precision = (np.stack(values, axis=1) for values in zip(*both, strict=True))
    if classes == 2:
        auc[:, 0] = auc[:, 1]
    return {"auc": auc, "average_precision": precision}
