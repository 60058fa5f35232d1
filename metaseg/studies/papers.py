"""What the papers report, beside our metrics of the methods that have their settings."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from metaseg.files import FileKind, check_shape, read_yaml
from metaseg.studies.tables import intervals_text
from metaseg.terminal import print_table

NOTE = (
    "The paper's data, patients and parts are not ours: what can be compared is the order of the methods, not the "
    "height of their metrics."
)
SYNTHETIC = "The data are SYNTHETIC: the table shows what stands beside what, and its metrics mean nothing."
WORDS = {
    "auc": "AUC",
    "val_auc": "AUC, validation",
    "auc_step": "difference of AUC",
    "val_auc_step": "difference of AUC, validation",
    "accuracy": "accuracy",
    "f1": "macro F1",
    "precision_positive": "precision, positive class",
    "recall_positive": "recall, positive class",
    "f1_positive": "F1, positive class",
    "specificity": "recall, negative class",
    "target_after": "Dice, target",
    "source_before": "Dice, source",
}
"""Metrics in words, where their names are none."""


@dataclass(frozen=True)
class PaperRow:
    """One result of a paper.

    Attributes:
        name: The method as the paper calls it.
        entry: What it is called in ``configs/paper``.
        metric: The column of a study's summary that stands beside it.
        value: What the paper reports.
        unit: How ours is written: a fraction in ``%``, as a ``fraction``, or a number of ``labels``.
        over_seeds: Whether the paper's interval, and so ours, is over runs alone.
    """

    name: str
    entry: str
    metric: str
    value: str
    unit: Literal["%", "fraction", "labels"] = "%"
    over_seeds: bool = False

    @property
    def what(self) -> str:
        """The metric in words, with its unit where it is in percent."""
        return WORDS.get(self.metric, self.metric.replace("_", " ")) + (" in %" if self.unit == "%" else "")


@dataclass(frozen=True)
class Paper:
    """What a paper reports.

    Attributes:
        citation: Authors and year.
        rows: Its results.
    """

    citation: str
    rows: Sequence[PaperRow]


@dataclass(frozen=True)
class Beside:
    """A result of a paper and ours.

    Attributes:
        row: The paper's.
        ours: Our metric, ± its standard deviation over patients where the summary has one; a dash where there is none.
        interval: Its 95 % interval; empty where there is none.
    """

    row: PaperRow
    ours: str
    interval: str


@cache
def papers() -> Mapping[str, Paper]:
    """What the papers report, by the value of the setting ``paper``."""
    path = Path(__file__).with_name("papers.yaml")
    kind = FileKind("the metrics of papers, as metaseg is delivered with them")
    found: dict[str, Paper] = check_shape(read_yaml(path, kind), dict[str, Paper], partial(kind.refuse, path=path))
    return found


def beside_paper(paper: Paper, summarised: pd.DataFrame, named: str = "entry") -> list[Beside]:
    """The rows of a paper with our metrics.

    Args:
        paper: The paper.
        summarised: A study's summary, each entry once.
        named: The column that names the entries.
    """
    ours = {} if summarised.empty else summarised.set_index(named).to_dict("index")
    return [_beside(row, ours.get(row.entry, {})) for row in paper.rows]


def _beside(row: PaperRow, found: Mapping[Hashable, Any]) -> Beside:
    over = "_seeds" if row.over_seeds else ""
    value, low, high, spread = (
        float(found.get(f"{row.metric}{end}", math.nan)) for end in ("", f"_low{over}", f"_high{over}", "_sd")
    )
    between = "" if math.isnan(low) or math.isnan(high) else f"{_written(low, row)} to {_written(high, row)}"
    between += " over seeds" if between and (row.over_seeds or row.metric.startswith("labels_")) else ""
    shown = _written(value, row) + ("" if math.isnan(spread) else f" ± {_written(spread, row)}")
    return Beside(row, shown, "not reached" if math.isinf(high) else between)


def _written(value: float, row: PaperRow) -> str:
    """A number in its unit; a dash for NaN, ``not reached`` where a resample never got to the metric."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "not reached"
    text = {"%": f"{100 * value:.1f}", "fraction": f"{value:.2f}", "labels": f"{value:.0f}"}[row.unit]
    return text.replace("-", "−")


def print_paper(name: str, summarised: pd.DataFrame, synthetic: bool, *, named: str = "entry", of: str = "") -> None:
    """Print a paper's results beside ours.

    Args:
        name: The paper.
        summarised: As for :func:`beside_paper`.
        synthetic: Whether any of the data were phantoms.
        named: The column that names the entries.
        of: What the metrics are of, for the title.
    """
    paper = papers()[name]
    rows = [
        [
            beside.row.name,
            beside.row.what,
            beside.row.value,
            f"{beside.ours} ({beside.interval})" if beside.interval else beside.ours,
        ]
        for beside in beside_paper(paper, summarised, named)
    ]
    over = f" ({intervals_text(summarised)})" if len(summarised) else ""
    ours = f"ours{', SYNTHETIC' if synthetic else ''}{over}"
    print_table(f"beside {paper.citation}{of and f': {of}'}", ["method", "metric", "paper", ours], rows)
    print(SYNTHETIC if synthetic else NOTE)
