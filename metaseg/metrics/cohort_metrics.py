"""Metrics of a cohort from the rows of its cases: missed targets stay in the means, and every status is counted.

Statistics of a comparison: paired tests between methods, their correction, intervals over seeds and patients.

Patients are the sample; seeds repeat the experiment on the same patients, so they never count as further patients.

What tuning changed: Dice before and after on the same cases, per cohort and target.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from metaseg.errors import DataError
from metaseg.metrics.empties import EmptyPolicy, Status, empty_policy
from metaseg.metrics.forgetting import Forgetting, forgetting

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
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")[: int(np.sum(~np.isnan(p)))]
    adjusted = np.full(p.shape, np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


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
        Lower and upper end, percentiles of the resampled means. NaN with fewer than two patients. With a single seed
        only patients are drawn: the interval then holds for that seed.
    """
    known = ~np.isnan(values)
    values = values[known.any(axis=1)][:, known.any(axis=0)]
    if values.shape[1] < 2:
        return math.nan, math.nan
    known = ~np.isnan(values)
    seeds = draw_weights(values.shape[0], resamples, generator)
    patients = draw_weights(values.shape[1], resamples, generator)
    sums, counts = seeds @ np.where(known, values, 0.0), seeds @ known
    of_patients = np.where(counts > 0, sums / np.maximum(counts, 1.0), np.nan)
    return percentile_interval(known_mean(of_patients, weights=patients), level)


