"""Whether a method beats a baseline on both axes: as good on the target, and far less forgotten of the source.

A method that learns nothing forgets nothing, and one that forgets all may learn most: a gain counts here only if it is
not paid for on the other axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from metaseg.errors import UsageError
from metaseg.evaluation.statistics import holm, known_mean
from metaseg.studies.curve_arrays import RunGroup, runs_by_method
from metaseg.studies.figures import patient_values
from metaseg.studies.pairs import paired_difference

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
                | _compare(group, methods[baseline], share, seed, resamples)
                for name, group in sorted(methods.items())
                if name != baseline
            ]
            records += _corrected(rows)
    return pd.DataFrame(records, columns=list(COLUMNS))


def _compare(method: RunGroup, baseline: RunGroup, share: float, seed: int, resamples: int) -> dict[str, Any]:
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
