"""One short fit of a classifier inside a round of active learning: it is repeated rather than continued."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from metaseg.classify.batches import SliceBatches
from metaseg.classify.fitting import Rates, classifier_objective, classifier_optimizer
from metaseg.classify.measure import part_figures, watched_score
from metaseg.classify.slices import ClassifiedSlices
from metaseg.classify.transfer import Transfer
from metaseg.config_classify import ClassifyActiveConfig
from metaseg.models import Classifier
from metaseg.runs.progress import Progress
from metaseg.training.augment import Augmentation
from metaseg.training.loop import LoopPlan, LoopState, fit


@dataclass
class _Keeper:
    """Keeps the best weights by a figure on the validation part, if asked for."""

    val: ClassifiedSlices | None
    monitor: str
    bar: Progress
    best: float = -math.inf
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def on_step(self, step: int, values: dict[str, float]) -> None:
        self.bar.advance(1, loss=values["loss"])

    def on_mark(self, step: int, model: nn.Module) -> bool:
        if self.val is not None:
            score = watched_score(part_figures(model, self.val, "val"), self.monitor)
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
