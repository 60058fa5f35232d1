"""Class probabilities as distributions: the check that all scores share, and how far apart several of them are."""

from __future__ import annotations

import numpy as np

from metaseg.sampling.scores import FloatArray

SUM_TOLERANCE = 1e-4
"""How far a sum of probabilities may lie from 1: enough for a softmax in single precision."""


def as_distributions(probabilities: np.ndarray, *axes: str) -> FloatArray:
    """Check class probabilities and bring them to float64.

    Args:
        probabilities: With the classes on the last axis.
        *axes: What the axes are, as many as the array must have. That of the samples alone may be empty.

    Returns:
        The same values, clipped to ``0 .. 1``.

    Raises:
        ValueError: The shape is another, an axis other than that of the samples is empty, a value is not finite or
            lies outside ``0 .. 1`` by more than rounding, or the classes do not sum to 1.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != len(axes) or any(
        size == 0 and axis != "samples" for axis, size in zip(axes, values.shape, strict=True)
    ):
        raise ValueError(f"need ({', '.join(axes)}) probabilities, got shape {values.shape}")
    if not np.all((values >= -1e-6) & (values <= 1 + 1e-6)):
        raise ValueError("probabilities must be finite and within 0 .. 1; was a softmax left out?")
    if not np.all(np.abs(values.sum(axis=-1) - 1) <= SUM_TOLERANCE):
        raise ValueError("the probabilities of the classes must sum to 1; was a softmax left out?")
    return np.clip(values, 0.0, 1.0)


def pair_divergence(distributions: np.ndarray) -> FloatArray:
    """Symmetric Kullback-Leibler divergence, summed over all unordered pairs of some distributions.

    The divergence of ``p`` and ``q`` is ``sum_k (p_k - q_k) ln(p_k / q_k)``. It is the product of two differences, so
    that the sum over the pairs of m distributions is m times the co-deviation of ``p`` and ``ln p`` from their means:
    no matrix of pairs is made, and equal distributions give 0 without the rounding of a difference of large sums.

    Args:
        distributions: ``(..., m, classes)``. Zeros are taken as the float64 machine epsilon.

    Returns:
        ``(...)``, at least 0.
    """
    clipped = np.clip(np.asarray(distributions, dtype=np.float64), np.finfo(np.float64).eps, 1.0)
    logarithms = np.log(clipped)
    products = (clipped - clipped.mean(axis=-2, keepdims=True)) * (logarithms - logarithms.mean(axis=-2, keepdims=True))
    divergence: FloatArray = clipped.shape[-2] * products.sum(axis=(-2, -1))
    return np.maximum(divergence, 0.0)
