"""What each entry of a comparison chose, round after round: classes, and prediction patterns (Zhou et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from metaseg.classify.rounds import Round, read_rounds
from metaseg.pictures.charts import chart_file, wrapped
from metaseg.pictures.choices import draw_fractions_by_round, draw_pattern_histograms, name_positive_and_others
from metaseg.runs.folder import RunFolder
from metaseg.runs.manifest import read_manifest
from metaseg.sampling import PATTERNS, pattern_counts
from metaseg.studies.classifiers.plan import ClassifierWork
from metaseg.studies.tables import write_table
from metaseg.studies.workers import Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARE_COLUMNS = ("entry", "seed", "round", "labels", "class", "slices", "fraction", "pool_fraction")
PATTERN_COLUMNS = ("entry", "seed", "round", "candidates", "pattern", "slices", "fraction")
CANDIDATES = {"first": "first 10", "last": "last 10", "all": "all that were ranked"}
"""Which candidates of a round patterns are counted of."""
PANELS = 4
"""Panels side by side."""


@dataclass(frozen=True)
class ChoosingRun:
    """A finished run of active learning.

    Attributes:
        cell: Its cell.
        rounds: Its rounds.
        classes: Names of the classes.
        pool: Slices of each class in the pool that it chose from; empty for runs of earlier versions.
        synthetic: Whether its data are generated.
    """

    cell: Unit
    rounds: Sequence[Round]
    classes: tuple[str, ...]
    pool: Mapping[str, int]
    synthetic: bool


@dataclass(frozen=True)
class _Content:
    """What is needed of ``result.json``."""

    classes: list[str]
    pool: dict[str, int] | None = None


def choosing_runs(work: ClassifierWork, cells: Sequence[Unit]) -> list[ChoosingRun]:
    """The finished runs of active learning among some cells.

    Raises:
        RunError: A file is damaged.
    """
    found = []
    for cell in cells:
        run = work.folder / cell.folder
        if rounds := [record for record in read_rounds(run) if record.done]:
            content = RunFolder.open(run).read_json("result.json", _Content)
            synthetic = bool(read_manifest(run).get("synthetic"))
            found.append(ChoosingRun(cell, rounds, tuple(content.classes), content.pool or {}, synthetic))
    return found


def class_shares(runs: Sequence[ChoosingRun]) -> pd.DataFrame:
    """Classes of what each round chose, beside those of the whole pool: ``SHARE_COLUMNS``."""
    rows = []
    for run in runs:
        total = sum(run.pool.values())
        for record in run.rounds:
            for number, name in enumerate(run.classes):
                slices = record.labels.count(number)
                pool = run.pool.get(name, 0) / total if total else float("nan")
                begun = (run.cell.label, run.cell.seed, record.number, record.labelled, name, slices)
                rows.append((*begun, slices / max(len(record.labels), 1), pool))
    return pd.DataFrame(rows, columns=list(SHARE_COLUMNS))


def pattern_table(runs: Sequence[ChoosingRun]) -> pd.DataFrame:
    """Candidates of each round by prediction pattern, of strategies that look at patches: ``PATTERN_COLUMNS``."""
    rows = []
    for run in runs:
        for record in run.rounds:
            if record.patterns is None:
                continue
            ends = {"first": record.patterns.first, "last": record.patterns.last}
            counts = {name: pattern_counts(np.array([one.pattern for one in kept])) for name, kept in ends.items()}
            for candidates, found in (*counts.items(), ("all", record.patterns.counts)):
                begun = (run.cell.label, run.cell.seed, record.number, candidates)
                total = max(sum(found.values()), 1)
                rows += [(*begun, letter, found[letter], found[letter] / total) for letter in PATTERNS]
    return pd.DataFrame(rows, columns=list(PATTERN_COLUMNS))


def mean_fractions(table: pd.DataFrame, names: str, titles: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    """Mean over seeds of the fractions of each entry: title to a row for each round and a column for each name.

    Args:
        table: Rows of :func:`class_shares`, or of :func:`pattern_table` for one kind of candidates.
        names: ``class`` or ``pattern``.
        titles: Entry to title.
    """
    return {
        titles[str(entry)]: rows.pivot_table("fraction", "round", names, aggfunc="mean", sort=False).fillna(0.0)
        for entry, rows in table.groupby("entry", sort=False)
    }


def pool_fractions(shares: pd.DataFrame, titles: Mapping[str, str]) -> dict[str, pd.Series]:
    """Title to the fractions of the classes in the whole pool, mean over seeds, of the entries where they are known."""
    known = shares.dropna(subset=["pool_fraction"])
    return {
        titles[str(entry)]: rows.groupby("class", sort=False)["pool_fraction"].mean()
        for entry, rows in known.groupby("entry", sort=False)
    }


@dataclass(frozen=True)
class PanelChart:
    """A chart of several panels, for a file or for the report.

    Attributes:
        name: Of its file.
        title: Above it.
        caption: What it shows.
        size: Width and height in inches.
        grid: Rows and columns of its axes.
        draw: Draws on all axes, row by row.
    """

    name: str
    title: str
    caption: str
    size: tuple[float, float]
    grid: tuple[int, int]
    draw: Callable[[Sequence[Axes]], None]


def selection_charts(runs: Sequence[ChoosingRun], titles: Mapping[str, str], wanted: int) -> list[PanelChart]:
    """The charts of what was chosen: classes by round, patterns by round, and the candidates of one round.

    Args:
        runs: As from :func:`choosing_runs`.
        titles: Entry to title.
        wanted: The round whose candidates are drawn.
    """
    shares, patterns, drawn = class_shares(runs), pattern_table(runs), histogram_round(runs, wanted)
    charts = []
    if len(shares):
        entries = shares["entry"].nunique()
        columns = min(entries, PANELS)
        rows = -(-entries // columns)
        charts.append(
            PanelChart(
                "class_shares",
                "Classes of what was chosen, by round",
                "Classes of what each round chose, mean over seeds; the last bar is the whole pool.",
                (0.8 + 2.5 * columns, 0.8 + 1.9 * rows),
                (rows, columns),
                partial(_draw_class_shares, shares=shares, titles=titles),
            )
        )
    if len(patterns):
        width = patterns["entry"].nunique()
        charts += [
            PanelChart(
                "patterns",
                "Prediction patterns by round",
                "Prediction patterns of the candidates of each round, mean over seeds.",
                (1.2 + 1.8 * width, 6.4),
                (len(CANDIDATES), width),
                partial(_draw_patterns, table=patterns, titles=titles),
            ),
            PanelChart(
                "pattern_histograms",
                "Candidates and their prediction patterns",
                "What the network predicted of the patches of the first and the last candidates of a ranking: for each "
                "a histogram from 0 to 1, and the letter of its pattern.",
                (1.2 + 1.5 * width, 9.0),
                (2, width),
                partial(_draw_round, drawn=drawn, titles=titles),
            ),
        ]
    return charts


def write_selection(runs: Sequence[ChoosingRun], folder: Path, titles: Mapping[str, str], wanted: int) -> None:
    """Write tables and charts of what was chosen; nothing without active learning.

    Args:
        runs: As from :func:`choosing_runs`.
        folder: The study folder.
        titles: Entry to title.
        wanted: The round whose candidates are drawn.
    """
    for name, table in (("class_shares", class_shares(runs)), ("patterns", pattern_table(runs))):
        if len(table):
            write_table(table, folder / name)
    write_charts(selection_charts(runs, titles, wanted), folder, any(run.synthetic for run in runs))


def write_charts(charts: Sequence[PanelChart], folder: Path, synthetic: bool) -> None:
    """Write charts as ``NAME.png`` into a study folder.

    Args:
        charts: The charts.
        folder: The folder.
        synthetic: Whether the data are generated; the pictures then say so.
    """
    for chart in charts:
        rows, columns = chart.grid
        path = folder / f"{chart.name}.png"
        with chart_file(path, *chart.size, chart.title, synthetic, rows=rows, columns=columns, sharey="row") as axes:
            chart.draw(axes)


def histogram_round(runs: Sequence[ChoosingRun], wanted: int) -> dict[str, tuple[ChoosingRun, Round]]:
    """The round whose candidates are drawn, by entry: of its first seed the one wanted, or the last before it."""
    found: dict[str, tuple[ChoosingRun, Round]] = {}
    for run in sorted(runs, key=lambda run: run.cell.seed):
        with_patterns = [record for record in run.rounds if record.patterns is not None and record.number <= wanted]
        if with_patterns:
            found.setdefault(run.cell.label, (run, with_patterns[-1]))
    return found


def _draw_class_shares(axes: Sequence[Axes], shares: pd.DataFrame, titles: Mapping[str, str]) -> None:
    """As in Zhou et al. 2017, Fig. 9."""
    draw_fractions_by_round(axes, mean_fractions(shares, "class", titles), pool_fractions(shares, titles))


def _draw_patterns(axes: Sequence[Axes], table: pd.DataFrame, titles: Mapping[str, str]) -> None:
    """For each kind of candidates a row of panels, one for each entry."""
    width = table["entry"].nunique()
    for place, (candidates, text) in enumerate(CANDIDATES.items()):
        row = axes[place * width : (place + 1) * width]
        panels = mean_fractions(table[table["candidates"] == candidates], "pattern", titles)
        named = {
            title: rows.rename(columns=lambda letter: f"{letter} {PATTERNS[letter]}") for title, rows in panels.items()
        }
        draw_fractions_by_round(row, named, headings=not place, legend=not place)
        row[0].set_ylabel(text)


def _draw_round(
    axes: Sequence[Axes], drawn: Mapping[str, tuple[ChoosingRun, Round]], titles: Mapping[str, str]
) -> None:
    """As in Zhou et al. 2017, Fig. 10: those first in the ranking, and below them the last."""
    for column, (label, (run, record)) in enumerate(drawn.items()):
        assert record.patterns is not None
        for row, (kept, text) in enumerate(((record.patterns.first, "first"), (record.patterns.last, "last"))):
            axis = axes[row * len(drawn) + column]
            draw_pattern_histograms(
                axis, [one.probabilities for one in kept], [one.pattern for one in kept], [one.label for one in kept]
            )
            axis.set_ylabel(f"{text} {len(kept)} of the ranking" if not column else "")
            if not row:
                axis.set_title(wrapped(f"{titles[label]}, round {record.number}, seed {run.cell.seed}", 20), fontsize=9)
    name_positive_and_others(axes[0], next(iter(drawn.values()))[0].classes)
