"""Methods at equal seconds instead of equal work: the tidy table, cut where all have computed as long.

Comparisons of methods in pairs: the patients are the pairs, and Holm's correction covers all pairs of methods.

Whether a method beats a baseline on both axes: as good on the target, and far less forgotten of the source.

A method that learns nothing forgets nothing, and one that forgets all may learn most: a gain counts here only if it is
not paid for on the other axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from metaseg.errors import DataError, UsageError
from metaseg.metrics.statistics import hierarchical_interval, holm, known_mean, paired_wilcoxon
from metaseg.studies.study_metrics import PATIENT_METRICS, RunGroup, mean_over_seeds, patient_values, runs_by_method
from metaseg.studies.tables import TABLE_COLUMNS, TIMING_COLUMNS, check_table, count_empty_cases

PAIR_COLUMNS = (
    "target",
    "shots",
    "metric",
    "method_a",
    "method_b",
    "n",
    "mean_difference",
    "low",
    "high",
    "p",
    "p_holm",
    "rank_biserial",
)


def pairwise(
    table: pd.DataFrame,
    region: str,
    *,
    metrics: Sequence[str] = ("target_after", "forgetting"),
    seed: int = 0,
    resamples: int = 2000,
) -> pd.DataFrame:
    """Compare every two methods.

    Args:
        table: The tidy table of a study.
        region: Region whose Dice is taken.
        metrics: Metrics to compare, of those that every patient has (``PATIENT_METRICS``).
        seed: Seed of the bootstrap.
        resamples: Its number of resamples.

    Returns:
        One row per target, shots, metric and pair of methods (by name, ``method_a`` first): ``n`` patients with the
        metric under both; ``mean_difference``, a minus b, with ``low`` and ``high``, its 95 % interval
        (:func:`~metaseg.metrics.statistics.hierarchical_interval`); ``p`` and ``rank_biserial`` of
        :func:`~metaseg.metrics.statistics.paired_wilcoxon` over patients, each the mean over the seeds that both
        methods have; ``p_holm``, corrected for all pairs of methods within one target, shots and metric.

    Raises:
        DataError: The table is not one, or has no such region.
        UsageError: A metric cannot be compared by patients.
    """
    return _compare(table, region, metrics, lambda names: combinations(names, 2), seed, resamples)


def against(
    table: pd.DataFrame,
    region: str,
    baseline: str,
    *,
    metrics: Sequence[str] = ("target_after", "forgetting"),
    seed: int = 0,
    resamples: int = 2000,
) -> pd.DataFrame:
    """Compare every other method with one baseline.

    Args:
        table: The tidy table of a study.
        region: Region whose Dice is taken.
        baseline: Label of the baseline.
        metrics: As for :func:`pairwise`.
        seed: Seed of the bootstrap.
        resamples: Its number of resamples.

    Returns:
        As :func:`pairwise`, with the baseline as ``method_b``: differences are the other method minus the baseline.
        Holm's correction covers these comparisons alone.

    Raises:
        DataError: The table is not one, or has no such region.
        UsageError: A metric cannot be compared by patients, or the table has no such baseline.
    """
    names = sorted(map(str, table["method"].unique())) if "method" in table else []
    if names and baseline not in names:
        raise UsageError(f"no method '{baseline}' to compare with", expected="one of " + ", ".join(names))

    def pairs(names: Sequence[str]) -> Iterable[tuple[str, str]]:
        return [(name, baseline) for name in names if name != baseline and baseline in names]

    return _compare(table, region, metrics, pairs, seed, resamples)


def _compare(
    table: pd.DataFrame,
    region: str,
    metrics: Sequence[str],
    pairs: Any,
    seed: int,
    resamples: int,
) -> pd.DataFrame:
    if strange := [metric for metric in metrics if metric not in PATIENT_METRICS]:
        raise UsageError(
            f"'{strange[0]}' cannot be compared patient by patient", expected="one of " + ", ".join(PATIENT_METRICS)
        )
    records: list[dict[str, Any]] = []
    for (target, shots), methods in runs_by_method(table, region):
        for metric in metrics:
            values = {name: patient_values(group, metric) for name, group in methods.items()}
            rows = []
            for a, b in pairs(sorted(methods)):
                common = np.intersect1d(methods[a].seeds, methods[b].seeds, return_indices=True)[1:]
                tested = paired_difference(values[a][common[0]], values[b][common[1]], seed, resamples)
                rows.append(
                    {"target": target, "shots": shots, "metric": metric, "method_a": a, "method_b": b, **tested}
                )
            corrected = holm([row["p"] for row in rows])
            records += [{**row, "p_holm": p} for row, p in zip(rows, corrected, strict=True)]
    return pd.DataFrame(records, columns=list(PAIR_COLUMNS))


def paired_difference(a: np.ndarray, b: np.ndarray, seed: int, resamples: int) -> dict[str, float]:
    """Compare two methods' values ``(seed, patient)`` of the same seeds and patients.

    Returns:
        ``n``, ``mean_difference``, ``low``, ``high``, ``p`` and ``rank_biserial`` as in :func:`pairwise`.
    """
    both = ~np.isnan(a - b)
    test = paired_wilcoxon(mean_over_seeds(np.where(both, a, np.nan)), mean_over_seeds(np.where(both, b, np.nan)))
    low, high = hierarchical_interval(a - b, np.random.default_rng(seed), resamples)
    return {
        "n": test.n,
        "mean_difference": test.mean_difference,
        "low": low,
        "high": high,
        "p": test.p,
        "rank_biserial": test.rank_biserial,
    }


SHARE = 0.5
"""What a method may forget, as a share of what the baseline forgets."""
LEVEL = 0.05

COLUMNS = (
    "target",
    "shots",
    "baseline",
    "method",
    "n_target_patients",
    "gain",
    "gain_low",
    "gain_high",
    "gain_p",
    "gain_p_holm",
    "n_source_patients",
    "forgotten",
    "forgotten_by_baseline",
    "spared",
    "spared_low",
    "spared_high",
    "spared_p",
    "spared_p_holm",
    "excess",
    "excess_low",
    "excess_high",
    "excess_p",
    "excess_p_holm",
    "both",
)


def both_axes(
    table: pd.DataFrame,
    region: str,
    baselines: Sequence[str],
    *,
    share: float = SHARE,
    seed: int = 0,
    resamples: int = 2000,
) -> pd.DataFrame:
    """Compare every method with baselines on both axes at once.

    Args:
        table: The tidy table of a study.
        region: Region whose Dice is taken.
        baselines: Labels of the baselines; each is compared with the others too.
        share: What a method may forget, as a share of what the baseline forgets, in [0, 1].
        seed: Seed of the bootstrap.
        resamples: Its number of resamples.

    Returns:
        One row per target, shots, baseline and other method. ``gain`` is the final target Dice minus the baseline's,
        ``spared`` what the baseline forgot minus what the method forgot. ``excess`` is what was forgotten minus
        ``share`` times what the baseline forgot: negative if the method keeps within it. All three are means over seeds
        and patients with 95 % intervals and p values as from :func:`metaseg.studies.pairs.pairwise`; Holm's correction
        covers the methods of one target, shots and baseline. ``both`` is true where ``gain`` is at least 0 and
        ``excess`` is below 0 with an uncorrected p below 0.05.

    Raises:
        DataError: The table is not one, or has no such region.
        UsageError: The share is none.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"a share of {share:g}", expected="a number from 0 to 1")
    records: list[dict[str, Any]] = []
    for (target, shots), methods in runs_by_method(table, region):
        for baseline in (name for name in baselines if name in methods):
            rows = [
                {"target": target, "shots": shots, "baseline": baseline, "method": name}
                | _compare_both_axes(group, methods[baseline], share, seed, resamples)
                for name, group in sorted(methods.items())
                if name != baseline
            ]
            records += _corrected(rows)
    return pd.DataFrame(records, columns=list(COLUMNS))


