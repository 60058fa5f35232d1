"""Comparisons of methods in pairs: the patients are the pairs, and Holm's correction covers all pairs of methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from metaseg.errors import UsageError
from metaseg.evaluation.statistics import hierarchical_interval, holm, paired_wilcoxon
from metaseg.studies.curve_arrays import mean_over_seeds, runs_by_method
from metaseg.studies.figures import PATIENT_FIGURES, patient_values

PAIR_COLUMNS = (
    "target",
    "shots",
    "figure",
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
    figures: Sequence[str] = ("target_after", "forgetting"),
    seed: int = 0,
    resamples: int = 2000,
) -> pd.DataFrame:
    """Compare every two methods.

    Args:
        table: The tidy table of a study.
        region: Region whose Dice is taken.
        figures: Figures to compare, of those that every patient has (``PATIENT_FIGURES``).
        seed: Seed of the bootstrap.
        resamples: Its number of resamples.

    Returns:
        One row per target, shots, figure and pair of methods (by name, ``method_a`` first): ``n`` patients with the
        figure under both; ``mean_difference``, a minus b, with ``low`` and ``high``, its 95 % interval
        (:func:`~metaseg.evaluation.statistics.hierarchical_interval`); ``p`` and ``rank_biserial`` of
        :func:`~metaseg.evaluation.statistics.paired_wilcoxon` over patients, each the mean over the seeds that both
        methods have; ``p_holm``, corrected for all pairs of methods within one target, shots and figure.

    Raises:
        DataError: The table is not one, or has no such region.
        UsageError: A figure cannot be compared by patients.
    """
    return _compare(table, region, figures, lambda names: combinations(names, 2), seed, resamples)


def against(
    table: pd.DataFrame,
    region: str,
    baseline: str,
    *,
    figures: Sequence[str] = ("target_after", "forgetting"),
    seed: int = 0,
    resamples: int = 2000,
) -> pd.DataFrame:
    """Compare every other method with one baseline.

    Args:
        table: The tidy table of a study.
        region: Region whose Dice is taken.
        baseline: Label of the baseline.
        figures: As for :func:`pairwise`.
        seed: Seed of the bootstrap.
        resamples: Its number of resamples.

    Returns:
        As :func:`pairwise`, with the baseline as ``method_b``: differences are the other method minus the baseline.
        Holm's correction covers these comparisons alone.

    Raises:
        DataError: The table is not one, or has no such region.
        UsageError: A figure cannot be compared by patients, or the table has no such baseline.
    """
    names = sorted(map(str, table["method"].unique())) if "method" in table else []
    if names and baseline not in names:
        raise UsageError(f"no method '{baseline}' to compare with", expected="one of " + ", ".join(names))

    def pairs(names: Sequence[str]) -> Iterable[tuple[str, str]]:
        return [(name, baseline) for name in names if name != baseline and baseline in names]

    return _compare(table, region, figures, pairs, seed, resamples)


def _compare(
    table: pd.DataFrame,
    region: str,
    figures: Sequence[str],
    pairs: Any,
    seed: int,
    resamples: int,
) -> pd.DataFrame:
    if strange := [figure for figure in figures if figure not in PATIENT_FIGURES]:
        raise UsageError(
            f"'{strange[0]}' cannot be compared patient by patient", expected="one of " + ", ".join(PATIENT_FIGURES)
        )
    records: list[dict[str, Any]] = []
    for (target, shots), methods in runs_by_method(table, region):
        for figure in figures:
            values = {name: patient_values(group, figure) for name, group in methods.items()}
            rows = []
            for a, b in pairs(sorted(methods)):
                common = np.intersect1d(methods[a].seeds, methods[b].seeds, return_indices=True)[1:]
                tested = paired_difference(values[a][common[0]], values[b][common[1]], seed, resamples)
                rows.append(
                    {"target": target, "shots": shots, "figure": figure, "method_a": a, "method_b": b, **tested}
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
