"""The curve of active learning: metrics against labels, as table and picture.

The record of active learning: what each round chose, how it was labelled, and what the network was worth then.

One short fit of a classifier inside a round of active learning: it is repeated rather than continued.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import nn

from metaseg.classify.fitting import (
    METRICS,
    Rates,
    Transfer,
    classifier_objective,
    classifier_optimizer,
    part_metrics,
    watched_score,
)
from metaseg.classify.slices import ClassifiedSlices, SliceBatches
from metaseg.config.classification import ClassifyActiveConfig
from metaseg.files import FileKind, read_frame, read_json, write_json, write_text
from metaseg.metrics.curves import area_under_budget_curve
from metaseg.models import Classifier
from metaseg.pictures.charts import chart_file, draw_curves, draw_fractions
from metaseg.terminal import Progress
from metaseg.training.augment import Augmentation
from metaseg.training.loop import LoopPlan, LoopState, fit

FOLDER = "rounds"
ROUND_KIND = FileKind("a round of active learning", "start the run again with --overwrite")


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
    """

    number: int
    chosen: tuple[str, ...]
    scores: tuple[float | None, ...]
    labels: tuple[int, ...] = ()
    metrics: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    labelled: int = 0
    checkpoint: str = ""
    seconds: float = 0.0

    @property
    def done(self) -> bool:
        """Whether nothing of it is left to do."""
        return bool(self.checkpoint)


def round_file(run: Path, number: int) -> Path:
    """The file of a round."""
    return run / FOLDER / f"round-{number:03d}.json"


def write_round(run: Path, one: Round) -> None:
    """Write a round's file, replacing it at once."""
    path = round_file(run, one.number)
    path.parent.mkdir(exist_ok=True)
    write_json(path, asdict(one))


def read_rounds(run: Path) -> list[Round]:
    """All rounds of a run, in order.

    Raises:
        RunError: A file is damaged.
    """
    rounds: list[Round] = []
    while (path := round_file(run, len(rounds) + 1)).exists():
        rounds.append(read_json(path, ROUND_KIND, Round))
    return rounds


CURVE_NAME, PICTURE_NAME = "curve.csv", "curve.png"


def curve_table(rounds: Sequence[Round], classes: Sequence[str]) -> pd.DataFrame:
    """One row for each round and part: labels so far, metrics, and the shares of the classes in what was chosen."""
    rows = []
    for one in rounds:
        shares = {
            f"chosen_{name}": sum(label == number for label in one.labels) / max(len(one.labels), 1)
            for number, name in enumerate(classes)
        }
        for part, metrics in one.metrics.items():
            values = {name: math.nan if metrics.get(name) is None else metrics[name] for name in METRICS}
            rows.append({"round": one.number, "labels": one.labelled, "part": part, **values, **shares})
    columns = ["round", "labels", "part", *METRICS, *(f"chosen_{name}" for name in classes)]
    return pd.DataFrame(rows, columns=columns)


def read_curve(path: Path) -> pd.DataFrame:
    """The table that :func:`write_curve` wrote.

    Raises:
        RunError: The file is missing or damaged.
    """
    kind = FileKind("the curve of a run of active learning", "go on with the run with --resume")
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
    names = {"test": "test part", "pool": "rest of the pool", "val": "validation part"}
    curves = {
        names.get(str(part), str(part)): (rows["labels"].tolist(), rows[metric].tolist())
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
        above.set_ylabel("AUC" if metric == "auc" else metric.replace("_", " "))
        draw_fractions(below, ends - widths / 2, rounds[chosen].to_numpy(float), classes, sizes=widths)
        below.set(xlabel="labels", ylabel="fraction of what\nwas chosen")
        below.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


@dataclass
class _Keeper:
    """Keeps the best weights by a metric on the validation part, if asked for."""

    val: ClassifiedSlices | None
    monitor: str
    bar: Progress
    best: float = -math.inf
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def on_step(self, step: int, values: dict[str, float]) -> None:
        self.bar.advance(1, loss=values["loss"])

    def on_mark(self, step: int, model: nn.Module) -> bool:
        if self.val is not None:
            score = watched_score(part_metrics(model, self.val, "val"), self.monitor)
            if score > self.best:
                self.best = score
                self.weights = copy.deepcopy(model.state_dict())
        return True


def fit_round(
    model: Classifier,
    labelled: ClassifiedSlices,
    val: ClassifiedSlices,
    config: ClassifyActiveConfig,
    fabric: Fabric,
    bar: Progress,
    *,
    first: bool,
    seed: int,
    rate: float | None = None,
) -> Classifier:
    """Fine-tune a classifier on labelled slices.

    Args:
        model: Where it begins; changed in place.
        labelled: What it learns.
        val: To keep the best weights by, with ``config.keep`` at ``best``.
        config: Rates, epochs and so on.
        fabric: Device and precision.
        bar: Progress.
        first: Whether this is the first fit of its kind, with its own number of epochs and factor of the head.
        seed: Of all draws.
        rate: Another learning rate, for members of a committee.

    Returns:
        ``model``.

    Raises:
        TrainingError: The loss became non-finite.
    """
    transfer = Transfer(model, config.transfer)
    epochs = config.epochs if first or config.later_epochs is None else config.later_epochs
    factor = None if first else config.later_head_factor
    batches = SliceBatches(labelled, config.batch_size, config.balance, Augmentation(config.augment), seed)
    total = epochs * batches.steps_per_epoch
    keeps_best = config.keep == "best" and len(val) > 0
    plan = LoopPlan(
        total_steps=total,
        mark_every=batches.steps_per_epoch if keeps_best else total,
        rate=Rates(config, total, batches.steps_per_epoch, rate),
        clip_norm=config.clip_norm,
        seed=seed,
    )
    extra: dict[str, Any] = {}
    keeper = _Keeper(val if keeps_best else None, config.monitor, bar)
    optimizer = classifier_optimizer(config, transfer, factor, rate)
    objective = classifier_objective(transfer, lambda: extra)
    fit(model, optimizer, fabric, plan, batches.draw, objective, keeper, LoopState(), None)
    if keeper.weights:
        model.load_state_dict(keeper.weights)
    return model
