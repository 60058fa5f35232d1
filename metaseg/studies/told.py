"""Runs whose users tell the disease, or whose gates do (``--as``): rows beside those of the one adapted network.

An adapted run keeps the network from before. A case has the Dice of whichever network takes it, and both were measured
on the watched cases, the network from before at the first mark and the adapted one at the last: the rows cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from metaseg.errors import RunError
from metaseg.inference.gate import Gate, WatchedDecision
from metaseg.runs.networks import fold_runs
from metaseg.studies.study_metrics import method_summary

ONE, TOLD, AUTO = "one network", "told", "auto"
TOLD_METRICS = ("target_after", "source_after", "forgetting", "balanced_mean")
DECISION_COLUMNS = ("target", "method", "shots", "seed", "domain", "case", "decided")
_RUN = ["target", "method", "shots", "seed"]
_CASE = [*_RUN, "domain", "case", "region"]


def watched_decisions(run: Path) -> list[dict[str, Any]]:
    """What the gate of a run decided on the cases that it watches: ``domain``, ``case``, ``decided``; none without.

    Of a run with folds also what the gates of the folds decided on the patients that they held out.
    """
    watched = _watched(run)
    if watched:
        watched += [held for fold in fold_runs(run) for held in _watched(fold) if held.domain == "target"]
    return [{name: getattr(decision, name) for name in DECISION_COLUMNS[4:]} for decision in watched]


def _watched(run: Path) -> list[WatchedDecision]:
    try:
        return list(Gate.load(run).watched)
    except RunError:
        return []


def told_summary(table: pd.DataFrame, decisions: pd.DataFrame, region: str, *, resamples: int = 2000) -> pd.DataFrame:
    """Metrics of every method with one network, with the disease told, and with the runs' gates.

    Args:
        table: The tidy table of a study.
        decisions: ``DECISION_COLUMNS``, a row for each watched case of each run that has a gate; may be empty.
        region: Region whose Dice is taken.
        resamples: Resamples of the intervals.

    Returns:
        One row per target, method, shots and ``network`` (``ONE``, ``TOLD``, and ``AUTO`` where runs have a gate): the
        columns of :func:`~metaseg.studies.study_metrics.method_summary` for ``TOLD_METRICS``, and of ``AUTO``
        ``error_source`` and ``error_target``: the fraction of each domain's cases that the gates took for the other.
    """
    parts = []
    for network, rows in _variants(table, decisions):
        summary = method_summary(rows, region, resamples=resamples)
        named = [f"{metric}{end}" for metric in TOLD_METRICS for end in ("", "_low", "_high", "_sd")]
        summary = summary[["target", "method", "shots", "n_seeds", *named]]
        summary.insert(3, "network", network)
        parts.append(summary.merge(_errors(decisions), how="left") if network == AUTO else summary)
    told = pd.concat(parts).reindex(columns=[*parts[0].columns, "error_source", "error_target"])
    places = {network: place for place, network in enumerate((ONE, TOLD, AUTO))}
    return told.sort_values(
        ["target", "method", "shots", "network"],
        key=lambda column: column.map(places) if column.name == "network" else column,
        ignore_index=True,
    )


def _variants(table: pd.DataFrame, decisions: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The first and last marks of all runs; of the last, the Dice is that of the network that takes the case."""
    ends = table.groupby(_RUN)["work"].agg(["min", "max"])
    of_run = ends.loc[pd.MultiIndex.from_frame(table[_RUN])]
    first, last = (table["work"].to_numpy() == of_run[end].to_numpy() for end in ("min", "max"))
    rows, is_last = table[first | last], last[first | last]
    before = table[first].set_index(_CASE)["dice"].reindex(pd.MultiIndex.from_frame(rows[_CASE])).to_numpy()
    yield ONE, rows
    yield TOLD, rows.assign(dice=rows["dice"].where(~(is_last & (rows["domain"] == "source")), before))
    decided = decisions.set_index(list(DECISION_COLUMNS[:-1]))["decided"]
    decided = decided.reindex(pd.MultiIndex.from_frame(rows[list(DECISION_COLUMNS[:-1])])).to_numpy()
    # Runs whose gate decided on every case: what nobody decided on counts for nothing.
    gated = rows.assign(known=pd.notna(decided)).groupby(_RUN)["known"].transform("all").to_numpy()
    if gated.any():
        yield AUTO, rows.assign(dice=rows["dice"].where(~(is_last & (decided == "source")), before))[gated]


def _errors(decisions: pd.DataFrame) -> pd.DataFrame:
    wrong = decisions.assign(wrong=decisions["domain"] != decisions["decided"])
    rates = wrong.groupby(["target", "method", "shots", "domain"])["wrong"].mean().unstack("domain")
    return rates.reindex(columns=["source", "target"]).add_prefix("error_").reset_index()
