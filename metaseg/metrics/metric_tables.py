"""Metrics as tables in the terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

WIDTH_ELSEWHERE = 120
"""Columns where the output is no terminal, such as a log file."""


def print_metrics(summary: pd.DataFrame, title: str) -> None:
    """Print a table of Dice and HD95, and one of lesion-wise metrics and counts, each a row per cohort and target.

    Args:
        summary: From :func:`metaseg.metrics.cohort_metrics.summarise_cohorts`, with 95 % intervals.
        title: Heading.
    """
    surface = "hd95_mean" in summary and summary["hd95_mean"].notna().any()
    lesions = "lesionwise_dice_mean" in summary
    volumes = _Rows(title, ("cases", "Dice", "95 % CI", *(("HD95",) if surface else ())))
    heading = "Lesion-wise (BraTS-METS 2023; MIST), and how many targets were" if lesions else "How many targets were"
    named = ("Dice", "HD95", "F1", "MIST F1") if lesions else ()
    counted = _Rows(heading, (*named, "valid", "missed", "false", "empty"))
    for row in summary.to_dict(orient="records"):
        several = row["n_cases"] > 1
        interval = _interval(row.get("dice_low"), row.get("dice_high")) if several else "-"
        distance = _spread(row, "hd95", 1, {"pixel": "px"}.get(row["unit"], row["unit"]))
        volumes.add(row, str(row["n_cases"]), _spread(row, "dice", 3), interval, *((distance,) if surface else ()))
        metrics = [("lesionwise_dice", 3), ("lesionwise_hd95", 1), ("lesionwise_f1", 3), ("mist_f1", 3)]
        counted.add(
            row,
            *(_number(row.get(f"{name}_mean"), digits) for name, digits in (metrics if lesions else ())),
            *(str(row[f"n_{name}"]) for name in ("valid", "missed", "false", "empty_both")),
        )
    volumes.print()
    counted.print()


def print_changes(changes: pd.DataFrame) -> None:
    """Print Dice before and after tuning, forgetting and gain.

    Args:
        changes: From :func:`metaseg.metrics.forgetting.change_metrics`.
    """
    table = _Rows("Dice before and after tuning", ("cases", "before", "after", "forgetting", "gain", "95 % CI"))
    for row in changes.to_dict(orient="records"):
        metric = "forgetting" if row["domain"] == "source" else "gain"
        table.add(
            row,
            str(row["n_cases"]),
            _number(row["before"], 3),
            _number(row["after"], 3),
            *(_number(row[name], 3, sign=True) if name == metric else "" for name in ("forgetting", "gain")),
            _interval(row[f"{metric}_low"], row[f"{metric}_high"], sign=True) if row["n_cases"] > 1 else "-",
        )
    table.print()


def cohort_name(row: dict[str, Any]) -> str:
    """A cohort's name; patients that the network was trained on are a group of their own and marked."""
    return f"{row['cohort']} (trained on)" if row.get("trained_on") else str(row["cohort"])


class _Rows:
    """A table whose rows are cohorts and targets; a cohort is named in its first row only."""

    def __init__(self, title: str, metrics: Sequence[str]) -> None:
        self.table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        for name in ("cohort", "target"):
            self.table.add_column(name)
        for name in metrics:
            self.table.add_column(name, justify="right", no_wrap=True)
        self.last: str | None = None

    def add(self, row: dict[str, Any], *cells: str) -> None:
        """Add a row; a new cohort begins after a gap."""
        cohort = cohort_name(row)
        if self.last not in (None, cohort):
            self.table.add_section()
        self.table.add_row(cohort if cohort != self.last else "", str(row["target"]), *cells)
        self.last = cohort

    def print(self) -> None:
        """Print it on standard output, as it is now: it may have been redirected since the start."""
        Console(width=None if sys.stdout.isatty() else WIDTH_ELSEWHERE).print(self.table)


def _number(value: float | None, digits: int, sign: bool = False) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:{'+' if sign else ''}.{digits}f}"


def _spread(row: dict[str, Any], metric: str, digits: int, unit: str = "") -> str:
    mean, spread = (row.get(f"{metric}_{name}", math.nan) for name in ("mean", "sd"))
    if math.isnan(mean):
        return "-"
    return f"{mean:.{digits}f}{'' if math.isnan(spread) else f' ± {spread:.{digits}f}'} {unit}".rstrip()


def _interval(low: float | None, high: float | None, sign: bool = False) -> str:
    if low is None or high is None or math.isnan(low):
        return "-"
    return f"{_number(low, 3, sign)} .. {_number(high, 3, sign)}"
