"""Runs of a comparison as arrays: Dice by seed, mark and patient, from the rows of the tidy table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from metaseg.evaluation.statistics import known_mean
from metaseg.studies.table import DOMAINS, rows_of_region

_RUN = ["target", "method", "shots", "seed", "domain"]


@dataclass(frozen=True)
class Curves:
    """Dice of the runs of one method on the patients of one domain.

    Attributes:
        steps: Work spent ``(seed, mark)``; NaN after a run's last mark.
        dice: A patient's mean over its cases ``(seed, mark, patient)``, in [0, 1]; NaN where there is none.
    """

    steps: np.ndarray
    dice: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Which patients have any value ``(patient,)``."""
        return ~np.isnan(self.dice).all(axis=(0, 1))

    def last_mark(self) -> np.ndarray:
        """Index of each run's last mark ``(seed,)``."""
        return np.maximum(np.sum(~np.isnan(self.steps), axis=1) - 1, 0)

    def first(self) -> np.ndarray:
        """Dice at each run's first mark ``(seed, patient)``."""
        return self.dice[:, 0]

    def last(self) -> np.ndarray:
        """Dice at each run's last mark ``(seed, patient)``."""
        return self.dice[np.arange(len(self.dice)), self.last_mark()]

    def means(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Means over patients.

        Args:
            weights: Weight of each patient ``(resample, patient)``; None counts each once.

        Returns:
            Dice ``(resample, seed, mark)``; NaN where no patient has a value.
        """
        seeds, marks, patients = self.dice.shape
        if weights is None:
            weights = np.ones((1, patients))
        flat = self.dice.reshape(seeds * marks, patients).T
        known = ~np.isnan(flat)
        counts = weights @ known
        sums = weights @ np.where(known, flat, 0.0)
        means = np.where(counts > 0, sums / np.where(counts > 0, counts, 1.0), np.nan)
        return means.reshape(len(weights), seeds, marks)


@dataclass(frozen=True)
class RunGroup:
    """All runs of one method at one target and one number of shots.

    Attributes:
        target: The target's name.
        method: The method's label.
        family: Its family.
        shots: Labelled patients.
        seeds: Ascending ``(seed,)``.
        domains: Curves on target and source. The patients of a domain are the same, in the same order, in all groups of
            a target.
    """

    target: str
    method: str
    family: str
    shots: int
    seeds: np.ndarray
    domains: dict[str, Curves]

    def spent(self) -> np.ndarray:
        """Work at each run's last mark ``(seed,)``."""
        ends = [
            np.take_along_axis(curves.steps, curves.last_mark()[:, np.newaxis], axis=1)[:, 0]
            for curves in self.domains.values()
        ]
        return np.fmax(*ends)


def group_runs(table: pd.DataFrame, region: str) -> list[RunGroup]:
    """Sort the runs of a tidy table into arrays.

    A mark is the n-th evaluation of a run on a domain: marks of two seeds belong together although a meta-step may have
    overshot one of them.

    Args:
        table: The tidy table of a study.
        region: The region to take.

    Returns:
        The groups, by target, method and shots. A patient's value is the mean over its cases.

    Raises:
        DataError: The table is not one, or has no such region.
    """
    rows = rows_of_region(table, region)
    families = rows.drop_duplicates("method").set_index("method")["family"]
    rows = rows.groupby([*_RUN, "step", "patient"], as_index=False)["dice"].mean()
    rows["mark"] = rows.groupby(_RUN)["step"].rank("dense").astype(np.int64) - 1
    groups = []
    for target, of_target in rows.groupby("target"):
        patients = {
            domain: pd.Index(np.unique(of_target["patient"][of_target["domain"] == domain].to_numpy(object)))
            for domain in DOMAINS
        }
        for (method, shots), members in of_target.groupby(["method", "shots"]):
            seeds = np.unique(members["seed"].to_numpy())
            domains = {
                domain: _curves(members[members["domain"] == domain], seeds, patients[domain]) for domain in DOMAINS
            }
            groups.append(RunGroup(str(target), str(method), str(families[method]), int(shots), seeds, domains))
    return groups


def mean_over_seeds(values: np.ndarray) -> np.ndarray:
    """Each patient's mean over the seeds that have a value: ``(seed, patient)`` to ``(patient,)``."""
    return known_mean(values, axis=0)


def _curves(rows: pd.DataFrame, seeds: np.ndarray, patients: pd.Index) -> Curves:
    marks = int(rows["mark"].max()) + 1 if len(rows) else 1
    steps = np.full((len(seeds), marks), np.nan)
    dice = np.full((len(seeds), marks, len(patients)), np.nan)
    seed, mark = np.searchsorted(seeds, rows["seed"].to_numpy()), rows["mark"].to_numpy()
    steps[seed, mark] = rows["step"].to_numpy()
    dice[seed, mark, patients.get_indexer(rows["patient"])] = rows["dice"].to_numpy()
    return Curves(steps, dice)


def runs_by_method(table: pd.DataFrame, region: str) -> list[tuple[tuple[str, int], dict[str, RunGroup]]]:
    """The runs of each target and number of shots, by method; for arguments and errors see :func:`group_runs`."""
    cells: dict[tuple[str, int], dict[str, RunGroup]] = {}
    for group in group_runs(table, region):
        cells.setdefault((group.target, group.shots), {})[group.method] = group
    return sorted(cells.items())
