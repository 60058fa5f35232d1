"""What every figure of slice classifiers asks of its input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SUM_TOLERANCE = 1e-3
"""How far probabilities of a sample may sum from 1: those of a network in half precision are that far off."""


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
    if not np.isfinite(chance).all():
        raise ValueError("probabilities that are not finite")
    if chance.min() < 0.0 or chance.max() > 1.0 + SUM_TOLERANCE:
        raise ValueError("probabilities outside [0, 1]")
    if np.abs(chance.sum(axis=1) - 1.0).max() > SUM_TOLERANCE:
        raise ValueError("probabilities of a sample that do not sum to 1")
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
