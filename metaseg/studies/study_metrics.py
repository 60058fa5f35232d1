"""Metrics of a study: per run, per method over seeds and patients, and along the curves.

The runs of a method are arrays first: Dice by seed, mark and patient, from the rows of the tidy table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from metaseg.metrics.curves import retention_area, steps_to_fraction
from metaseg.metrics.forgetting import backward_transfer, balanced_mean, forgetting, forward_transfer
from metaseg.metrics.statistics import (
    FEWEST_SEEDS,
    draw_seeds,
    draw_weights,
    interval_over,
    known_deviation,
    known_mean,
    p_against_best,
    percentile_interval,
)
from metaseg.studies.tables import DOMAINS, Column, rows_of_region

_RUN = ["target", "method", "shots", "seed", "domain"]


@dataclass(frozen=True)
class Curves:
    """Dice of the runs of one method on the patients of one domain.

    Attributes:
        steps: Work spent ``(seed, mark)``; NaN after a run's last mark.
        dice: A patient's mean over its cases ``(seed, mark, patient)``, in [0, 1]; NaN where there is none.
        updates: Updates of the parameters by each mark ``(seed, mark)``; NaN where they were not counted.
    """

    steps: np.ndarray
    dice: np.ndarray
    updates: np.ndarray

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
    rows = rows.groupby([*_RUN, "work", "patient"], as_index=False).agg({"dice": "mean", "update": "first"})
    rows["mark"] = rows.groupby(_RUN)["work"].rank("dense").astype(np.int64) - 1
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
    updates, dice = steps.copy(), np.full((len(seeds), marks, len(patients)), np.nan)
    seed, mark = np.searchsorted(seeds, rows["seed"].to_numpy()), rows["mark"].to_numpy()
    steps[seed, mark] = rows["work"].to_numpy()
    dice[seed, mark, patients.get_indexer(rows["patient"])] = rows["dice"].to_numpy()
    updates[seed, mark] = rows["update"].to_numpy()
    return Curves(steps, dice, updates)


def runs_by_method(table: pd.DataFrame, region: str) -> list[tuple[tuple[str, int], dict[str, RunGroup]]]:
    """The runs of each target and number of shots, by method; for arguments and errors see :func:`group_runs`."""
    cells: dict[tuple[str, int], dict[str, RunGroup]] = {}
    for group in group_runs(table, region):
        cells.setdefault((group.target, group.shots), {})[group.method] = group
    return sorted(cells.items())


@dataclass(frozen=True)
class Metric(Column):
    """A metric of a run.

    Attributes:
        domains: Whose patients it is computed from, and its interval draws.
        of_patients: Whether every patient has it by itself, a run's being their mean.
    """

    domains: tuple[str, ...] = ()
    of_patients: bool = False


Better = Literal["higher", "lower"]


def _of_patients(name: str, meaning: str, domain: str, better: Better = "higher") -> Metric:
    return Metric(name, meaning, "Dice", better, domains=(domain,), of_patients=True)


def _of_run(name: str, meaning: str, *domains: str, unit: str = "Dice", better: Better = "higher") -> Metric:
    return Metric(name, meaning, unit, better, domains=domains)


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        _of_patients("target_before", "on the target before tuning", "target"),
        _of_patients("target_after", "on the target after tuning", "target"),
        _of_patients("source_before", "on the source before tuning", "source"),
        _of_patients("source_after", "on the source after tuning", "source"),
        _of_patients("forgetting", "lost on the source", "source", "lower"),
        _of_patients("backward_transfer", "gained on the source", "source"),
        _of_run("balanced_mean", "mean of both domains after tuning", *DOMAINS),
        _of_patients("target_area", "mean on the target over the work", "target"),
        _of_patients("source_area", "mean on the source over the work", "source"),
        _of_run("balanced_area", "mean of both areas", *DOMAINS),
        _of_run("steps_to_90", "work to 90 % of the final target Dice", "target", unit="evaluations", better="lower"),
        _of_run("forward_transfer", "head start over random weights", "target"),
        _of_run("spent", "work at the last mark", unit="evaluations", better="lower"),
    )
}
"""Metrics of a run, by name."""

PATIENT_METRICS = {name: metric.domains[0] for name, metric in METRICS.items() if metric.of_patients}
"""Metrics that every patient has by itself, and the domain whose patients they are of."""

RANKED: Mapping[str, int] = {"balanced_mean": 1, "forgetting": -1}
"""Metrics whose best is named in reports; 1 if that is the highest, -1 if it is the lowest."""

_CELL = ("target", "method", "shots")


def seed_metrics(table: pd.DataFrame, region: str, *, scratch: str = "scratch") -> pd.DataFrame:
    """Metrics of every run.

    Args:
        table: The tidy table of a study.
        region: Region whose Dice is taken.
        scratch: Label, or else family, of the training from random weights; without one, forward transfer is NaN.

    Returns:
        One row per target, method, shots and seed with ``METRICS``. Before and after are means over patients at the
        run's first and last mark; areas are :func:`~metaseg.metrics.curves.retention_area` over steps;
        ``steps_to_90`` is counted to 90 % of that run's own final target Dice; ``spent`` is the work at the last mark.

    Raises:
        DataError: The table is not one, or has no such region.
    """
    groups = group_runs(table, region)
    parts = []
    for group in groups:
        values = _run_metrics(group, _scratch_after(group, groups, scratch))
        named = {name: getattr(group, name) for name in _CELL}
        parts.append(pd.DataFrame({**named, "seed": group.seeds, **{metric: values[metric][0] for metric in METRICS}}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*_CELL, "seed", *METRICS])


def method_summary(
    table: pd.DataFrame, region: str, *, resamples: int = 2000, seed: int = 0, scratch: str = "scratch"
) -> pd.DataFrame:
    """Metrics of every method: mean over seeds, spread and 95 % bootstrap interval.

    Every resample draws seeds and, apart from each other, the patients of both domains, and computes the metrics of the
    drawn runs anew from the mean curves of the drawn patients. All groups draw from the same seed, so that their
    intervals do not depend on which others there are, and their resamples are paired.

    Args:
        table: The tidy table of a study.
        region: Region whose Dice is taken.
        resamples: Number of resamples.
        seed: Seed of the bootstrap.
        scratch: As for :func:`seed_metrics`.

    Returns:
        One row per target, method and shots: ``n_seeds``, ``n_target_patients``, ``n_source_patients``, and for every
        metric ``<metric>`` (mean over seeds of :func:`seed_metrics`), ``<metric>_low``, ``<metric>_high`` and
        ``<metric>_sd``. The latter is, for ``PATIENT_METRICS``, the sample standard deviation over patients of a
        patient's mean over seeds; for the others, which only a run has, that over seeds. A spread of one is NaN, as is
        the interval of a metric with fewer than two patients in a domain that it is of (``spent``: fewer than three
        seeds). With fewer than three seeds, the other intervals draw patients only and hold for those seeds, as
        ``interval_over`` says: ``patients and seeds``, ``patients``, or nothing where there are no intervals.
        ``<metric>_p_best``, for the metrics in ``RANKED``, compares a method with the best at the same target and shots
        (:func:`~metaseg.metrics.statistics.p_against_best`); NaN for the best itself, and for methods with fewer
        than three seeds, or six patients in a domain, which are not tested.

    Raises:
        DataError: The table is not one, or has no such region.
    """
    groups = group_runs(table, region)
    records: list[dict[str, Any]] = []
    ranked: list[dict[str, tuple[np.ndarray, np.ndarray]]] = []
    for group in groups:
        floor = _scratch_after(group, groups, scratch)
        generator = np.random.default_rng(seed)
        of_seeds = draw_seeds(len(group.seeds), resamples, generator)
        point, drawn = (
            _run_metrics(group, floor),
            _run_metrics(group, floor, _draw_patients(group, resamples, generator)),
        )
        known = {domain: int(curves.known.sum()) for domain, curves in group.domains.items()}
        record: dict[str, Any] = {name: getattr(group, name) for name in _CELL}
        record |= {"n_seeds": len(group.seeds), **{f"n_{domain}_patients": count for domain, count in known.items()}}
        record["interval_over"] = interval_over(max(known.values()), len(group.seeds))
        for metric, described in METRICS.items():
            patients, means = (
                [known[domain] for domain in described.domains],
                known_mean(drawn[metric], weights=of_seeds),
            )
            enough = min(patients) > 1 if patients else len(group.seeds) >= FEWEST_SEEDS
            interval = percentile_interval(means) if enough else (math.nan,) * 2
            record |= {metric: float(known_mean(point[metric][0])), f"{metric}_sd": _spread(group, metric, point)}
            record |= {f"{metric}_low": interval[0], f"{metric}_high": interval[1]}
        ranked.append({metric: (point[metric][0], known_mean(drawn[metric])) for metric in RANKED})
        records.append(record)
    return _with_best(pd.DataFrame(records, columns=_summary_columns()), groups, ranked)


def _with_best(
    rows: pd.DataFrame, groups: Sequence[RunGroup], found: Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]]
) -> pd.DataFrame:
    """A summary with the tests of each target's methods against their best.

    Args:
        rows: The summary, a row for each of ``groups``.
        groups: The runs.
        found: Of each, by metric: the value of every seed, and the mean over seeds in every resample of patients.
    """
    counts = rows[["n_target_patients", "n_source_patients"]].min(axis=1).to_numpy()
    for metric, sign in RANKED.items():
        for places in rows.groupby(["target", "shots"]).indices.values():
            of_seeds = pd.concat(
                [pd.Series(found[place][metric][0], groups[place].seeds) for place in places], axis=1
            ).to_numpy(np.float64)
            of_patients = np.stack([found[place][metric][1] for place in places], axis=1)
            tested = p_against_best(sign * of_seeds, sign * of_patients, int(counts[places].min()))
            rows.loc[places, f"{metric}_p_best"] = tested
    return rows


def curves(table: pd.DataFrame, region: str, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Dice along the work, mean over seeds and patients with its 95 % bootstrap interval.

    Args:
        table: The tidy table of a study.
        region: Region whose Dice is taken.
        resamples: Number of resamples.
        seed: Seed of the bootstrap.

    Returns:
        One row per target, method, shots, mark and domain: ``step``, ``mean``, ``low``, ``high``. Seeds are aligned by
        the number of the mark, ``step`` being their mean there: a meta-step may overshoot a mark in one seed and not in
        another. A seed without that mark is not in it. Intervals are NaN with fewer than two patients; with fewer than
        three seeds they are over patients alone.

    Raises:
        DataError: The table is not one, or has no such region.
    """
    parts = []
    for group in group_runs(table, region):
        generator = np.random.default_rng(seed)
        of_seeds = draw_seeds(len(group.seeds), resamples, generator)
        weights = _draw_patients(group, resamples, generator)
        for domain, of_domain in group.domains.items():
            if not of_domain.known.any():
                continue
            drawn = known_mean(of_domain.means(weights[domain]), axis=1, weights=of_seeds[:, :, np.newaxis])
            if of_domain.known.sum() < 2:
                drawn = np.full_like(drawn, np.nan)
            ends = np.array([percentile_interval(at_mark) for at_mark in drawn.T])
            columns = {name: getattr(group, name) for name in _CELL}
            columns |= {"step": known_mean(of_domain.steps, axis=0), "domain": domain}
            columns |= {"mean": known_mean(of_domain.means()[0], axis=0), "low": ends[:, 0], "high": ends[:, 1]}
            parts.append(pd.DataFrame(columns))
    names = [*_CELL, "step", "domain", "mean", "low", "high"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)


