"""What tuning changed, and what it cost on the source domain (Lifelong-nnUNet, Sci Rep 2023 13:9381).

Means are over the same cases before and after; NaN in gives NaN out.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from metaseg.metrics.statistics import bootstrap_interval

Dice = TypeVar("Dice", float, np.ndarray)
"""One mean Dice, or an array of them."""


def forgetting(before: Dice, after: Dice) -> Dice:
    """Source Dice lost: ``before - after``, in [-1, 1]. Positive values mean that the source domain was forgotten.

    Args:
        before: Mean Dice on the source domain before adaptation.
        after: Mean Dice on the same cases after it.
    """
    return before - after


def backward_transfer(before: Dice, after: Dice) -> Dice:
    """Backward transfer BWT = ``after - before``, the negative of :func:`forgetting`."""
    return after - before


def balanced_mean(source: Dice, target: Dice) -> Dice:
    """Mean of source and target Dice after adaptation: each domain counts the same, however many cases it has."""
    return (source + target) / 2.0


def forward_transfer(pretrained_on_target: Dice, scratch_on_target: Dice) -> Dice:
    """Forward transfer FWT = R[source, target] - R[scratch, target], in [-1, 1].

    Args:
        pretrained_on_target: Mean target Dice of the network that knows the source alone, before it is tuned.
        scratch_on_target: Mean Dice on the same cases of a network trained from random weights on the target alone.
    """
    return pretrained_on_target - scratch_on_target


def forgetting_metrics(
    source_before: float, source_after: float, target_before: float, target_after: float
) -> dict[str, float]:
    """All metrics of one adaptation by name.

    Args:
        source_before: Mean Dice on the source domain before adaptation, in [0, 1].
        source_after: The same after it.
        target_before: Mean Dice on the target domain before adaptation.
        target_after: The same after it.

    Returns:
        The four, and ``forgetting``, ``backward_transfer``, ``plasticity`` (target Dice gained) and ``balanced_mean``.

    Examples:
        >>> found = forgetting_metrics(source_before=0.75, source_after=0.5, target_before=0.25, target_after=0.5)
        >>> found["forgetting"], found["plasticity"], found["balanced_mean"]
        (0.25, 0.25, 0.5)
    """
    return {
        "source_before": source_before,
        "source_after": source_after,
        "target_before": target_before,
        "target_after": target_after,
        "forgetting": forgetting(source_before, source_after),
        "backward_transfer": backward_transfer(source_before, source_after),
        "plasticity": target_after - target_before,
        "balanced_mean": balanced_mean(source_after, target_after),
    }


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
        rows: Rows of ``case_metrics`` with ``cohort``, ``case``, ``patient``, ``trained_on`` and ``network``, and with
            ``cross_validated`` where some patients are judged by the networks of folds.
        source: Cohorts that the network knew before it was tuned.
        bootstrap: Resamples of patients for the 95 % interval.
        generator: Source of randomness.

    Returns:
        One row per cohort, ``trained_on``, ``cross_validated`` where there is one, and target: ``domain`` (source or
        target), ``n_cases``, the mean Dice ``before`` and ``after`` over the same cases (see :func:`paired_dice`), and
        ``forgetting`` (before minus after) or, for target cohorts, ``gain`` (after minus before), each with ``_low``
        and ``_high``.
    """
    records = []
    names = [name for name in ("cohort", "trained_on", "cross_validated", "target") if name in rows]
    for values, group in rows.groupby(names, sort=False):
        named = dict(zip(names, values, strict=True))
        cohort = named["cohort"]
        pairs = paired_dice(group)
        domain = "source" if cohort in source else "target"
        before, after = (float(pairs[name].mean()) if len(pairs) else math.nan for name in ("before", "after"))
        lost = (pairs["before"] - pairs["after"]).to_numpy(dtype=np.float64)
        name, sign = ("forgetting", 1.0) if domain == "source" else ("gain", -1.0)
        low, high = bootstrap_interval(sign * lost, pairs["patient"].to_numpy(), bootstrap, generator)
        record: dict[str, Any] = {
            **named,
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
    """Source and target as wholes: the metrics of :func:`forgetting_metrics` per target.

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
        result[str(target)] = forgetting_metrics(*means)
    return result
