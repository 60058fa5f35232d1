"""Intensities that no network can use: not finite, beyond all numbers of 32 bits, or drowned by a few stray voxels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

LARGEST, SMALLEST = 1e30, 1e-30
"""Sizes of intensities that 32-bit numbers can be normalised from, with room for sums of them."""

MOST_SPREADS = 1000.0
"""Distance of a voxel from the median, in ranges of the others, from which it leaves nothing of their contrast."""

SAMPLED = 20_000


def intensity_problem(array: np.ndarray) -> str | None:
    """What makes intensities unusable, such as ``"holds NaN or infinity in 3 of 1000 voxels"``; None if nothing does.

    Args:
        array: Of any shape, in the file's number type.
    """
    if not array.size or (array.dtype.itemsize <= 2 and array.dtype.kind in "biu"):
        return None
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        return f"holds NaN or infinity in {np.count_nonzero(~np.isfinite(array))} of {array.size} voxels"
    largest = max(-low, high)
    if largest > LARGEST or 0 < largest < SMALLEST:
        return f"has intensities up to {largest:.3g} in size, which 32-bit numbers cannot hold"
    return _stray(array, low, high)


def _stray(array: np.ndarray, low: float, high: float) -> str | None:
    """Says so if a voxel lies so far from all others that nothing is left of their contrast."""
    # From some voxels, evenly spread: quantiles of all would take longer than reading the file.
    step = max(1, round((array.size / SAMPLED) ** 0.5)) if array.ndim > 1 else 1
    sample = array[..., ::step, ::step] if array.ndim > 1 else array
    inside = sample[sample != 0].astype(np.float64)
    if inside.size < 100:
        return None
    first, median, last = np.quantile(inside, (0.01, 0.5, 0.99))
    spread = max(last - first, abs(median))
    far = high if high - median > median - low else low
    if not abs(far - median) > MOST_SPREADS * spread:
        return None
    return f"has a voxel of {far:.3g} where nearly all others lie between {first:.3g} and {last:.3g}"


def spoiled_file(array: np.ndarray, files: Sequence[Path]) -> Path:
    """Which of an image's files has the problem: of a stack of pictures, the first that has one by itself."""
    pictures = zip(array, files, strict=True) if len(files) == len(array) else ()
    return next((file for part, file in pictures if intensity_problem(part)), files[0])
