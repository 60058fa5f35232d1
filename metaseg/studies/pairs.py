"""Methods against each other: in pairs, against a baseline on both axes, and at equal seconds instead of equal work.

Patients are the pairs, and Holm's correction covers the comparisons of one target and number of shots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from metaseg.errors import DataError, UsageError
from metaseg.metrics.statistics import (
    FEWEST_PAIRS,
    FEWEST_SEEDS,
    hierarchical_interval,
    holm,
    known_mean,
    paired_wilcoxon,
)
from metaseg.studies.study_metrics import PATIENT_METRICS, RunGroup, mean_over_seeds, patient_values, runs_by_method
from metaseg.studies.tables import (
    BOTH_AXES_COLUMNS,
    PAIR_COLUMNS,
    TABLE_COLUMNS,
    TIMING_COLUMNS,
    check_table,
    count_empty_cases,
)

METRICS = ("target_after", "forgetting")
FRACTION = 0.5
"""What a method may forget, as a fraction of what the baseline forgets."""
LEVEL = 0.05
SAME_WORK = 0.02
"""By what fraction the work of two marks may differ that count as one: whole steps overshoot a mark."""

_RUN = ["target", "method", "shots", "seed"]
_CELL = ["target", "shots"]


def every_pair(
    table: pd.DataFrame, region: str, *, metrics: Sequence[str] = METRICS, seed: int = 0, resamples: int = 2000
) -> pd.DataFrame:
    """Compare every two methods.

    Args:
        table: The tidy table of a study.
        region: Region whose Dice is taken.
        metrics: Metrics to compare, of those that every patient has (``PATIENT_METRICS``).
        seed: Seed of the bootstrap.
        resamples: Its number of resamples.

    Returns:
        One row per target, shots, metric and pair of methods (by name, ``method_a`` first), as ``PAIR_COLUMNS``:
        ``n`` patients with the metric under both, ``n_seeds`` that both have; ``mean_difference``, a minus b, with
        ``low`` and ``high``, its 95 % interval (:func:`~metaseg.metrics.statistics.hierarchical_interval`); ``p`` and
        ``rank_biserial`` of :func:`~metaseg.metrics.statistics.paired_wilcoxon` over patients, each the mean over the
        seeds that both methods have; ``p_holm``, corrected for all pairs of methods within one target, shots and
        metric.

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
    metrics: Sequence[str] = METRICS,
    seed: int = 0,
    resamples: int = 2000,
) -> pd.DataFrame:
    """Compare every other method with one baseline.

    Args:
        table: The tidy table of a study.
        region: Region whose Dice is taken.
        baseline: Label of the baseline.
        metrics: As for :func:`every_pair`.
        seed: Seed of the bootstrap.
        resamples: Its number of resamples.

    Returns:
        As :func:`every_pair`, with the baseline as ``method_b``: differences are the other method minus the baseline.
        Holm's correction covers these comparisons alone.

    Raises:
        DataError: The table is not one, or has no such region.
        UsageError: A metric cannot be compared by patients, or the table has no such baseline.
    """
    known = sorted(map(str, table["method"].unique())) if "method" in table else []
    if known and baseline not in known:
        raise UsageError(f"no method '{baseline}' to compare with", expected="one of " + ", ".join(known))

    def pairs(names: Sequence[str]) -> Iterable[tuple[str, str]]:
        return [(name, baseline) for name in names if name != baseline and baseline in names]

    return _compare(table, region, metrics, pairs, seed, resamples)


def _compare(
    table: pd.DataFrame,
    region: str,
    metrics: Sequence[str],
    pairs: Callable[[Sequence[str]], Iterable[tuple[str, str]]],
    seed: int,
    resamples: int,
) -> pd.DataFrame:
    if strange := [metric for metric in metrics if metric not in PATIENT_METRICS]:
        raise UsageError(
            f"'{strange[0]}' cannot be compared patient by patient", expected="one of " + ", ".join(PATIENT_METRICS)
        )
    rows = []
    for (target, shots), methods in runs_by_method(table, region):
        for metric in metrics:
            for a, b in pairs(sorted(methods)):
                values = _of_common_seeds(methods[a], methods[b], metric)
                named = {"target": target, "shots": shots, "metric": metric, "method_a": a, "method_b": b}
                rows.append(named | paired_difference(*values, seed, resamples))
    return _corrected(pd.DataFrame(rows), ["target", "shots", "metric"], [""], PAIR_COLUMNS)


