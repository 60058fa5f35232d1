"""Which slices of a case are used, and their decomposition into learned and unlearned tasks (Han et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from metaseg.errors import UsageError
from metaseg.sampling.scores import FloatArray, IntArray

Side = Literal["learned", "unlearned"]
SIDES: tuple[Side, Side] = ("learned", "unlearned")
ThresholdRule = Literal["median", "otsu", "rank"]
THRESHOLD_RULES: tuple[ThresholdRule, ...] = get_args(ThresholdRule)
FALLBACK: ThresholdRule = "rank"
"""What parts a case where the threshold asked for does not. Rank leaves fewer cases without a task on one side than
Otsu's threshold does (docs/sampling.md)."""


@dataclass(frozen=True, eq=False)
class Decomposition:
    """The two sides of a case.

    Attributes:
        learned: Positions of the slices at or above the threshold (T_g), ascending.
        unlearned: Positions of the slices below it (T_b), ascending; where all slices are tied, the first half.
        threshold: The threshold τ that was used.
        fallback: The rule that gave τ in place of the one asked for, which parted nothing; or None. Worth a line in
            the log.
    """

    learned: IntArray
    unlearned: IntArray
    threshold: float
    fallback: ThresholdRule | None


def decompose(scores: np.ndarray, threshold: float | str = "median") -> Decomposition:
    """Split slices at a threshold τ of their score: learned where ``score >= τ``, unlearned where ``score < τ``.

    Slices tied at the lowest score are never learned: no τ that would call them so parts the case, be it a median of 0
    where a network misses more than half of the slices wholly, or a number below all scores. The case is then parted
    by rank instead.

    Args:
        scores: One score a slice, ``(slices,)``, finite; usually the Dice under the current network.
        threshold: τ itself, or a rule: ``"median"`` (for an even count the mean of the middle two), ``"otsu"``
            (Otsu 1979, over 256 bins), or ``"rank"``, the score that comes nearest to halving the case among those
            that part it; of slices that are all tied, the first half is unlearned.

    Returns:
        The two sides; neither is empty and together they hold every position once.

    Raises:
        UsageError: There are fewer than two slices, a score is not finite, or the threshold is not understood.
        ValueError: ``scores`` is not one-dimensional.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"need scores of shape (slices,), got {values.shape}")
    if values.size < 2:
        raise UsageError(
            f"{values.size} slice(s) cannot be split into learned and unlearned tasks",
            expected="2 slices or more in a case",
            remedy="leave the case out, or draw more slices from it",
        )
    if not np.all(np.isfinite(values)):
        raise UsageError(
            f"{np.count_nonzero(~np.isfinite(values))} of {values.size} slice scores are not finite",
            remedy="check that the network's weights and its input are finite",
        )
    tau, fallback = _threshold(values, threshold), None
    if not values.min() < tau <= values.max() and threshold != FALLBACK:
        tau, fallback = _threshold(values, FALLBACK), FALLBACK
    # No threshold parts slices that are all tied.
    learned = values >= tau if values.min() < tau else np.arange(values.size) >= values.size // 2
    return Decomposition(np.flatnonzero(learned), np.flatnonzero(~learned), tau, fallback)


def _threshold(values: FloatArray, threshold: float | str) -> float:
    if threshold == "median":
        return float(np.median(values))
    if threshold == "rank":
        parting = np.unique(values)[1:]
        below = np.searchsorted(np.sort(values), parting)
        return float(parting[np.argmin(np.abs(2 * below - values.size))] if parting.size else values[0])
    if threshold == "otsu":
        low, high = float(values.min()), float(values.max())
        if high - low <= 1e-9:  # no histogram can be laid over scores that are all alike
            return low
        from skimage.filters import threshold_otsu  # slow to import, and wanted here only

        return float(threshold_otsu(values))
    if isinstance(threshold, str) or not np.isfinite(threshold):
        raise UsageError(
            f"unknown threshold '{threshold}'", expected="a finite number, or one of " + ", ".join(THRESHOLD_RULES)
        )
    return float(threshold)


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