def _compare_both_axes(method: RunGroup, baseline: RunGroup, share: float, seed: int, resamples: int) -> dict[str, Any]:
    rows = np.intersect1d(method.seeds, baseline.seeds, return_indices=True)[1:]
    pair = tuple(zip((method, baseline), rows, strict=True))
    after, base_after = (patient_values(group, "target_after")[seeds] for group, seeds in pair)
    lost, base_lost = (patient_values(group, "forgetting")[seeds] for group, seeds in pair)
    gain = paired_difference(after, base_after, seed, resamples)
    spared = paired_difference(base_lost, lost, seed, resamples)
    excess = paired_difference(lost, share * base_lost, seed, resamples)
    return {
        "n_target_patients": gain["n"],
        **_named("gain", gain),
        "n_source_patients": excess["n"],
        "forgotten": float(known_mean(lost.ravel())),
        "forgotten_by_baseline": float(known_mean(base_lost.ravel())),
        **_named("spared", spared),
        **_named("excess", excess),
        "both": gain["mean_difference"] >= 0 and excess["mean_difference"] < 0 and excess["p"] < LEVEL,
    }


def _named(name: str, tested: dict[str, float]) -> dict[str, float]:
    ends = {f"{name}_{key}": tested[key] for key in ("low", "high", "p")}
    return {name: tested["mean_difference"], **ends}


