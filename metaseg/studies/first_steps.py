"""Dice after the first 1, 2, 4, 8, ... updates of each method, and its difference from a baseline's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from metaseg.metrics.statistics import hierarchical_interval, holm, known_mean
from metaseg.studies.pairs import paired_difference
from metaseg.studies.study_metrics import RunGroup, runs_by_method
from metaseg.studies.tables import DOMAINS, Column, columns_by_name

STEP_COLUMNS = columns_by_name(
    Column("target", "target domain", kind="text"),
    Column("shots", "labelled target patients", kind="whole"),
    Column("method", "label of the method", kind="text"),
    Column("domain", "target or source", kind="text"),
    Column("update", "updates of the parameters so far, 0 before tuning", kind="whole"),
    Column("work", "work spent by then, mean over seeds", "slice gradient evaluations"),
    Column("n_seeds", "seeds; of fewer than three, intervals and p are over patients alone", kind="whole"),
    Column("n_patients", "patients", kind="whole"),
    Column("dice", "mean over patients and seeds", "0 to 1", "higher"),
    Column("low", "lower end of its 95 % interval"),
    Column("high", "upper end of its 95 % interval"),
    Column("baseline", "the method compared with", kind="text"),
    Column("difference", "Dice minus the baseline's after as many updates", "Dice", "higher"),
    Column("difference_low", "lower end of its 95 % interval"),
    Column("difference_high", "upper end of its 95 % interval"),
    Column("p", "of Wilcoxon's signed-rank test over patients", "", "lower"),
    Column("p_holm", "the same, corrected for all methods and updates of one domain", "", "lower"),
)
"""Columns of the first steps."""


def first_steps(
    table: pd.DataFrame, region: str, baseline: str | None = None, *, seed: int = 0, resamples: int = 2000
) -> pd.DataFrame:
    """Dice of every method by the number of updates.

    Args:
        table: The tidy table of a study.
        region: Region whose Dice is taken.
        baseline: Label of the method that the others are compared with; None compares none.
        seed: Seed of the bootstrap.
        resamples: Its number of resamples.

    Returns:
        One row per target, shots, method, domain and number of updates (0, 1, 2, 4, 8, ...) after which all its seeds
        were evaluated, as ``STEP_COLUMNS``. Intervals and p values of the difference from the baseline after as many
        updates are those of :func:`~metaseg.studies.pairs.paired_difference`; NaN before tuning, and where the baseline
        was not evaluated then. Methods that were not evaluated after their first update, as without ``first_marks``,
        have no rows.

    Raises:
        DataError: The table is not one, or has no such region.
    """
    rows: list[dict[str, Any]] = []
    for (target, shots), methods in runs_by_method(table, region):
        found = {name: dict(_steps(group)) for name, group in sorted(methods.items())}
        for name, steps in found.items():
            for (domain, update), (work, dice) in steps.items():
                row = {"target": target, "shots": shots, "method": name, "domain": domain, "update": update}
                low, high = hierarchical_interval(dice, np.random.default_rng(seed), resamples)
                of_patients = known_mean(dice, axis=0)
                row |= {"work": work, "n_seeds": len(dice), "n_patients": int((~np.isnan(of_patients)).sum())}
                row |= {"dice": float(known_mean(of_patients)), "low": low, "high": high, "baseline": ""}
                other = None if name == baseline else found.get(str(baseline), {}).get((domain, update))
                if other is not None and update:
                    row |= _difference(methods[name], dice, methods[str(baseline)], other[1], seed, resamples)
                    row["baseline"] = baseline
                rows.append(row)
    frame = pd.DataFrame(rows, columns=[name for name in STEP_COLUMNS if name != "p_holm"])
    corrected = frame.groupby(["target", "shots", "domain"], sort=False)["p"].transform(
        lambda p: holm(p.to_numpy(np.float64))
    )
    return frame.assign(p_holm=corrected.astype(np.float64))[list(STEP_COLUMNS)]


def _steps(group: RunGroup) -> Iterator[tuple[tuple[str, int], tuple[float, np.ndarray]]]:
    """Domain and number of updates, with the mean work and the Dice ``(seed, patient)`` then."""
    for domain in DOMAINS:
        curves = group.domains[domain]
        shared = [set(updates[~np.isnan(updates)].astype(int)) for updates in curves.updates]
        common = sorted(set.intersection(*shared)) if curves.known.any() else []
        if 1 not in common:
            continue
        for update in (update for update in common if update.bit_count() <= 1):
            places = np.argmax(curves.updates == update, axis=1)
            seeds = np.arange(len(places))
            yield (domain, update), (float(np.mean(curves.steps[seeds, places])), curves.dice[seeds, places])


def _difference(
    method: RunGroup, dice: np.ndarray, baseline: RunGroup, other: np.ndarray, seed: int, resamples: int
) -> dict[str, float]:
    """The difference of two methods, under the seeds that both have."""
    _, mine, theirs = np.intersect1d(method.seeds, baseline.seeds, return_indices=True)
    found = paired_difference(dice[mine], other[theirs], seed, resamples)
    ends = {f"difference_{end}": found[end] for end in ("low", "high")}
    return {"difference": found["mean_difference"], **ends, "p": found["p"]}
