"""Metrics of a classifier of slices or patients, by scikit-learn, and their intervals.

A class without samples is left out of every mean over classes: it has neither a recall nor an AUC. Whatever is unknown
is NaN, never 0 or 1. For intervals, patients are drawn with replacement, all slices of a patient together: a resample
is a weight for every slice, how often its patient was drawn, and the metrics of all resamples are computed at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from metaseg.metrics.probabilities import (
    BINS,
    binned_confidence,
    brier_terms,
    checked_classes,
    checked_indices,
    checked_probabilities,
    expected_calibration_error,
    predicted_classes,
)
from metaseg.metrics.statistics import draw_weights, known_mean, percentile_interval


def classification_metrics(
    probabilities: np.ndarray, labels: Sequence[int] | np.ndarray, classes: Sequence[str]
) -> dict[str, float]:
    """All metrics of a set of predictions.

    The class predicted is the one with the highest probability, the first of those that share it.

    Args:
        probabilities: ``(n, c)``, each row in [0, 1] with the sum 1.
        labels: Class indices ``(n,)``.
        classes: The ``c`` names.

    Returns:
        Name to value: ``accuracy``, ``balanced_accuracy``, ``precision_macro``, ``recall_macro``, ``f1_macro``,
        ``auc_macro``, ``average_precision_macro`` and ``ece`` in [0, 1], ``brier`` in [0, 2]; ``precision/<class>``,
        ``recall/<class>``, ``f1/<class>``, ``auc/<class>``, ``average_precision/<class>`` in [0, 1] and the number of
        samples, ``support/<class>``. With two classes also ``auc``, that of the second; ``auc_macro`` is the same.

        A class without samples has the recall NaN, and precision and F1 0 if it was predicted, else NaN; it is in no
        macro mean. A class with samples that was never predicted has precision, recall and F1 0 and is in the means.
        AUC and average precision are NaN where a class or all others have no sample, their macro means are over the
        classes that have one, NaN if none has.

    Raises:
        ValueError: The input is no set of predictions of these classes.

    Examples:
        >>> probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
        >>> found = classification_metrics(probabilities, [0, 0, 1], ("LGG", "HGG"))
        >>> found["auc"], found["balanced_accuracy"], found["recall/LGG"]
        (1.0, 0.75, 0.5)
    """
    chance, truth = checked_probabilities(probabilities, labels)
    names = checked_classes(classes, chance.shape[1])
    predicted = predicted_classes(chance)
    per_class = _decision_metrics(predicted, truth, len(names)) | _ranking_metrics(chance, truth)
    metrics = {
        "accuracy": float(np.mean(predicted == truth)),
        "balanced_accuracy": macro_mean(per_class["recall"], per_class["support"]),
    }
    for metric in ("precision", "recall", "f1", "auc", "average_precision"):
        metrics[f"{metric}_macro"] = macro_mean(per_class[metric], per_class["support"])
    if len(names) == 2:
        metrics["auc"] = metrics["auc_macro"]
    metrics["ece"] = expected_calibration_error(chance, truth)
    metrics["brier"] = float(brier_terms(chance, truth).mean())
    for metric, values in per_class.items():
        metrics |= {f"{metric}/{name}": float(value) for name, value in zip(names, values, strict=True)}
    return metrics


def confusion_counts(
    predicted: Sequence[int] | np.ndarray, labels: Sequence[int] | np.ndarray, classes: int
) -> np.ndarray:
    """How many samples of each class were given each class.

    Args:
        predicted: Class indices ``(n,)``.
        labels: Class indices ``(n,)``.
        classes: Their number.

    Returns:
        ``(classes, classes)`` counts, the true class along the rows, the predicted one along the columns.

    Raises:
        ValueError: The lengths differ or an index names no class.

    Examples:
        >>> confusion_counts([0, 1, 1], [0, 0, 1], 2).tolist()
        [[1, 1], [0, 1]]
    """
    given, truth = checked_indices(predicted, classes), checked_indices(labels, classes)
    if given.shape != truth.shape or given.ndim != 1:
        raise ValueError(f"shapes {given.shape} and {truth.shape}: expected as many of both")
    return np.bincount(classes * truth + given, minlength=classes * classes).reshape(classes, classes)


def patient_probabilities(
    probabilities: np.ndarray, labels: Sequence[int] | np.ndarray, patients: Sequence[str] | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions of patients: the mean of the probabilities of their slices, every slice with the same weight.

    Args:
        probabilities: ``(n, c)``, rows sum to 1.
        labels: Class indices ``(n,)``.
        patients: Each slice's patient ``(n,)``.

    Returns:
        Probabilities ``(p, c)``, class indices ``(p,)`` and the patients ``(p,)`` in ascending order.

    Raises:
        ValueError: A patient has slices of two classes, or the input is no set of predictions.
    """
    chance, truth = checked_probabilities(probabilities, labels)
    names, of_slice = patient_indices(patients, len(chance))
    counts = np.bincount(of_slice, minlength=len(names))
    means = np.stack([np.bincount(of_slice, weights=column) for column in chance.T], axis=1) / counts[:, np.newaxis]
    of_patient = np.zeros(len(names), dtype=np.int64)
    of_patient[of_slice] = truth
    if (mixed := of_patient[of_slice] != truth).any():
        raise ValueError(f"patient {names[of_slice[mixed][0]]} has slices of more than one class")
    return means, of_patient, names


