"""Scores of slices: how well the network segments a slice, and how unsure it is of it."""

from __future__ import annotations

import numpy as np

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
IntArray = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def slice_dice(intersection: np.ndarray, label_area: np.ndarray, predicted_area: np.ndarray) -> FloatArray:
    """Dice of each slice, averaged over the classes that are there (Han et al. 2018; the average is metaseg's choice).

    Counts are additive, so a whole case can be counted batch by batch before this is called.

    Args:
        intersection: Pixels of the class in label and prediction both, ``(slices, classes)``, background left out.
        label_area: Pixels of the class in the label, ``(slices, classes)``.
        predicted_area: Pixels of the class in the prediction, ``(slices, classes)``.

    Returns:
        ``(slices,)`` in ``0 .. 1``: the mean of ``2 I / (P + G)`` over the classes present in the label or the
        prediction of that slice. A class absent from both does not count; a slice empty in both scores 1.

    Raises:
        ValueError: The shapes differ or are not two-dimensional, or an intersection exceeds an area.
    """
    overlap, label, predicted = (
        np.asarray(counts, np.float64) for counts in (intersection, label_area, predicted_area)
    )
    if overlap.ndim != 2 or not overlap.shape == label.shape == predicted.shape:
        raise ValueError(f"need three (slices, classes) arrays, got {overlap.shape}, {label.shape}, {predicted.shape}")
    if np.any(overlap < 0) or np.any(overlap > np.minimum(label, predicted)):
        raise ValueError("an intersection lies outside 0 .. min(label area, predicted area)")
    total = label + predicted
    present = total > 0
    per_class = np.divide(2.0 * overlap, total, out=np.zeros_like(total), where=present)
    classes = present.sum(axis=1)
    mean: FloatArray = per_class.sum(axis=1) / np.maximum(classes, 1)
    return np.where(classes > 0, mean, 1.0)


def predictive_entropy(probabilities: np.ndarray, axis: int = 1) -> FloatArray:
    """Shannon entropy of class probabilities, ``- sum_k p_k ln p_k``, in nats.

    Args:
        probabilities: Class probabilities, summing to 1 over ``axis``. Zeros are taken as the float64 machine epsilon.
        axis: The class axis.

    Returns:
        The entropies, with ``axis`` removed, in ``0 .. ln(classes)``.

    Raises:
        ValueError: A value is not finite or lies outside ``0 .. 1`` by more than rounding.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if not np.all((values >= -1e-6) & (values <= 1 + 1e-6)):
        raise ValueError("probabilities must be finite and within 0 .. 1; was a softmax left out?")
    clipped = np.clip(values, np.finfo(np.float64).eps, 1.0)
    entropy: FloatArray = -np.sum(clipped * np.log(clipped), axis=axis)
    return np.maximum(entropy, 0.0)


def slice_entropy(probabilities: np.ndarray) -> FloatArray:
    """Mean entropy over the pixels of each slice; needs no label.

    Args:
        probabilities: Class probabilities, ``(slices, class, height, width)``.

    Returns:
        ``(slices,)`` in nats, ``0 .. ln(classes)``.

    Raises:
        ValueError: The array is not four-dimensional, or holds no probabilities.
    """
    if probabilities.ndim != 4:
        raise ValueError(f"need (slices, class, height, width), got shape {probabilities.shape}")
    # One slice at a time: the float64 copy of a whole case would take gigabytes.
    return np.array([predictive_entropy(one, axis=0).mean() for one in probabilities], dtype=np.float64)