def _corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for name in ("gain", "spared", "excess"):
        for row, p in zip(rows, holm([row[f"{name}_p"] for row in rows]), strict=True):
            row[f"{name}_p_holm"] = p
    return rows


_RUN = ["target", "method", "shots", "seed"]
_CELL = ["target", "shots"]


def at_seconds(table: pd.DataFrame, timing: pd.DataFrame, seconds: float | None = None) -> pd.DataFrame:
    """Dice of every case when its run had computed for a number of seconds.

    Args:
        table: The tidy table of a study.
        timing: Its timing table: seconds of tuning up to every mark of ``table``; none are needed at step 0.
        seconds: Where to cut, above 0. By default, for each target and shots, the smallest of the methods' totals (a
            method's total being the median over seeds), so that each reaches it in at least half of its runs; methods
            that take no time at all are left out of this.

    Returns:
        A tidy table of two marks for each run: its first one, and the cut. Dice and step at the cut lie on straight
        lines between the marks around it. Two columns more: ``seconds`` of the mark, and ``reached``. A run that ended
        before the cut is there with its last mark and False.

    Raises:
        DataError: A table is not one, marks have no seconds, or seconds fall.
        ValueError: ``seconds`` is not above 0.
    """
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds is {seconds}: expected more than 0")
    table = check_table(table)
    parts = [count_empty_cases(rows) for _, rows in table.groupby("region", sort=False)]
    rows = pd.concat(parts) if parts else table
    marks = _timed_marks(rows, check_table(timing, TIMING_COLUMNS))
    marks["cut"] = _cuts(marks) if seconds is None else float(seconds)
    around = _marks_around(marks)
    first = marks.groupby([*_RUN, "domain"], as_index=False)[["step", "seconds"]].first()
    reached = around[[*_RUN, "domain", "reached"]]
    begin = rows.merge(first, on=[*_RUN, "domain", "step"]).merge(reached, on=[*_RUN, "domain"])
    end = _interpolate(rows, around)
    end = end[end["step"] > end["first"]]
    columns = [*TABLE_COLUMNS, "seconds", "reached"]
    frame = pd.concat([begin[columns], end[columns]], ignore_index=True)
    return frame.sort_values(list(TABLE_COLUMNS), ignore_index=True)


