"""Statistics of a comparison: paired tests between methods, their correction, intervals over seeds and patients.

Patients are the sample; seeds repeat the experiment on the same patients, so they never count as further patients. What
holds for methods, and not only for the networks that were trained, needs at least :data:`FEWEST_SEEDS` seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

FEWEST_SEEDS = 3
"""Of fewer seeds there is no interval over seeds, and no claim on a method."""
FEWEST_PAIRS = 6
"""Of fewer pairs Wilcoxon's test cannot give p below 0.05, and the best of many is not tested."""
SAME = 12
"""Decimals at which two Dice values are the same: rounding errors of a mean over seeds make no difference."""


@dataclass(frozen=True)
class PairedTest:
    """Outcome of :func:`paired_wilcoxon`.

    Attributes:
        n: Pairs in which both values are known.
        statistic: The smaller of the two signed-rank sums.
        p: Two-sided p value.
        rank_biserial: (W+ - W-) / (W+ + W-) in [-1, 1], W+ being the sum of the ranks of the pairs with ``a > b``
            (Kerby 2014, Compr. Psychol. 3:11.IT.3.1); 0 if all pairs are equal.
        mean_difference: Mean of ``a - b``.
        cohens_dz: Mean of ``a - b`` over its sample standard deviation; NaN if that is 0.
    """

    n: int
    statistic: float
    p: float
    rank_biserial: float
    mean_difference: float
    cohens_dz: float


