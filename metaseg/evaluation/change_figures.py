"""What tuning changed: Dice before and after on the same cases, per cohort and target."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from metaseg.evaluation.cohort_figures import bootstrap_interval
from metaseg.evaluation.forgetting import Forgetting, forgetting


def paired_dice(rows: pd.DataFrame) -> pd.DataFrame:
    """Dice of one target before and after, a row per case.

    A case in which there was nothing to find is left out if both networks found nothing. If only one of them left it
    empty, that one was right and counts as Dice 1 against the other's 0, so that a network which begins to see tumour
    where there is none is not spared.

    Args:
        rows: Rows of ``case_figures`` of one target, with the columns ``case``, ``patient`` and ``network`` (``before``
            or ``after``).

    Returns:
        Columns ``case``, ``patient``, ``before``, ``after``.
    """
    wide = rows.pivot(index=["case", "patient"], columns="network", values="dice")
    wide = wide.reindex(columns=["before", "after"]).dropna(how="all").fillna(1.0)
    wide.columns.name = None
    return wide.reset_index()


def change_figures(
    rows: pd.DataFrame, source: Collection[str], bootstrap: int, generator: np.random.Generator
) -> pd.DataFrame:
    """Forgetting on source cohorts and gain on the others.

    Args:
        rows: Rows of ``case_figures`` with ``cohort``, ``case``, ``patient``, ``trained_on`` and ``network``.
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
            (f"{figure}{end}" for figure in ("forgetting", "gain") for end in ("", "_low", "_high")), math.nan
        )
        record |= {name: sign * forgetting(before, after), f"{name}_low": low, f"{name}_high": high}
        records.append(record)
    return pd.DataFrame(records)


def domain_figures(rows: pd.DataFrame, source: Collection[str]) -> dict[str, dict[str, float]]:
    """Source and target as wholes: every figure of :class:`~metaseg.evaluation.forgetting.Forgetting` per target.

    Cases of all source cohorts are pooled, as are those of all others; NaN where a domain has none.

    Args:
        rows: As for :func:`change_figures`.
        source: Cohorts that the network knew before it was tuned.

    Returns:
        Target to figures.
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
