"""Figures of a study: per run, per method over seeds and patients, and along the curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from metaseg.evaluation.forgetting import (
    backward_transfer,
    balanced_mean,
    forgetting,
    forward_transfer,
    retention_areas,
    steps_to_shares,
)
from metaseg.evaluation.statistics import draw_weights, known_deviation, known_mean, percentile_interval
from metaseg.studies.curve_arrays import RunGroup, group_runs, mean_over_seeds

PATIENT_FIGURES = {
    "target_before": "target",
    "target_after": "target",
    "source_before": "source",
    "source_after": "source",
    "forgetting": "source",
    "backward_transfer": "source",
    "target_area": "target",
    "source_area": "source",
}
"""Figures that every patient has by itself, and the domain whose patients they are of: a run's figure is their mean."""

FIGURES = (
    "target_before",
    "target_after",
    "source_before",
    "source_after",
    "forgetting",
    "backward_transfer",
    "balanced_mean",
    "target_area",
    "source_area",
    "balanced_area",
    "steps_to_90",
    "forward_transfer",
    "spent",
)
"""Figures of a run."""

_DRAWN = {
    **{figure: (domain,) for figure, domain in PATIENT_FIGURES.items()},
    "balanced_mean": ("target", "source"),
    "balanced_area": ("target", "source"),
    "steps_to_90": ("target",),
    "forward_transfer": ("target",),
    "spent": (),
}
"""Domains whose patients a figure's interval draws."""

_CELL = ("target", "method", "shots")


def seed_figures(table: pd.DataFrame, region: str, *, scratch: str = "scratch") -> pd.DataFrame:
    """Figures of every run.

    Args:
        table: The tidy table of a study.
        region: Region whose Dice is taken.
        scratch: Label, or else family, of the training from random weights; without one, forward transfer is NaN.

    Returns:
        One row per target, method, shots and seed with ``FIGURES``. Before and after are means over patients at the
        run's first and last mark; areas are :func:`~metaseg.evaluation.forgetting.retention_area` over steps;
        ``steps_to_90`` is counted to 90 % of that run's own final target Dice; ``spent`` is the work at the last mark.

    Raises:
        DataError: The table is not one, or has no such region.
    """
    groups = group_runs(table, region)
    parts = []
    for group in groups:
        values = _run_figures(group, _scratch_after(group, groups, scratch))
        named = {name: getattr(group, name) for name in _CELL}
        parts.append(pd.DataFrame({**named, "seed": group.seeds, **{figure: values[figure][0] for figure in FIGURES}}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*_CELL, "seed", *FIGURES])