def _timed_marks(table: pd.DataFrame, timing: pd.DataFrame) -> pd.DataFrame:
    """Every mark of every run on every domain with its seconds, in ascending order."""
    marks = table[[*_RUN, "domain", "step"]].drop_duplicates()
    marks = marks.merge(timing[list(TIMING_COLUMNS)], on=[*_RUN, "step"], how="left")
    marks = marks.sort_values([*_RUN, "domain", "step"], ignore_index=True)
    marks.loc[marks["seconds"].isna() & (marks["step"] == 0), "seconds"] = 0.0
    if (untimed := marks["seconds"].isna()).any():
        raise DataError(
            f"{int(untimed.sum())} of {len(marks)} marks have no seconds, such as {_name(marks[untimed].iloc[0])}",
            expected="a row of the timing table for each mark",
        )
    falls = marks.groupby([*_RUN, "domain"])["seconds"].diff() < 0
    if falls.any():
        raise DataError(
            f"the seconds fall before {_name(marks[falls].iloc[0])}", expected="seconds since the start of the run"
        )
    return marks


def _cuts(marks: pd.DataFrame) -> np.ndarray:
    """For each mark, the smallest median total of the methods with the same target and shots."""
    totals = marks.groupby(_RUN, as_index=False)["seconds"].max()
    medians = totals.groupby([*_CELL, "method"], as_index=False)["seconds"].median()
    cuts = medians[medians["seconds"] > 0].groupby(_CELL, as_index=False)["seconds"].min()
    return marks[_CELL].merge(cuts, on=_CELL, how="left")["seconds"].fillna(0.0).to_numpy()


def _marks_around(marks: pd.DataFrame) -> pd.DataFrame:
    """For each run and domain: steps and seconds of the marks around the cut, and the weight of the later one."""
    by = [*_RUN, "domain"]
    late = marks["seconds"] > marks["cut"]
    ends = marks.groupby(by, as_index=False).agg(
        first=("step", "first"), cut=("cut", "first"), total=("seconds", "max")
    )
    lower = marks[~late].groupby(by, as_index=False)[["step", "seconds"]].last()
    upper = marks[late].groupby(by, as_index=False)[["step", "seconds"]].first()
    around = ends.merge(lower.rename(columns={"step": "lower", "seconds": "lower_seconds"}), on=by, how="left")
    around = around.merge(upper.rename(columns={"step": "upper", "seconds": "upper_seconds"}), on=by, how="left")
    # A run whose first mark is later than the cut has no mark before it, and one that ended earlier none after it.
    for name, other in (("lower", "upper"), ("upper", "lower")):
        for column in (name, f"{name}_seconds"):
            around[column] = around[column].fillna(around[column.replace(name, other)])
    width = around["upper_seconds"] - around["lower_seconds"]
    share = (around["cut"] - around["lower_seconds"]) / width.where(width > 0, 1.0)
    return around.assign(weight=share.where(width > 0, 0.0), reached=around["total"] >= around["cut"])


def _interpolate(rows: pd.DataFrame, around: pd.DataFrame) -> pd.DataFrame:
    by = [*_RUN, "domain"]
    lower = rows.merge(around, left_on=[*by, "step"], right_on=[*by, "lower"])
    upper = rows.merge(around[[*by, "upper"]], left_on=[*by, "step"], right_on=[*by, "upper"])
    case = [*by, "case", "patient", "region"]
    end = lower.merge(upper[[*case, "dice"]], on=case, suffixes=("", "_upper"))
    weight = end["weight"]
    return end.assign(
        dice=end["dice"] + weight * (end["dice_upper"] - end["dice"]),
        step=end["lower"] + weight * (end["upper"] - end["lower"]),
        seconds=end["lower_seconds"] + weight * (end["upper_seconds"] - end["lower_seconds"]),
    )


def _name(mark: pd.Series) -> str:
    return ", ".join(f"{name} {mark[name]}" for name in [*_RUN, "step"])
