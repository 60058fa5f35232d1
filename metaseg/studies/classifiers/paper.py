"""The figures that the papers report, beside those of the study that follows one of them (``configs/paper``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

NOTE = (
    "The paper's data, patients and parts are not ours: what can be compared is the order of the methods, not the "
    "height of their figures."
)


@dataclass(frozen=True)
class PaperRow:
    """One method of a paper.

    Attributes:
        name: As the paper calls it.
        entry: What it is called in ``configs/paper``.
        value: What the paper reports.
    """

    name: str
    entry: str
    value: str


@dataclass(frozen=True)
class Paper:
    """What a paper reports.

    Attributes:
        citation: Authors and year.
        figure: The column of our summary that stands beside it.
        what: What that is, in words.
        rows: Its methods.
    """

    citation: str
    figure: str
    what: str
    rows: Sequence[PaperRow]


PAPERS: Mapping[str, Paper] = {
    "zhou2017": Paper(
        "Zhou et al. 2017",
        "labels_saved",
        "labels saved against random choice",
        (PaperRow("AIFT, entropy and diversity of a quarter of the patches", "both-quarter", "at least half"),),
    ),
    "hao2021": Paper(
        "Hao et al. 2021",
        "auc",
        "AUC in %",
        (
            PaperRow("pretrained, all labels", "all", "79.91"),
            PaperRow("from scratch, all labels", "scratch", "71.93"),
            PaperRow("uncertainty sampling, 30 % of the slices", "committee", "82.89"),
        ),
    ),
    "hao2021-balanced": Paper(
        "Hao et al. 2021, balanced set",
        "auc",
        "AUC in %",
        (
            PaperRow("pretrained, all labels", "all", "78.48"),
            PaperRow("uncertainty sampling, 30 % of the slices", "committee", "82.00"),
        ),
    ),
    "lau2021": Paper("Lau 2021", "accuracy", "accuracy in %", (PaperRow("her own network", "lau-cnn", "about 90"),)),
    "aljanabi": Paper(
        "Al-Janabi",
        "accuracy",
        "accuracy in %",
        (
            PaperRow("Xception, frozen", "xception", "92.1"),
            PaperRow("Xception, fine-tuned", "xception-finetuned", "96"),
            PaperRow("Xception, fine-tuned block by block", "xception-gradual", "96"),
            PaperRow("VGG-16, frozen", "vgg16", "89.4"),
            PaperRow("VGG-16, fine-tuned", "vgg16-finetuned", "91.1"),
            PaperRow("VGG-16, fine-tuned block by block", "vgg16-gradual", "91.1"),
            PaperRow("2D-CNN, from scratch", "2d-cnn", "80.4"),
            PaperRow("MobileNetV2, frozen", "mobilenetv2", "79.2"),
            PaperRow("ResNet-50, frozen", "resnet50", "75.1"),
        ),
    ),
}
"""By the value of the setting ``paper``."""


def beside_paper(paper: Paper, summarised: pd.DataFrame) -> list[tuple[PaperRow, str, str]]:
    """Each row of a paper with our figure and its 95 % interval in percent; a dash where there is none.

    Args:
        paper: The paper.
        summarised: As from :func:`metaseg.studies.classifiers.tables.summary`.
    """
    ours = {} if summarised.empty else summarised.set_index("entry").to_dict("index")
    rows = []
    for row in paper.rows:
        found = ours.get(row.entry, {})
        value, low, high = (found.get(f"{paper.figure}{end}", math.nan) for end in ("", "_low", "_high"))
        between = "" if math.isnan(low) or math.isnan(high) else f"{percent(low)} to {percent(high)}"
        between = "not reached" if math.isinf(high) else between
        rows.append((row, percent(value), between))
    return rows


def percent(value: float) -> str:
    """A share in percent; a dash for NaN, ``not reached`` where a resample never got to the figure."""
    if math.isnan(value):
        return "–"
    return "not reached" if math.isinf(value) else f"{100 * value:.1f}".replace("-", "−")


def print_paper(name: str | None, summarised: pd.DataFrame) -> None:
    """Print the paper's figures beside ours; nothing without a paper or without figures."""
    if name is None or summarised.empty:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    paper = PAPERS[name]
    table = Table(title=f"beside {paper.citation}: {paper.what}", title_justify="left",
                  box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)  # fmt: skip
    table.add_column("method")
    table.add_column("paper", justify="right")
    table.add_column("ours (95 % interval)", justify="right")
    for row, value, between in beside_paper(paper, summarised):
        table.add_row(row.name, row.value, f"{value} ({between})" if between else value)
    console = Console()
    console.print(table)
    console.print(NOTE)
