"""The record of active learning: what each round chose and what the network was worth then, and the curve of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from metaseg.classify.fitting import METRICS, NAMES
from metaseg.files import FileKind, read_frame, read_json, write_json, write_text
from metaseg.metrics.curves import area_under_budget_curve
from metaseg.pictures.charts import chart_file, draw_curves, draw_fractions
from metaseg.sampling import pattern_counts, prediction_patterns
from metaseg.sampling.scores import majority_probabilities

FOLDER, CURVE_NAME, PICTURE_NAME = "rounds", "curve.csv", "curve.png"
PARTS = {"test": "test part", "pool": "rest of the pool", "val": "validation part"}
"""Parts on which a round is measured, in words."""
KEPT = 10
"""Candidates at either end of a ranking whose patches' predictions are kept, as many as the paper's Fig. 10 shows."""
ROUND_KIND = FileKind("a round of active learning", "start the run again with --overwrite")


@dataclass(frozen=True)
class PatchPredictions:
    """What a network predicted of one candidate's patches.

    Attributes:
        name: Name of the slice.
        pattern: A letter of :data:`~metaseg.sampling.PATTERNS`.
        label: Its class; None where an annotator is asked, who may never be asked about this one.
        probabilities: Of each patch, as :func:`~metaseg.sampling.scores.majority_probabilities` gives them.
    """

    name: str
    pattern: str
    label: int | None
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class RoundPatterns:
    """Prediction patterns of the candidates that a round ranked (Zhou et al. 2017, Sec. 4.4).

    Attributes:
        counts: Candidates by pattern, all that were ranked.
        first: The first :data:`KEPT` of the ranking, whether chosen or not.
        last: The last :data:`KEPT`, the least wanted at the end.
    """

    counts: Mapping[str, int]
    first: tuple[PatchPredictions, ...]
    last: tuple[PatchPredictions, ...]


@dataclass(frozen=True)
class Round:
    """One round; written when the choice is made, again when it is labelled, and again when it is measured.

    Attributes:
        number: From 1.
        chosen: Names of the slices that were chosen, the first choice first.
        scores: What each was ranked by; None where there is no score.
        labels: Class of each, once they are known.
        metrics: Metrics after the fit, by part: ``{"test": {"auc": 0.81, ...}, ...}``; empty until then.
        labelled: Distinct slices labelled after this round.
        checkpoint: Name of the weights after the fit.
        seconds: Time that the round took.
        patterns: Prediction patterns; None of a choice that looked at no patches.
    """

    number: int
    chosen: tuple[str, ...]
    scores: tuple[float | None, ...]
    labels: tuple[int, ...] = ()
    metrics: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    labelled: int = 0
    checkpoint: str = ""
    seconds: float = 0.0
    patterns: RoundPatterns | None = None

    @property
    def done(self) -> bool:
        """Whether nothing of it is left to do."""
        return bool(self.checkpoint)


def round_patterns(
    patches: np.ndarray, ranking: np.ndarray, names: Sequence[str], labels: Sequence[int] | None
) -> RoundPatterns:
    """Tell the patterns of a round's candidates apart, and keep the predictions of those at the ends of the ranking.

    Args:
        patches: Class probabilities of their patches, ``(candidates, patches, class)``.
        ranking: Places of the candidates, the first choice first.
        names: Their names.
        labels: Their classes; None where they are not known.
    """
    letters, predictions = prediction_patterns(patches), majority_probabilities(patches).round(6)

    def kept(places: np.ndarray) -> tuple[PatchPredictions, ...]:
        return tuple(
            PatchPredictions(
                names[place],
                str(letters[place]),
                None if labels is None else labels[place],
                tuple(predictions[place].tolist()),
            )
            for place in places
        )

    return RoundPatterns(pattern_counts(letters), kept(ranking[:KEPT]), kept(ranking[-KEPT:]))


def round_file(run: Path, number: int) -> Path:
    """The file of a round."""
    return run / FOLDER / f"round-{number:03d}.json"


def write_round(run: Path, record: Round) -> None:
    """Write a round's file, replacing it at once."""
    write_json(round_file(run, record.number), asdict(record))


def read_rounds(run: Path) -> list[Round]:
    """All rounds of a run, in order.

    Raises:
        RunError: A file is damaged.
    """
    rounds: list[Round] = []
    while (path := round_file(run, len(rounds) + 1)).exists():
        rounds.append(read_json(path, ROUND_KIND, Round))
    return rounds


def curve_table(rounds: Sequence[Round], classes: Sequence[str]) -> pd.DataFrame:
    """One row for each round and part: labels so far, metrics, and the fractions of the classes in what was chosen."""
    rows = []
    for record in rounds:
        fractions = {
            f"chosen_{name}": record.labels.count(number) / max(len(record.labels), 1)
            for number, name in enumerate(classes)
        }
        for part, metrics in record.metrics.items():
            values = {name: math.nan if metrics.get(name) is None else metrics[name] for name in METRICS}
            rows.append({"round": record.number, "labels": record.labelled, "part": part, **values, **fractions})
    columns = ["round", "labels", "part", *METRICS, *(f"chosen_{name}" for name in classes)]
    return pd.DataFrame(rows, columns=columns)


def read_curve(path: Path) -> pd.DataFrame:
    """The table that :func:`write_curve` wrote.

    Raises:
        RunError: The file is missing or damaged.
    """
    kind = FileKind("the curve of a run of active learning", "continue the run with --resume")
    return read_frame(path, kind, ("part",), ("round", "labels"), tuple(METRICS))


def budget_areas(table: pd.DataFrame, part: str) -> dict[str, float]:
    """Area under the budget curve of each metric on a part; NaN with fewer than two rounds."""
    rows = table[table["part"] == part].sort_values("labels").drop_duplicates("labels", keep="last")
    known = {name: rows[["labels", name]].dropna() for name in METRICS}
    return {
        name: area_under_budget_curve(points["labels"], points[name]) if len(points) > 1 else math.nan
        for name, points in known.items()
    }


def write_curve(folder: Path, table: pd.DataFrame, metric: str, title: str, synthetic: bool) -> None:
    """Write ``curve.csv`` and ``curve.png``: a metric against labels on each part, and what was chosen below."""
    write_text(folder / CURVE_NAME, table.to_csv(index=False, lineterminator="\n"))
    curves = {
        PARTS.get(str(part), str(part)): (rows["labels"].tolist(), rows[metric].tolist())
        for part, rows in table.groupby("part", sort=False)
    }
    rounds = table.drop_duplicates("round")
    chosen = [name for name in rounds if name.startswith("chosen_")]
    classes = [name.removeprefix("chosen_") for name in chosen]
    # A bar for each round, from the labels before it to those after.
    ends = rounds["labels"].to_numpy(float)
    widths = np.maximum(np.diff(ends, prepend=0.0), 1.0)
    grid = {"rows": 2, "sharex": True, "height_ratios": (2, 1)}
    with chart_file(folder / PICTURE_NAME, 8.0, 5.6, title, synthetic, **grid) as (above, below):
        draw_curves(above, curves)
        above.set_ylabel(NAMES[metric])
        draw_fractions(below, ends - widths / 2, rounds[chosen].to_numpy(float), classes, sizes=widths)
        below.set(xlabel="labels", ylabel="fraction of what\nwas chosen")