def patient_indices(patients: Sequence[str] | np.ndarray, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """The patients in ascending order ``(p,)``, and the position therein of each slice's patient ``(slices,)``.

    Raises:
        ValueError: There are not as many entries as slices.
    """
    entries = np.asarray(patients)
    if entries.shape != (slices,):
        raise ValueError(f"patients {entries.shape}: expected one for each of {slices} slices")
    names, of_slice = np.unique(entries, return_inverse=True)
    return names, of_slice


def macro_mean(values: np.ndarray, support: np.ndarray) -> float:
    """Mean over the classes ``(c,)`` that have samples and a value; NaN if there is none."""
    return float(known_mean(np.where(support > 0, values, np.nan)))


def _decision_metrics(predicted: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and support of each class, ``(c,)`` each."""
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(classes), average=None, zero_division=0.0
    )
    absent, ignored = support == 0, np.bincount(predicted, minlength=classes) == 0
    return {
        "precision": np.where(absent & ignored, math.nan, precision),
        "recall": np.where(absent, math.nan, recall),
        "f1": np.where(absent & ignored, math.nan, f1),
        "support": support,
    }


def _ranking_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """AUC and average precision of each class against all others, ``(c,)`` each."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    classes = probabilities.shape[1]
    auc, precision = np.full(classes, math.nan), np.full(classes, math.nan)
    for number in range(classes):
        is_class = labels == number
        if is_class.any() and not is_class.all():
            auc[number] = roc_auc_score(is_class, probabilities[:, number])
            precision[number] = average_precision_score(is_class, probabilities[:, number])
    if classes == 2:
        # The same by definition; rounding of 1 - p may tie, or part, two samples in one of both.
        auc[0] = auc[1]
    return {"auc": auc, "average_precision": precision}


HEADLINES = ("accuracy", "balanced_accuracy", "f1_macro", "auc_macro")
_AT_ONCE = 4_000_000
"""Weights of slices held at a time."""


def bootstrap_metrics(
    probabilities: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    patients: Sequence[str] | np.ndarray,
    classes: Sequence[str],
    generator: np.random.Generator,
    resamples: int = 1000,
    names: Sequence[str] | None = HEADLINES,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of metrics of :func:`metaseg.metrics.classification.classification_metrics`.

    Args:
        probabilities: ``(n, c)``, rows sum to 1.
        labels: Class indices ``(n,)``.
        patients: Each slice's patient ``(n,)``.
        classes: The ``c`` names.
        generator: Source of randomness.
        resamples: Number of resamples.
        names: The metrics wanted; None gives all but the supports.
        level: Coverage in (0, 1).

    Returns:
        Name to lower and upper end; NaN with fewer than two patients. Resamples in which a metric is not known, as the
        recall of a class that was not drawn, are left out of its interval.

    Raises:
        ValueError: The input is no set of predictions of these classes, or a metric has no interval.
    """
    chance, truth = checked_probabilities(probabilities, labels)
    known, of_slice = patient_indices(patients, len(chance))
    drawn = draw_weights(len(known), resamples, generator)
    step = max(1, _AT_ONCE // len(chance))
    parts = [
        weighted_metrics(chance, truth, drawn[begin : begin + step][:, of_slice], classes)
        for begin in range(0, resamples, step)
    ]
    wanted = tuple(parts[0]) if names is None else tuple(names)
    if unknown := [name for name in wanted if name not in parts[0]]:
        raise ValueError(f"no interval of {', '.join(unknown)}: expected some of {', '.join(parts[0])}")
    if len(known) < 2:
        return dict.fromkeys(wanted, (math.nan, math.nan))
    return {name: percentile_interval(np.concatenate([part[name] for part in parts]), level) for name in wanted}


def weighted_metrics(
    probabilities: np.ndarray, labels: Sequence[int] | np.ndarray, weights: np.ndarray, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Metrics of many resamples at once, with the names and for empty classes the rules of ``classification.py``.

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
    per_class = weighted_decisions(counts) | _weighted_rankings(chance, truth, weights)
    present = counts.sum(axis=2) > 0
    metrics = {"accuracy": np.trace(counts, axis1=1, axis2=2) / total}
    metrics["balanced_accuracy"] = known_mean(per_class["recall"])
    for metric, values in per_class.items():
        metrics[f"{metric}_macro"] = known_mean(np.where(present, values, np.nan))
    if len(names) == 2:
        metrics["auc"] = metrics["auc_macro"]
    place, confidence, right = binned_confidence(chance, truth, BINS)
    gaps = np.eye(BINS)[place] * (right - confidence)[:, np.newaxis]
    metrics["ece"] = np.abs(weights @ gaps).sum(axis=1) / total
    metrics["brier"] = weights @ brier_terms(chance, truth) / total
    for metric, values in per_class.items():
        metrics |= {f"{metric}/{name}": values[:, column] for column, name in enumerate(names)}
    return metrics


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

    The AUC is the fraction of pairs of a positive and a negative sample in which the positive one scores higher, equal
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


def weighted_decisions(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 from confusion matrices ``(r, c, c)``; ``(r, c)`` each."""
    right = np.diagonal(counts, axis1=1, axis2=2)
    truth, given = counts.sum(axis=2), counts.sum(axis=1)
    met = truth + given > 0
    return {
        "precision": np.where(met, right / np.where(given > 0, given, 1.0), np.nan),
        "recall": np.where(truth > 0, right / np.where(truth > 0, truth, 1.0), np.nan),
        "f1": np.where(met, 2.0 * right / np.where(met, truth + given, 1.0), np.nan),
    }


def _weighted_rankings(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """AUC and average precision of each class against all others, ``(r, c)`` each."""
    classes = probabilities.shape[1]
    both = [weighted_ranking(scores, labels == number, weights) for number, scores in enumerate(probabilities.T)]
    auc, precision = (np.stack(values, axis=1) for values in zip(*both, strict=True))
    if classes == 2:
        auc[:, 0] = auc[:, 1]
    return {"auc": auc, "average_precision": precision}