def _of_common_seeds(method: RunGroup, other: RunGroup, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Values ``(seed, patient)`` of two methods under the seeds that both have."""
    _, rows, others = np.intersect1d(method.seeds, other.seeds, return_indices=True)
    return patient_values(method, metric)[rows], patient_values(other, metric)[others]


def _corrected(rows: pd.DataFrame, family: Sequence[str], names: Sequence[str], columns: Iterable[str]) -> pd.DataFrame:
    """Rows with Holm's correction of the p values ``NAMEp`` within each family, and their columns in order."""
    if rows.empty:
        return pd.DataFrame(columns=list(columns))
    groups = rows.groupby(list(family), sort=False)
    corrected = {f"{name}p_holm": groups[f"{name}p"].transform(holm) for name in names}
    return rows.assign(**corrected)[list(columns)]


def paired_difference(a: np.ndarray, b: np.ndarray, seed: int, resamples: int) -> dict[str, Any]:
    """Compare two methods' values ``(seed, patient)`` of the same seeds and patients.

    Returns:
        ``n``, ``n_seeds``, ``mean_difference``, ``low``, ``high``, ``p``, ``rank_biserial`` as in :func:`every_pair`.
    """
    both = ~np.isnan(a - b)
    test = paired_wilcoxon(mean_over_seeds(np.where(both, a, np.nan)), mean_over_seeds(np.where(both, b, np.nan)))
    low, high = hierarchical_interval(a - b, np.random.default_rng(seed), resamples)
    ends = {"mean_difference": test.mean_difference, "low": low, "high": high}
    n_seeds = int(both.any(axis=1).sum())
    return {"n": test.n, "n_seeds": n_seeds, **ends, "p": test.p, "rank_biserial": test.rank_biserial}


def both_axes(
    table: pd.DataFrame,
    region: str,
    baselines: Sequence[str],
    *,
    fraction: float = FRACTION,
    seed: int = 0,
    resamples: int = 2000,
) -> pd.DataFrame:
    """Compare every method with baselines on both axes at once: as good on the target, and far less forgotten.

    A method that learns nothing forgets nothing, and one that forgets all may learn most: a gain counts here only if it
    is not paid for on the other axis.

    Args:
        table: The tidy table of a study.
        region: Region whose Dice is taken.
        baselines: Labels of the baselines; each is compared with the others too.
        fraction: What a method may forget, as a fraction of what the baseline forgets, in [0, 1].
        seed: Seed of the bootstrap.
        resamples: Its number of resamples.

    Returns:
        One row per target, shots, baseline and other method. ``gain`` is the final target Dice minus the baseline's,
        ``spared`` what the baseline forgot minus what the method forgot. ``excess`` is what was forgotten minus
        ``fraction`` times what the baseline forgot: negative if the method keeps within it. All three are means over
        seeds and patients with 95 % intervals and p values as from :func:`every_pair`; Holm's correction covers the
        methods of one target, shots and baseline. ``both`` is true where ``gain`` is at least 0 and ``excess`` is below
        0 with an uncorrected p below 0.05.

    Raises:
        DataError: The table is not one, or has no such region.
        UsageError: The fraction is none.
    """
    if not 0 <= fraction <= 1:
        raise UsageError(f"a fraction of {fraction:g}", expected="a number from 0 to 1")
    rows = [
        {"target": target, "shots": shots, "baseline": baseline, "method": name}
        | _axes(method, methods[baseline], fraction, seed, resamples)
        for (target, shots), methods in runs_by_method(table, region)
        for baseline in baselines
        if baseline in methods
        for name, method in sorted(methods.items())
        if name != baseline
    ]
    names = ("gain_", "spared_", "excess_")
    return _corrected(pd.DataFrame(rows), ["target", "shots", "baseline"], names, BOTH_AXES_COLUMNS)


def _axes(method: RunGroup, baseline: RunGroup, fraction: float, seed: int, resamples: int) -> dict[str, Any]:
    after, base_after = _of_common_seeds(method, baseline, "target_after")
    lost, base_lost = _of_common_seeds(method, baseline, "forgetting")
    tested = {
        "gain": paired_difference(after, base_after, seed, resamples),
        "spared": paired_difference(base_lost, lost, seed, resamples),
        "excess": paired_difference(lost, fraction * base_lost, seed, resamples),
    }
    gain, excess = tested["gain"], tested["excess"]
    row = {
        "n_seeds": min(gain["n_seeds"], excess["n_seeds"]),
        "n_target_patients": gain["n"],
        "n_source_patients": excess["n"],
        "forgotten": float(known_mean(lost.ravel())),
        "forgotten_by_baseline": float(known_mean(base_lost.ravel())),
        "both": gain["mean_difference"] >= 0 and excess["mean_difference"] < 0 and excess["p"] < LEVEL,
    }
    for name, found in tested.items():
        row |= {name: found["mean_difference"], **{f"{name}_{end}": found[end] for end in ("low", "high", "p")}}
    return row


def against_best(word: str, p: Mapping[str, float]) -> str:
    """What can be said of the best of several, in words that follow its name.

    Args:
        word: What the best is, such as ``higher``.
        p: Each other one's p value against the best, from
            :func:`~metaseg.metrics.statistics.p_against_best`; NaN where it was not tested.
    """
    known = {name: value for name, value in p.items() if not math.isnan(value)}
    if not known:
        return f"not tested against the others (it takes {FEWEST_SEEDS} seeds and {FEWEST_PAIRS} patients)"
    lower = [name for name, value in known.items() if value < LEVEL]
    others = [name for name in known if name not in lower]
    told = [f"shown to be {word} than {', '.join(lower)}"] if lower else []
    told += [f"not shown to be {word} than {', '.join(others)}"] if others else []
    untested = [name for name in p if name not in known]
    told += [f"not tested against {', '.join(untested)}"] if untested else []
    return f"{', '.join(told)} (at p < {LEVEL:g}, corrected for all pairs)"


def equal_work(table: pd.DataFrame, reference: str) -> tuple[float, frozenset[str]]:
    """The work at which methods of different budgets can be compared.

    Args:
        table: Rows of a tidy table, of one target and number of shots.
        reference: The method that the others are compared with.

    Returns:
        The largest work at which as many methods as possible were evaluated beside the reference, and these methods;
        0 and none where no method was evaluated at the same work as the reference.
    """
    marks = {str(method): np.unique(rows["work"]) for method, rows in table[table["work"] > 0].groupby("method")}
    shared = [
        (float(work), frozenset(name for name, others in marks.items() if np.any(np.isclose(others, work, SAME_WORK))))
        for work in marks.get(reference, ())
    ]
    most = max(
        (found for found in shared if len(found[1]) > 1), key=lambda found: (len(found[1]), found[0]), default=None
    )
    return (0.0, frozenset()) if most is None else most


def up_to_work(table: pd.DataFrame, work: float) -> pd.DataFrame:
    """The rows of a tidy table up to some work, as :func:`equal_work` gives it."""
    return table[table["work"] <= work * (1 + SAME_WORK)]


def at_seconds(table: pd.DataFrame, timing: pd.DataFrame, seconds: float | None = None) -> pd.DataFrame:
    """Dice of every case when its run had computed for a number of seconds.

    Args:
        table: The tidy table of a study.
        timing: Its timing table: seconds of tuning up to every mark of ``table``; none are needed at work 0.
        seconds: Where to cut, above 0. By default, for each target and shots, the smallest of the methods' totals (a
            method's total being the median over seeds), so that each reaches it in at least half of its runs; methods
            that take no time at all are left out of this.

    Returns:
        A tidy table of two marks for each run: its first one, and the cut. Dice and work at the cut lie on straight
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
    marks = _timed_marks(table, check_table(timing, TIMING_COLUMNS))
    marks["cut"] = _cuts(marks) if seconds is None else float(seconds)
    of_run = [*_RUN, "domain"]
    rows = (pd.concat(parts) if parts else table).merge(marks, on=[*of_run, "work"])
    cut = [_at_cut(run) for _, run in rows.groupby(of_run, sort=False)]
    columns = [*TABLE_COLUMNS, "seconds", "reached"]
    frame = pd.concat(cut) if cut else rows.assign(reached=False)
    return frame[columns].sort_values(list(TABLE_COLUMNS), ignore_index=True)


def _at_cut(run: pd.DataFrame) -> pd.DataFrame:
    """Rows of a run on a domain, at its first mark and at the cut."""
    marks = run.drop_duplicates("work").sort_values("work")
    seconds, cut = marks["seconds"].to_numpy(), marks["cut"].iloc[0]
    work = np.interp(cut, seconds, marks["work"])
    begin = run[run["work"] == marks["work"].iloc[0]]
    reached = bool(seconds.max() >= cut)
    if not work > marks["work"].iloc[0]:
        return begin.assign(reached=reached)
    by_case = run.pivot(index=["case", "patient", "region"], columns="work", values="dice")
    dice = by_case.apply(lambda curve: np.interp(cut, seconds, curve), axis=1)
    # All rows but those of the mark are the same at every mark.
    end = begin.set_index(["case", "patient", "region"])
    end = end.assign(dice=dice, work=work, update=np.nan, seconds=np.clip(cut, seconds[0], seconds[-1])).reset_index()
    return pd.concat([begin, end]).assign(reached=reached)


def _timed_marks(table: pd.DataFrame, timing: pd.DataFrame) -> pd.DataFrame:
    """Every mark of every run on every domain with its seconds, in ascending order."""
    marks = table[[*_RUN, "domain", "work"]].drop_duplicates()
    marks = marks.merge(timing[list(TIMING_COLUMNS)], on=[*_RUN, "work"], how="left")
    marks = marks.sort_values([*_RUN, "domain", "work"], ignore_index=True)
    marks.loc[marks["seconds"].isna() & (marks["work"] == 0), "seconds"] = 0.0
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


def _name(mark: pd.Series) -> str:
    return ", ".join(f"{name} {mark[name]}" for name in [*_RUN, "work"])