def paired_wilcoxon(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> PairedTest:
    """Wilcoxon's signed-rank test of paired values, two-sided, with effect sizes.

    Equal pairs are left out of the ranks (Wilcoxon's own rule), others of like size share their mean rank. The p value
    is SciPy's: exact up to 50 unequal pairs (13 if ranks are shared), the normal approximation beyond.

    Args:
        a: Values ``(pair,)``.
        b: Values of the same patients, in the same order.

    Returns:
        The test. Pairs with a NaN are dropped. If all are equal, p is 1; with fewer than two pairs there is no test:
        all but ``n`` and ``mean_difference`` is NaN.

    Raises:
        ValueError: The lengths differ.

    Examples:
        >>> test = paired_wilcoxon([0.8, 0.7, 0.9, 0.6, 0.75, 0.8], [0.6, 0.65, 0.8, 0.5, 0.72, 0.66])
        >>> test.n, test.p, test.rank_biserial
        (6, 0.03125, 1.0)
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"shapes {first.shape} and {second.shape}: expected as many values of both")
    difference = np.round(first - second, SAME)
    difference = difference[~np.isnan(difference)]
    mean = float(known_mean(difference))
    if len(difference) < 2:
        return PairedTest(len(difference), math.nan, math.nan, math.nan, mean, math.nan)
    spread = float(np.std(difference, ddof=1))
    effect = mean / spread if spread > 0 else math.nan
    unequal = difference[difference != 0]
    if not len(unequal):
        return PairedTest(len(difference), 0.0, 1.0, 0.0, mean, effect)
    ranks = stats.rankdata(np.abs(unequal))
    balance = float(np.sum(np.sign(unequal) * ranks) / np.sum(ranks))
    test = stats.wilcoxon(unequal)
    return PairedTest(len(difference), float(test.statistic), float(test.pvalue), balance, mean, effect)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down correction for several tests (Scand J Stat 1979, 6:65-70).

    Args:
        p_values: p values ``(test,)``; a NaN is a test that was not made, and is not counted.

    Returns:
        Adjusted p values ``(test,)``, at most 1, in the same order; NaN where there was none.

    Examples:
        >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")[: int(np.sum(~np.isnan(p)))]
    adjusted = np.full(p.shape, np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def p_against_best(of_seeds: np.ndarray, of_patients: np.ndarray, patients: int) -> np.ndarray:
    """Test the highest of several means against every other, corrected for its being the highest of many.

    Every two entries are compared, and Holm's correction covers all pairs: whichever entry turns out highest, its
    comparisons are among them, so that choosing it by the same data is paid for. The variance of a difference is that
    over patients, from the bootstrap, plus that over seeds; it is set against Student's t with the degrees of freedom
    of Satterthwaite (Biometrics 1946, 2:110-114).

    Args:
        of_seeds: A metric of every run ``(seed, entry)``, higher is better; NaN where an entry lacks a seed.
        of_patients: Its mean over seeds in resamples that draw patients, alike for all entries, ``(resample, entry)``.
        patients: Their number.

    Returns:
        p of each entry against the highest, ``(entry,)``; NaN for the highest itself, and where there are fewer than
        :data:`FEWEST_PAIRS` patients or :data:`FEWEST_SEEDS` seeds that both have.
    """
    entries = of_seeds.shape[1]
    means = known_mean(of_seeds, axis=0)
    p = np.full(entries, np.nan)
    if np.isnan(means).all() or patients < FEWEST_PAIRS:
        return p
    one, other = np.triu_indices(entries, 1)
    gaps = zip((of_seeds[:, one] - of_seeds[:, other]).T, (of_patients[:, one] - of_patients[:, other]).T, strict=True)
    corrected = holm([_p_of_gap(seeds[~np.isnan(seeds)], drawn[~np.isnan(drawn)], patients) for seeds, drawn in gaps])
    best = int(np.nanargmax(means))
    with_best = (one == best) | (other == best)
    p[(one + other - best)[with_best]] = corrected[with_best]
    return p


def _p_of_gap(of_seeds: np.ndarray, of_patients: np.ndarray, patients: int) -> float:
    """P of a difference, from its values ``(seed,)`` and its resamples ``(resample,)``; NaN if it cannot be tested."""
    if len(of_seeds) < FEWEST_SEEDS or len(of_patients) < 2:
        return math.nan
    # The bootstrap's variance of a mean is too small by this factor.
    over_patients = float(np.var(of_patients, ddof=1)) * patients / (patients - 1)
    over_seeds = float(np.var(of_seeds, ddof=1)) / len(of_seeds)
    gap, variance = abs(float(np.mean(of_seeds))), over_patients + over_seeds
    if variance <= 10.0 ** (-2 * SAME):
        return 1.0 if gap <= 10.0**-SAME else 0.0
    freedom = variance**2 / (over_patients**2 / (patients - 1) + over_seeds**2 / (len(of_seeds) - 1))
    return float(2.0 * stats.t.sf(gap / math.sqrt(variance), freedom))


def seeds_interval(
    values: Sequence[float] | np.ndarray, level: float = 0.95, least: float = 0.0, most: float = 1.0
) -> tuple[float, float]:
    """Student's interval of a mean over seeds, as papers give it over runs; it says nothing of other patients.

    It ends where the metric does: no mean lies beyond, so that what is cut off costs no coverage.

    Args:
        values: A metric of each run ``(seed,)``; NaN among them are left out.
        level: Coverage in (0, 1).
        least: The least value that the metric can have: -1 of a difference of two fractions.
        most: The greatest.

    Returns:
        Lower and upper end; NaN with fewer than :data:`FEWEST_SEEDS` runs, or if they do not vary.
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if len(known) < FEWEST_SEEDS or _same(known):
        return math.nan, math.nan
    half = float(stats.t.ppf(0.5 + level / 2, len(known) - 1) * np.std(known, ddof=1) / math.sqrt(len(known)))
    mean = float(np.mean(known))
    return max(mean - half, least), min(mean + half, most)


def interval_over(units: int, seeds: int, unit: str = "patient") -> str:
    """What intervals of so many patients and seeds are drawn over: ``patients and seeds``, ``patients`` or nothing.

    Args:
        units: Patients.
        seeds: Seeds.
        unit: What one of the units is called.
    """
    if units < 2:
        return ""
    return f"{unit}s and seeds" if seeds >= FEWEST_SEEDS else f"{unit}s"


def hierarchical_interval(
    values: np.ndarray, generator: np.random.Generator, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of a mean over patients and seeds, drawing both.

    Seeds and patients are crossed: each resample draws seeds and, once for all of them, patients (the pigeonhole
    bootstrap; Owen 2007, Ann. Appl. Stat. 1:386-411, who shows that it errs towards wide intervals). The mean is that
    over patients of each patient's mean over seeds; NaN entries are in no mean.

    Args:
        values: ``(seed, patient)``; NaN where there is no value.
        generator: Source of randomness.
        resamples: Number of resamples.
        level: Coverage in (0, 1).

    Returns:
        Lower and upper end, percentiles of the resampled means. NaN with fewer than two patients. With fewer than
        :data:`FEWEST_SEEDS` seeds only patients are drawn: the interval then holds for those seeds.
    """
    known = ~np.isnan(values)
    values = values[known.any(axis=1)][:, known.any(axis=0)]
    if values.shape[1] < 2:
        return math.nan, math.nan
    known = ~np.isnan(values)
    seeds = draw_seeds(values.shape[0], resamples, generator)
    patients = draw_weights(values.shape[1], resamples, generator)
    sums, counts = seeds @ np.where(known, values, 0.0), seeds @ known
    of_patients = np.where(counts > 0, sums / np.maximum(counts, 1.0), np.nan)
    return percentile_interval(known_mean(of_patients, weights=patients), level)


def bootstrap_interval(
    values: np.ndarray, patients: np.ndarray, resamples: int, generator: np.random.Generator, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, drawing whole patients so that a patient's cases stay together.

    Args:
        values: Metrics ``(rows,)``; NaN entries are in no mean.
        patients: Patient of each row.
        resamples: Number of resamples.
        generator: Source of randomness.
        level: Coverage in (0, 1).

    Returns:
        Lower and upper end; NaN with fewer than two patients that have a value.
    """
    names, member = np.unique(patients.astype(str), return_inverse=True)
    known = ~np.isnan(values)
    if len(np.unique(member[known])) < 2:
        return math.nan, math.nan
    sums = np.bincount(member[known], values[known], minlength=len(names))
    sizes = np.bincount(member[known], minlength=len(names))
    drawn = generator.integers(len(names), size=(resamples, len(names)))
    totals, counts = sums[drawn].sum(axis=1), sizes[drawn].sum(axis=1)
    return percentile_interval(totals[counts > 0] / counts[counts > 0], level)


def draw_weights(size: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each of ``size`` members is drawn, with replacement, in each resample: ``(resamples, size)``."""
    if not size:
        return np.zeros((resamples, 0))
    drawn = generator.integers(size, size=(resamples, size)) + size * np.arange(resamples)[:, np.newaxis]
    return np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size).astype(np.float64)


def draw_seeds(size: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """:func:`draw_weights` of seeds; with fewer than :data:`FEWEST_SEEDS`, each counts once in every resample."""
    drawn = draw_weights(size, resamples, generator)
    return drawn if size >= FEWEST_SEEDS else np.ones_like(drawn)


def percentile_interval(samples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle ``level`` of bootstrap samples ``(resample,)``, NaN among them left out.

    NaN if there is none, or if they do not vary: an AUC of 1 among few patients, or the balanced accuracy of a network
    that gives one class, stays as it is in every resample, and that says nothing of its uncertainty.
    """
    samples = samples[~np.isnan(samples)]
    if not len(samples) or _same(samples):
        return math.nan, math.nan
    tail = 100.0 * (1.0 - level) / 2.0
    low, high = np.percentile(samples, [tail, 100.0 - tail])
    return float(low), float(high)


def _same(values: np.ndarray) -> bool:
    """Whether values do not vary, but for rounding errors."""
    return bool(np.ptp(values) <= 10.0**-SAME)


def known_mean(values: np.ndarray, axis: int = -1, weights: np.ndarray | float = 1.0) -> np.ndarray:
    """Mean along an axis over all values that are not NaN; NaN where there is none.

    Args:
        values: Values of any shape.
        axis: The axis to average over.
        weights: Weight of each value, in a shape that broadcasts.
    """
    known = ~np.isnan(values)
    counted = known * weights
    total = counted.sum(axis=axis)
    sums = (np.where(known, values, 0.0) * counted).sum(axis=axis)
    return np.where(total > 0, sums / np.where(total > 0, total, 1.0), np.nan)


def known_deviation(values: np.ndarray) -> float:
    """Sample standard deviation of the values ``(n,)`` that are not NaN; NaN if there are fewer than two."""
    values = values[~np.isnan(values)]
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
