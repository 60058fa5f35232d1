"""Metrics as tables in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from metaseg.terminal import Table

_LESIONS = {"Dice": "lesionwise_dice", "HD95": "lesionwise_hd95", "F1": "lesionwise_f1", "MIST F1": "mist_f1"}
_COUNTS = {"valid": "n_valid", "missed": "n_missed", "false": "n_false", "empty": "n_empty_both"}


def print_metrics(summary: pd.DataFrame, title: str) -> None:
    """Print a table of Dice and HD95, and one of lesion-wise metrics and counts, each a row per cohort and target.

    Args:
        summary: From :func:`metaseg.metrics.cohort_metrics.summarise_cohorts`, with 95 % intervals.
        title: Heading.
    """
    surface = "hd95_mean" in summary and summary["hd95_mean"].notna().any()
    lesions = _LESIONS if "lesionwise_dice_mean" in summary else {}
    volumes, counted = [], []
    for row in summary.to_dict(orient="records"):
        distance = _spread(row, "hd95", 1, {"pixel": "px"}.get(row["unit"], row["unit"]))
        volumes.append(
            _head(row)
            | {"Dice": _spread(row, "dice", 3), "95 % CI": _interval(row, "dice")}
            | ({"HD95": distance} if surface else {})
        )
        counted.append(
            {name: text for name, text in _head(row).items() if name != "cases"}
            | {name: _number(row.get(f"{metric}_mean"), 1 if name == "HD95" else 3) for name, metric in lesions.items()}
            | {name: str(row[column]) for name, column in _COUNTS.items()}
        )
    _print(title, volumes)
    heading = "Lesion-wise (BraTS-METS 2023; MIST), and how many targets were" if lesions else "How many targets were"
    _print(heading, counted)


def print_changes(changes: pd.DataFrame) -> None:
    """Print Dice before and after tuning, forgetting and gain.

    Args:
        changes: From :func:`metaseg.metrics.forgetting.change_metrics`.
    """
    rows = []
    for row in changes.to_dict(orient="records"):
        metric = "forgetting" if row["domain"] == "source" else "gain"
        rows.append(
            _head(row)
            | {name: _number(row[name], 3) for name in ("before", "after")}
            | {name: _number(row[name], 3, "+") if name == metric else "" for name in ("forgetting", "gain")}
            | {"95 % CI": _interval(row, metric, "+")}
        )
    _print("Dice before and after tuning", rows)


def _head(row: Mapping[str, Any]) -> dict[str, str]:
    """Cohort, target and number of cases; patients that the network was trained on are a group of their own."""
    cohort = f"{row['cohort']} (trained on)" if row.get("trained_on") else str(row["cohort"])
    return {"cohort": cohort, "target": str(row["target"]), "cases": str(row["n_cases"])}


def _print(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows whose first column is the cohort, which is named in its first row only."""
    names = list(rows[0])
    table = Table(names, title=title, numbers=names[2:])
    for before, row in zip(({}, *rows), rows, strict=False):
        new = row["cohort"] != before.get("cohort")
        if before and new:
            table.begin_section()
        table.add(row["cohort"] if new else "", *list(row.values())[1:])
    table.print()


def _number(value: float | None, digits: int, sign: str = "") -> str:
    return "-" if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"


def _spread(row: Mapping[str, Any], metric: str, digits: int, unit: str = "") -> str:
    mean, spread = (row.get(f"{metric}_{name}", math.nan) for name in ("mean", "sd"))
    if math.isnan(mean):
        return "-"
    return f"{mean:.{digits}f}{'' if math.isnan(spread) else f' ± {spread:.{digits}f}'} {unit}".rstrip()


def _interval(row: Mapping[str, Any], metric: str, sign: str = "") -> str:
    """The 95 % interval of several cases."""
    low, high = row.get(f"{metric}_low", math.nan), row.get(f"{metric}_high", math.nan)
    if row["n_cases"] <= 1 or math.isnan(low):
        return "-"
    return f"{_number(low, 3, sign)} .. {_number(high, 3, sign)}"
