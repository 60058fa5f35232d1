"""Figures of a classifier of slices or patients, by scikit-learn.

A class without samples is left out of every mean over classes: it has neither a recall nor an AUC. Whatever is unknown
is NaN, never 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from metaseg.evaluation.calibration import expected_calibration_error
from metaseg.evaluation.classification_checks import checked_classes, checked_indices, checked_probabilities
from metaseg.evaluation.statistics import known_mean


def classification_figures(
    probabilities: np.ndarray, labels: Sequence[int] | np.ndarray, classes: Sequence[str]
) -> dict[str, float]:
    """All figures of a set of predictions.

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
    """
    chance, truth = checked_probabilities(probabilities, labels)
    names = checked_classes(classes, chance.shape[1])
    predicted = predicted_classes(chance)
    per_class = _decision_figures(predicted, truth, len(names)) | _ranking_figures(chance, truth)
    from sklearn.metrics import accuracy_score

    figures = {
        "accuracy": float(accuracy_score(truth, predicted)),
        "balanced_accuracy": macro_mean(per_class["recall"], per_class["support"]),
    }
    for figure in ("precision", "recall", "f1", "auc", "average_precision"):
        figures[f"{figure}_macro"] = macro_mean(per_class[figure], per_class["support"])
    if len(names) == 2:
        figures["auc"] = figures["auc_macro"]
    figures["ece"] = expected_calibration_error(chance, truth)
    figures["brier"] = float(brier_terms(chance, truth).mean())
    for figure, values in per_class.items():
        figures |= {f"{figure}/{name}": float(value) for name, value in zip(names, values, strict=True)}
    return figures


def predicted_classes(probabilities: np.ndarray) -> np.ndarray:
    """Index of each sample's most probable class, ``(n, c)`` to ``(n,)``; the first of those that share it."""
    return np.asarray(probabilities).argmax(axis=1)


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
    """
    given, truth = checked_indices(predicted, classes), checked_indices(labels, classes)
    if given.shape != truth.shape or given.ndim != 1:
        raise ValueError(f"shapes {given.shape} and {truth.shape}: expected as many of both")
    if not len(truth):
        return np.zeros((classes, classes), dtype=np.int64)
    from sklearn.metrics import confusion_matrix

    return np.asarray(confusion_matrix(truth, given, labels=np.arange(classes)), dtype=np.int64)


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


def brier_terms(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Squared distance of each sample's probabilities from its truth, summed over classes: ``(n,)`` in [0, 2]."""
    return np.square(probabilities - np.eye(probabilities.shape[1])[labels]).sum(axis=1)


def _decision_figures(predicted: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, np.ndarray]:
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


def _ranking_figures(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """AUC and average precision of each class against all others, ``(c,)`` each."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    classes = probabilities.shape[1]
    auc, precision = np.full(classes, math.nan), np.full(classes, math.nan)
    for one in range(classes):
        is_class = labels == one
        if is_class.any() and not is_class.all():
            auc[one] = roc_auc_score(is_class, probabilities[:, one])
            precision[one] = average_precision_score(is_class, probabilities[:, one])
    if classes == 2:
        # The same by definition; rounding of 1 - p may tie, or part, two samples in one of both.
        auc[0] = auc[1]
    return {"auc": auc, "average_precision": precision}
