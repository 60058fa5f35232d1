"""Labels that entries need for the final metrics of others: of training from scratch, of training on all labels."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from metaseg.classify.fitting import METRICS
from metaseg.metrics.classification import classification_metrics
from metaseg.studies.classifiers.plan import ClassifierWork
from metaseg.studies.classifiers.selection import ChoosingRun
from metaseg.studies.classifiers.tables import Predictions, labels_worth, seed_curves
from metaseg.studies.workers import Unit
from metaseg.terminal import print_table

WORTH = (("labels_needed", ""), ("labels_saved", ""), ("labels_saved", "_low"), ("labels_saved", "_high"))
"""What is known of an entry against a reference: names of columns before and behind that of the reference."""


def with_references(
    summarised: pd.DataFrame,
    work: ClassifierWork,
    curves: pd.DataFrame,
    predictions: Mapping[Unit, Predictions],
    runs: Sequence[ChoosingRun],
) -> pd.DataFrame:
    """A summary with the labels that each entry needs for the final metric of each reference.

    Args:
        summarised: As from :func:`~metaseg.studies.classifiers.tables.entry_summary`, which has the baseline's.
        work: The comparison.
        curves: As from :func:`~metaseg.studies.classifiers.tables.curve_rows`.
        predictions: Of the finished cells.
        runs: As from :func:`~metaseg.studies.classifiers.selection.choosing_runs`; they know how large the pool is.

    Returns:
        The summary with the columns ``labels_needed_ENTRY``, ``labels_saved_ENTRY``, ``labels_saved_ENTRY_low`` and
        ``labels_saved_ENTRY_high`` for every reference ENTRY. Of a reference itself there are the labels needed alone:
        those at which it was there first, or all labels of the pool.
    """
    table = summarised.copy()
    for reference in work.references:
        theirs = reference_curves(work, reference, curves, predictions, runs)
        if not theirs:
            continue
        for row, entry in table["entry"].items():
            mine = list(seed_curves(curves, str(entry), work.study.metric).values())
            mine = theirs if entry == reference else mine
            if not mine:
                continue
            worth = labels_worth(mine, theirs, np.random.default_rng(0), work.study.resamples)
            for name, end in WORTH[:1] if entry == reference else WORTH:
                table.loc[row, f"{name}_{reference}{end}"] = worth[f"{name}{end}"]
    return table


def reference_curves(
    work: ClassifierWork,
    label: str,
    curves: pd.DataFrame,
    predictions: Mapping[Unit, Predictions],
    runs: Sequence[ChoosingRun],
) -> list[pd.Series]:
    """The curve of each seed of a reference; of a training on all labels, one point at the size of the pool.

    Arguments are those of :func:`with_references`. A training has none where no run says how large its pool is.
    """
    metric = work.study.metric
    if found := list(seed_curves(curves, label, metric).values()):
        return found
    sizes = {run.cell.seed: sum(run.pool.values()) for run in runs if run.pool}
    if not sizes:
        return []
    # Where seeds have parts of their own, pools differ by a few slices.
    size = round(np.mean(list(sizes.values())))
    trained = [one for cell, one in predictions.items() if cell.label == label]
    values = [classification_metrics(one.probabilities, one.labels, one.classes)[METRICS[metric]] for one in trained]
    return [pd.Series({size: value}) for value in values if math.isfinite(value)]


def print_references(work: ClassifierWork, summarised: pd.DataFrame) -> None:
    """Print the labels that each entry needs for the final metric of the baseline and of every reference."""
    against = {work.baseline: "", **{name: f"_{name}" for name in work.references}}
    against = {name: of for name, of in against.items() if f"labels_needed{of}" in summarised}
    if set(against) <= {work.baseline}:
        return
    rows = [
        [work.titles[str(row["entry"])], *(worth_text(row, of) for of in against.values())]
        for row in summarised[summarised["labels"].notna()].to_dict("records")
    ]
    title = "labels needed for the final metric of others (saved in %, 95 % interval over seeds)"
    print_table(title, ["entry", *(work.titles[name] for name in against)], rows)


def worth_text(row: Mapping[Hashable, Any], of: str) -> str:
    """Labels needed, and in parentheses the percentage saved with its interval; a dash where it is not reached.

    Args:
        row: Of :func:`with_references`.
        of: Empty against the baseline, else ``_`` and the reference.
    """
    needed, saved, low, high = (row.get(f"{name}{of}{end}", math.nan) for name, end in WORTH)
    if math.isnan(needed):
        return "–"
    if math.isnan(saved):
        return f"{needed:.0f}"
    between = "" if math.isnan(low) or math.isnan(high) else f", {_percent(low)} to {_percent(high)}"
    return f"{needed:.0f} ({_percent(saved)}{between})"


def _percent(value: float) -> str:
    return "not reached" if math.isinf(value) else f"{100 * value:.0f}".replace("-", "−")
