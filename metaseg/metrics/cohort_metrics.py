"""Metrics of a cohort from the rows of its cases: missed targets stay in the means, and every status is counted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from metaseg.errors import DataError
from metaseg.metrics.empties import EmptyPolicy, Status, empty_policy
from metaseg.metrics.statistics import bootstrap_interval, known_deviation

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
    # Of a volume outlined on some slices only no distance is defined, whatever the policy.
    defined = frame["undefined"].fillna("") == "" if "undefined" in frame else True
    undetected = frame["status"].isin([Status.MISSED, Status.FALSE])
    frame.loc[empty, "dice"] = settled.dice_empty_both
    if "hd95" in frame:
        # A column without any value was not computed, and stays so.
        if frame["hd95"].notna().any():
            frame.loc[empty & defined, "hd95"] = settled.hd95_empty_both
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


def to_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain Python values, NaN as None, for JSON."""
    return [
        {str(name): value for name, value in row.items()}
        for row in frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    ]


def _describe(values: np.ndarray) -> dict[str, float | int]:
    known = values[~np.isnan(values)]
    if not len(known):
        return {"mean": math.nan, "sd": math.nan, "median": math.nan, "n": 0}
    mean, median = float(np.mean(known)), float(np.median(known))
    return {"mean": mean, "sd": known_deviation(known), "median": median, "n": len(known)}