def draw_weights(size: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each of ``size`` members is drawn, with replacement, in each resample: ``(resamples, size)``."""
    if not size:
        return np.zeros((resamples, 0))
    drawn = generator.integers(size, size=(resamples, size)) + size * np.arange(resamples)[:, np.newaxis]
    return np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size).astype(np.float64)


def percentile_interval(samples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle ``level`` of bootstrap samples ``(resample,)``, NaN among them left out; NaN if there is none."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return math.nan, math.nan
    tail = 100.0 * (1.0 - level) / 2.0
    low, high = np.percentile(samples, [tail, 100.0 - tail])
    return float(low), float(high)


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


_COUNTS = {
    "n_valid": Status.VALID,
    "n_missed": Status.MISSED,
    "n_false": Status.FALSE,
    "n_empty_both": Status.EMPTY_BOTH,
}


def summarise_cohorts(
    rows: pd.DataFrame | Sequence[Mapping[str, Any]],
    by: Sequence[str] = ("cohort", "target"),
    *,
    policy: EmptyPolicy | str = "exclude",
    bootstrap: int = 0,
    generator: np.random.Generator | None = None,
) -> pd.DataFrame:
    """Summarise the rows of :func:`metaseg.metrics.case_metrics.case_metrics` per cohort and target.

    Missed and false targets enter every mean, with Dice 0 and the penalty as HD95. Cases empty in both are left out of
    every mean under ``exclude``, as are lesion-wise metrics of a case with neither a kept lesion nor a false positive;
    under ``brats`` and ``mist`` they count as Dice and F1 1 and HD95 0.

    Args:
        rows: One row per case and target with the columns named in ``by`` besides those of ``case_metrics``; a column
            ``patient`` makes the bootstrap draw patients instead of rows.
        by: Columns that make a group.
        policy: Empty-mask policy; ``dice`` and ``hd95`` are derived anew from ``status``.
        bootstrap: Resamples of the 95 % percentile interval of every mean; 0 computes none.
        generator: Source of randomness of the bootstrap.

    Returns:
        One row per group, in order of appearance: ``by``, ``unit``, ``n_cases``, ``n_valid``, ``n_missed``,
        ``n_false``, ``n_empty_both``, and for every metric ``<metric>_mean``, ``_sd`` (sample standard deviation),
        ``_median``, ``_n`` (rows in the mean) and, with a bootstrap, ``_low`` and ``_high``. HD95 columns are in
        ``unit``, and NaN in a group that mixes units. ``hd95_n_penalty`` counts the penalties in the HD95 mean.

    Raises:
        DataError: A column is missing.
        ValueError: A bootstrap is wanted but no generator given.
    """
    frame = pd.DataFrame(rows)
    needed = [*by, "status", "dice"]
    if missing := [column for column in needed if column not in frame.columns]:
        raise DataError(
            f"the table of metrics lacks column {', '.join(missing)}", expected="columns " + ", ".join(needed)
        )
    if bootstrap and generator is None:
        raise ValueError("a bootstrap needs a generator")
    frame = apply_policy(frame, policy)
    metrics = metric_columns(frame)
    records = []
    for keys, group in frame.groupby(list(by), sort=False, dropna=False):
        record: dict[str, Any] = dict(zip(by, keys, strict=True))
        units = group["unit"].unique() if "unit" in group else ["mm"]
        record |= {"unit": units[0] if len(units) == 1 else "mixed", "n_cases": len(group)}
        record |= {name: int((group["status"] == status).sum()) for name, status in _COUNTS.items()}
        for metric in metrics:
            values = group[metric].to_numpy(dtype=np.float64)
            if record["unit"] == "mixed" and metric.endswith("hd95"):
                values = np.full(len(values), np.nan)
            record |= {f"{metric}_{name}": value for name, value in _describe(values).items()}
            if bootstrap and generator is not None:
                patients = (group["patient"] if "patient" in group else group.index.to_series()).to_numpy()
                low, high = bootstrap_interval(values, patients, bootstrap, generator)
                record |= {f"{metric}_low": low, f"{metric}_high": high}
        if "hd95" in metrics:
            undetected = group["status"].isin([Status.MISSED, Status.FALSE]) & group["hd95"].notna()
            record["hd95_n_penalty"] = int(undetected.sum())
        records.append(record)
    return pd.DataFrame(records)


def metric_columns(frame: pd.DataFrame) -> list[str]:
    """Columns that hold metrics to average: Dice, HD95 and F1, of volumes and lesions."""
    return [name for name in frame.columns if name in ("dice", "hd95") or name.endswith(("_dice", "_hd95", "_f1"))]


def apply_policy(frame: pd.DataFrame, policy: EmptyPolicy | str = "exclude") -> pd.DataFrame:
    """Derive the metrics of undefined cases anew, from status and counts, under another empty-mask policy.

    Args:
        frame: Rows of ``case_metrics``.
        policy: The policy. Penalties that it leaves to the image (None) stay as they are in ``frame``.

    Returns:
        A copy with ``dice``, ``hd95`` and the lesion-wise metrics replaced where undefined.
    """
    settled = empty_policy(policy)
    frame = frame.copy()
    empty = frame["status"] == Status.EMPTY_BOTH
    undetected = frame["status"].isin([Status.MISSED, Status.FALSE])
    frame.loc[empty, "dice"] = settled.dice_empty_both
    if "hd95" in frame:
        # A column without any value was not computed, and stays so.
        if frame["hd95"].notna().any():
            frame.loc[empty, "hd95"] = settled.hd95_empty_both
        if settled.hd95_penalty is not None:
            frame.loc[undetected & frame["hd95"].notna(), "hd95"] = settled.hd95_penalty
    for column in frame.columns:
        if column.endswith("n_lesions"):
            front = column.removesuffix("n_lesions")
            nothing = (frame[column] == 0) & (frame[f"{front}n_fp"] == 0)
            score = front or "lesionwise_"
            worth = {"dice": settled.dice_empty_both, "f1": settled.dice_empty_both, "hd95": settled.hd95_empty_both}
            for metric, value in worth.items():
                known = frame[f"{score}{metric}"].notna().any()
                frame.loc[nothing, f"{score}{metric}"] = value if known else math.nan
    return frame


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
        Lower and upper end; NaN if no value is left.
    """
    names, member = np.unique(patients.astype(str), return_inverse=True)
    known = ~np.isnan(values)
    if not known.any():
        return math.nan, math.nan
    sums = np.bincount(member[known], values[known], minlength=len(names))
    sizes = np.bincount(member[known], minlength=len(names))
    drawn = generator.integers(len(names), size=(resamples, len(names)))
    totals, counts = sums[drawn].sum(axis=1), sizes[drawn].sum(axis=1)
    means = totals[counts > 0] / counts[counts > 0]
    tail = 100.0 * (1.0 - level) / 2.0
    low, high = np.percentile(means, [tail, 100.0 - tail])
    return float(low), float(high)


def to_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain Python values, NaN as None, for JSON."""
    return [{str(key): _plain(value) for key, value in row.items()} for row in frame.to_dict(orient="records")]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _describe(values: np.ndarray) -> dict[str, float | int]:
    known = values[~np.isnan(values)]
    if not len(known):
        return {"mean": math.nan, "sd": math.nan, "median": math.nan, "n": 0}
    spread = float(np.std(known, ddof=1)) if len(known) > 1 else math.nan
    return {"mean": float(np.mean(known)), "sd": spread, "median": float(np.median(known)), "n": len(known)}


def paired_dice(rows: pd.DataFrame) -> pd.DataFrame:
    """Dice of one target before and after, a row per case.

    A case in which there was nothing to find is left out if both networks found nothing. If only one of them left it
    empty, that one was right and counts as Dice 1 against the other's 0, so that a network which begins to see tumour
    where there is none is not spared.

    Args:
        rows: Rows of ``case_metrics`` of one target, with the columns ``case``, ``patient`` and ``network`` (``before``
            or ``after``).

    Returns:
        Columns ``case``, ``patient``, ``before``, ``after``.
    """
    wide = rows.pivot(index=["case", "patient"], columns="network", values="dice")
    wide = wide.reindex(columns=["before", "after"]).dropna(how="all").fillna(1.0)
    wide.columns.name = None
    return wide.reset_index()


def change_metrics(
    rows: pd.DataFrame, source: Collection[str], bootstrap: int, generator: np.random.Generator
) -> pd.DataFrame:
    """Forgetting on source cohorts and gain on the others.

    Args:
        rows: Rows of ``case_metrics`` with ``cohort``, ``case``, ``patient``, ``trained_on`` and ``network``.
        source: Cohorts that the network knew before it was tuned.
        bootstrap: Resamples of patients for the 95 % interval.
        generator: Source of randomness.

    Returns:
        One row per cohort, ``trained_on`` and target: ``domain`` (source or target), ``n_cases``, the mean Dice
        ``before`` and ``after`` over the same cases (see :func:`paired_dice`), and ``forgetting`` (before minus after)
        or, for target cohorts, ``gain`` (after minus before), each with ``_low`` and ``_high``.
    """
    records = []
    for (cohort, trained_on, target), group in rows.groupby(["cohort", "trained_on", "target"], sort=False):
        pairs = paired_dice(group)
        domain = "source" if cohort in source else "target"
        before, after = (float(pairs[name].mean()) if len(pairs) else math.nan for name in ("before", "after"))
        lost = (pairs["before"] - pairs["after"]).to_numpy(dtype=np.float64)
        name, sign = ("forgetting", 1.0) if domain == "source" else ("gain", -1.0)
        low, high = bootstrap_interval(sign * lost, pairs["patient"].to_numpy(), bootstrap, generator)
        record: dict[str, Any] = {
            "cohort": cohort,
            "trained_on": trained_on,
            "target": target,
            "domain": domain,
            "n_cases": len(pairs),
            "before": before,
            "after": after,
        }
        record |= dict.fromkeys(
            (f"{metric}{end}" for metric in ("forgetting", "gain") for end in ("", "_low", "_high")), math.nan
        )
        record |= {name: sign * forgetting(before, after), f"{name}_low": low, f"{name}_high": high}
        records.append(record)
    return pd.DataFrame(records)


def domain_metrics(rows: pd.DataFrame, source: Collection[str]) -> dict[str, dict[str, float]]:
    """Source and target as wholes: every metric of :class:`~metaseg.metrics.forgetting.Forgetting` per target.

    Cases of all source cohorts are pooled, as are those of all others; NaN where a domain has none.

    Args:
        rows: As for :func:`change_metrics`.
        source: Cohorts that the network knew before it was tuned.

    Returns:
        Target to metrics.
    """
    result = {}
    for target, group in rows[~rows["trained_on"]].groupby("target", sort=False):
        known = group["cohort"].isin(list(source))
        means = [
            float(pairs[name].mean()) if len(pairs) else math.nan
            for pairs in (paired_dice(group[known]), paired_dice(group[~known]))
            for name in ("before", "after")
        ]
        result[str(target)] = Forgetting(*means).as_dict()
    return result