def summary(
    table: pd.DataFrame, region: str, *, resamples: int = 2000, seed: int = 0, scratch: str = "scratch"
) -> pd.DataFrame:
    """Figures of every method: mean over seeds, spread and 95 % bootstrap interval.

    Every resample draws seeds and, apart from each other, the patients of both domains, and computes the figures of the
    drawn runs anew from the mean curves of the drawn patients. All groups draw from the same seed, so that a row does
    not depend on which others there are.

    Args:
        table: The tidy table of a study.
        region: Region whose Dice is taken.
        resamples: Number of resamples.
        seed: Seed of the bootstrap.
        scratch: As for :func:`seed_figures`.

    Returns:
        One row per target, method and shots: ``n_seeds``, ``n_target_patients``, ``n_source_patients``, and for every
        figure ``<figure>`` (mean over seeds of :func:`seed_figures`), ``<figure>_low``, ``<figure>_high`` and
        ``<figure>_sd``. The latter is, for ``PATIENT_FIGURES``, the sample standard deviation over patients of a
        patient's mean over seeds; for the others, which only a run has, that over seeds. A spread of one is NaN, as is
        the interval of a figure with fewer than two patients in a domain that it is of (``spent``: fewer than two
        seeds). With a single seed, the other intervals draw patients only and hold for that seed.

    Raises:
        DataError: The table is not one, or has no such region.
    """
    groups = group_runs(table, region)
    records = []
    for group in groups:
        floor = _scratch_after(group, groups, scratch)
        generator = np.random.default_rng(seed)
        of_seeds = draw_weights(len(group.seeds), resamples, generator)
        point, drawn = (
            _run_figures(group, floor),
            _run_figures(group, floor, _draw_patients(group, resamples, generator)),
        )
        known = {domain: int(curves.known.sum()) for domain, curves in group.domains.items()}
        record: dict[str, Any] = {name: getattr(group, name) for name in _CELL}
        record |= {"n_seeds": len(group.seeds), **{f"n_{domain}_patients": count for domain, count in known.items()}}
        for figure in FIGURES:
            enough = all(known[domain] > 1 for domain in _DRAWN[figure]) if _DRAWN[figure] else len(group.seeds) > 1
            interval = percentile_interval(known_mean(drawn[figure], weights=of_seeds)) if enough else (math.nan,) * 2
            record |= {figure: float(known_mean(point[figure][0])), f"{figure}_sd": _spread(group, figure, point)}
            record |= {f"{figure}_low": interval[0], f"{figure}_high": interval[1]}
        records.append(record)
    return pd.DataFrame(records, columns=_summary_columns())


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
        another. A seed without that mark is not in it. Intervals are NaN with fewer than two patients.

    Raises:
        DataError: The table is not one, or has no such region.
    """
    parts = []
    for group in group_runs(table, region):
        generator = np.random.default_rng(seed)
        of_seeds = draw_weights(len(group.seeds), resamples, generator)
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


def patient_values(group: RunGroup, figure: str) -> np.ndarray:
    """A figure of ``PATIENT_FIGURES`` for every run and patient: ``(seed, patient)``, NaN where there is none."""
    of_domain = group.domains[PATIENT_FIGURES[figure]]
    if figure.endswith("_before"):
        return of_domain.first()
    if figure.endswith("_after"):
        return of_domain.last()
    if figure.endswith("_area"):
        return retention_areas(of_domain.steps[:, np.newaxis, :], np.swapaxes(of_domain.dice, 1, 2))
    lost = of_domain.first() - of_domain.last()
    return lost if figure == "forgetting" else -lost


def _run_figures(
    group: RunGroup, floor: np.ndarray, weights: dict[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Figures ``(resample, seed)`` from the mean curves under the patients' weights; one resample without weights."""
    means = {domain: one.means(None if weights is None else weights[domain]) for domain, one in group.domains.items()}
    seeds = np.arange(len(group.seeds))
    before = {domain: of_domain[:, :, 0] for domain, of_domain in means.items()}
    after = {name: of_domain[:, seeds, group.domains[name].last_mark()] for name, of_domain in means.items()}
    areas = {name: retention_areas(group.domains[name].steps, of_domain) for name, of_domain in means.items()}
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
        "steps_to_90": steps_to_shares(group.domains["target"].steps, means["target"]),
        "forward_transfer": forward_transfer(before["target"], scratch),
        "spent": np.broadcast_to(group.spent(), before["target"].shape),
    }


def _scratch_after(group: RunGroup, groups: Sequence[RunGroup], scratch: str) -> np.ndarray:
    """Final target Dice of the training from scratch, ``(seed, patient)`` in the seeds of ``group``.

    Of several such methods it is the mean; NaN where there is none, and for a training from scratch itself, which
    begins with no pretrained network.
    """
    after = np.full((len(group.seeds), group.domains["target"].dice.shape[2]), np.nan)
    floors = [one for one in groups if one.method == scratch] or [one for one in groups if one.family == scratch]
    if any(one.method == group.method for one in floors):
        return after
    found = [after]
    for one in floors:
        if (one.target, one.shots) == (group.target, group.shots):
            _, mine, theirs = np.intersect1d(group.seeds, one.seeds, return_indices=True)
            aligned = after.copy()
            aligned[mine] = one.domains["target"].last()[theirs]
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


def _spread(group: RunGroup, figure: str, point: dict[str, np.ndarray]) -> float:
    if figure in PATIENT_FIGURES:
        return known_deviation(mean_over_seeds(patient_values(group, figure)))
    return known_deviation(point[figure][0])


def _summary_columns() -> list[str]:
    counts = ["n_seeds", "n_target_patients", "n_source_patients"]
    return [*_CELL, *counts, *(f"{figure}{end}" for figure in FIGURES for end in ("", "_sd", "_low", "_high"))]
