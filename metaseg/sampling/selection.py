"""Which axial slices of a case are used at all: about 25 with tumour in Han et al. 2018."""

from __future__ import annotations

from typing import Literal

import numpy as np

from metaseg.sampling.scores import IntArray


def tumour_slices(
    areas: np.ndarray,
    count: int = 25,
    min_area: int = 1,
    method: Literal["even", "random"] = "even",
    rng: np.random.Generator | None = None,
) -> IntArray:
    """Choose ``count`` of a case's tumour-bearing slices.

    Args:
        areas: Tumour pixels of each slice, ``(slices,)``, or by class, ``(slices, classes)``, which are summed.
        count: Slices wanted.
        min_area: Pixels from which on a slice bears tumour.
        method: ``"even"`` cuts the tumour-bearing slices into ``count`` runs of equal length and takes the middle of
            each, with no chance in it; ``"random"`` draws without replacement.
        rng: The source of randomness, for ``"random"`` only.

    Returns:
        Slice places, ascending: ``count`` of them, or all that bear tumour where those are fewer.

    Raises:
        ValueError: The shape is wrong, ``count`` is negative, ``min_area`` is below 1, the method is unknown or has
            no ``rng`` that it needs.
    """
    areas = np.asarray(areas)
    if areas.ndim not in (1, 2) or count < 0 or min_area < 1:
        raise ValueError(f"need (slices,) or (slices, classes), got {areas.shape}, count {count}, min_area {min_area}")
    bearing = np.flatnonzero((areas if areas.ndim == 1 else areas.sum(axis=1)) >= min_area)
    if method == "even":
        if bearing.size <= count:
            return bearing
        # The middle of run i of `count` equal ones, in whole numbers: floor((i + 1/2) n / count).
        return bearing[(2 * np.arange(count) + 1) * bearing.size // (2 * count)]
    if method != "random" or rng is None:
        raise ValueError(f"method '{method}' is neither 'even' nor 'random' with an rng")
    return np.sort(rng.choice(bearing, size=min(count, bearing.size), replace=False))