def patient_values(group: RunGroup, metric: str) -> np.ndarray:
    """A metric of ``PATIENT_METRICS`` for every run and patient: ``(seed, patient)``, NaN where there is none."""
    of_domain = group.domains[PATIENT_METRICS[metric]]
    if metric.endswith("_before"):
        return of_domain.first()
    if metric.endswith("_after"):
        return of_domain.last()
    if metric.endswith("_area"):
        return retention_area(of_domain.steps[:, np.newaxis, :], np.swapaxes(of_domain.dice, 1, 2))
    lost = of_domain.first() - of_domain.last()
    return lost if metric == "forgetting" else -lost


def _run_metrics(
    group: RunGroup, floor: np.ndarray, weights: dict[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Metrics ``(resample, seed)`` from the mean curves under the patients' weights; one resample without weights."""
    means = {
        domain: curves.means(None if weights is None else weights[domain]) for domain, curves in group.domains.items()
    }
    seeds = np.arange(len(group.seeds))
    before = {domain: of_domain[:, :, 0] for domain, of_domain in means.items()}
    after = {name: of_domain[:, seeds, group.domains[name].last_mark()] for name, of_domain in means.items()}
    areas = {name: retention_area(group.domains[name].steps, of_domain) for name, of_domain in means.items()}
    of_patients = np.ones((1, floor.shape[1])) if weights is None else weights["target"]
    scratch = known_mean(floor, weights=of_patients[:, np.newaxis, :])
    return {
        "target_before": before["target"],
        "target_after": after["target"],
        "source_before": before["source"],
        "source_after": after["source"],
        "forgetting": forgetting(before["source"], after["source"]),
        "backward_transfer": backward_transfer(before["source"], after["source"]),
        "balanced_mean": balanced_mean(after["source"], after["target"]),
        "target_area": areas["target"],
        "source_area": areas["source"],
        "balanced_area": balanced_mean(areas["source"], areas["target"]),
        "steps_to_90": steps_to_fraction(group.domains["target"].steps, means["target"]),
        "forward_transfer": forward_transfer(before["target"], scratch),
        "spent": np.broadcast_to(group.spent(), before["target"].shape),
    }


def _scratch_after(group: RunGroup, groups: Sequence[RunGroup], scratch: str) -> np.ndarray:
    """Final target Dice of the training from scratch, ``(seed, patient)`` in the seeds of ``group``.

    Of several such methods it is the mean; NaN where there is none, and for a training from scratch itself, which
    begins with no pretrained network.
    """
    after = np.full((len(group.seeds), group.domains["target"].dice.shape[2]), np.nan)
    floors = [floor for floor in groups if floor.method == scratch] or [
        floor for floor in groups if floor.family == scratch
    ]
    if any(floor.method == group.method for floor in floors):
        return after
    found = [after]
    for floor in floors:
        if (floor.target, floor.shots) == (group.target, group.shots):
            _, mine, theirs = np.intersect1d(group.seeds, floor.seeds, return_indices=True)
            aligned = after.copy()
            aligned[mine] = floor.domains["target"].last()[theirs]
            found.append(aligned)
    return known_mean(np.stack(found), axis=0)


def _draw_patients(group: RunGroup, resamples: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights ``(resample, patient)`` of each domain; patients without any value are never drawn."""
    weights = {}
    for domain, of_domain in group.domains.items():
        known = of_domain.known
        weights[domain] = np.zeros((resamples, len(known)))
        weights[domain][:, known] = draw_weights(int(known.sum()), resamples, generator)
    return weights


def _spread(group: RunGroup, metric: str, point: dict[str, np.ndarray]) -> float:
    if metric in PATIENT_METRICS:
        return known_deviation(mean_over_seeds(patient_values(group, metric)))
    return known_deviation(point[metric][0])


def _summary_columns() -> list[str]:
    counts = ["n_seeds", "n_target_patients", "n_source_patients", "interval_over"]
    of_metrics = (f"{metric}{end}" for metric in METRICS for end in ("", "_sd", "_low", "_high"))
    return [*_CELL, *counts, *of_metrics, *(f"{metric}_p_best" for metric in RANKED)]
