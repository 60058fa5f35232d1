"""What a fit of a classifier is made of: network, optimiser, metrics; and a short fit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from metaseg.classify.slices import ClassifiedSlices, SliceBatches
from metaseg.classify.transfer import Transfer
from metaseg.config.classification import ClassifyActiveConfig, FitOptions
from metaseg.metrics.classification import classification_metrics
from metaseg.models import Classifier, ModelCard, build_classifier
from metaseg.models.classifiers import check_classifier
from metaseg.models.processes import distributed_map, several
from metaseg.models.weights import finite_output
from metaseg.runs.networks import NO_FILES, weights_file
from metaseg.terminal import Progress
from metaseg.training.augment import Augmentation
from metaseg.training.loop import LoopPlan, LoopState, Objective, fit
from metaseg.training.optimization import build_optimizer, learning_rate


def check_network(config: FitOptions, *, download: bool = False) -> None:
    """Find out whether the network of settings can be had: :func:`~metaseg.models.classifiers.check_classifier`."""
    check_classifier(
        config.model,
        weights_file(config.weights),
        head=config.head,
        head_options=config.head_options,
        model_options=config.model_options,
        download=download,
    )


def new_classifier(config: FitOptions, slices: ClassifiedSlices, seed: int) -> Classifier:
    """Build the network, with the weights that are asked for, and print what of them fitted."""
    weights = weights_file(config.weights)
    return build_classifier(
        config.model,
        len(slices.modalities),
        len(slices.classes),
        None if weights == "none" else weights,
        seed=seed,
        head=config.head,
        image_size=slices.input_size,
        head_options=config.head_options,
        model_options=config.model_options,
        on_weights=lambda report: print("\n".join(report.lines())),
    )


def classifier_card(config: FitOptions, model: Classifier, slices: ClassifiedSlices) -> ModelCard:
    """What the network is."""
    return ModelCard(
        name=model.name,
        in_channels=model.in_channels,
        num_classes=model.num_classes,
        modalities=slices.modalities,
        label_space="classes",
        options=model.options,
        normalisation={
            "method": "z-score of the foreground, per volume and modality; the head's box as a square",
            "input_size": slices.input_size,
        },
        trained_on=tuple(sorted({case.cohort for case in slices.store})),
        synthetic=slices.store.synthetic,
        parent=None if config.weights in NO_FILES else config.weights,
        task="classification",
        classes=slices.classes,
    )


@dataclass(frozen=True)
class Rates:
    """Learning rate of each step.

    Attributes:
        config: Rate, schedule, gamma and the epochs between its steps.
        total: Steps in all.
        steps_per_epoch: Steps of an epoch.
    """

    config: FitOptions
    total: int
    steps_per_epoch: int

    def __call__(self, step: int) -> float:
        """The rate of a step, from 0."""
        first = self.config.learning_rate
        if self.config.schedule == "exponential":
            return first * self.config.gamma ** (step // (self.config.gamma_every * self.steps_per_epoch))
        return learning_rate(step, self.total, first, self.config.schedule)


def classifier_optimizer(config: FitOptions, transfer: Transfer) -> Optimizer:
    """The optimiser over all layers, each group with its part of the rate; resting layers have no gradient."""
    groups = transfer.parameter_groups(config.head_factor, config.bias_factor)
    return build_optimizer(
        config.optimizer, groups, config.learning_rate, config.weight_decay, momentum=config.momentum, nesterov=False
    )


def classifier_objective(transfer: Transfer, extra: Callable[[], dict[str, Any]]) -> Objective:
    """Cross-entropy, with the blocks that rest held still. Of two classes it is the binary cross-entropy."""

    def objective(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        transfer.apply(extra())
        return F.cross_entropy(model(images), classes)

    return objective


BATCH = 32
METRICS = {"auc": "auc_macro", "accuracy": "accuracy", "balanced_accuracy": "balanced_accuracy", "f1": "f1_macro"}
"""Metrics that are watched, with their names in :func:`~metaseg.metrics.classification.classification_metrics`."""
NAMES = {"auc": "macro AUC", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1": "macro F1"}
"""The same in words. With two classes, the macro AUC is the AUC."""


@torch.inference_mode()
def slice_probabilities(
    model: nn.Module, slices: ClassifiedSlices, positions: Sequence[int] | np.ndarray | None = None
) -> np.ndarray:
    """Class probabilities, in evaluation mode and without augmentation.

    Args:
        model: The classifier; its mode is as before afterwards.
        slices: The slices.
        positions: Which of them; all by default.

    Returns:
        ``(slices, class)``, ``float64``, summing to 1.
    """
    chosen = np.arange(len(slices)) if positions is None else np.asarray(positions)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        parts = [
            softmax(model(slices.images(chosen[start : start + BATCH]).to(device)))
            for start in range(0, len(chosen), BATCH)
        ]
    finally:
        model.train(training)
    return np.concatenate(parts) if parts else np.empty((0, len(slices.classes)))


def softmax(logits: torch.Tensor) -> np.ndarray:
    """Probabilities ``(batch, class)`` in ``float64``: exact sums, and zeros that are zeros.

    Raises:
        TrainingError: A logit is not finite.
    """
    return torch.softmax(finite_output(logits, "a batch of slices").double(), dim=1).cpu().numpy()


def part_metrics(
    model: nn.Module, slices: ClassifiedSlices, part: str, fabric: Fabric | None = None
) -> dict[str, float]:
    """The watched metrics of a part, by slice: ``auc/val`` and so on; none for no slices.

    With the fabric of several processes the slices are shared out, in runs of a batch.
    """
    if not len(slices):
        return {}
    if fabric is None or not several(fabric):
        return watched(slice_probabilities(model, slices), slices, part)
    runs = [np.arange(start, min(start + BATCH, len(slices))) for start in range(0, len(slices), BATCH)]
    found = distributed_map(fabric, lambda run: slice_probabilities(model, slices, run), runs)
    return watched(np.concatenate(found), slices, part)


def watched(probabilities: np.ndarray, slices: ClassifiedSlices, part: str) -> dict[str, float]:
    """The watched metrics of probabilities ``(slices, class)``."""
    metrics = classification_metrics(probabilities, slices.labels, slices.classes)
    return {f"{name}/{part}": metrics[full] for name, full in METRICS.items()}


def watched_score(metrics: Mapping[str, float], monitor: str) -> float:
    """By what weights are the best: the watched metric of the validation part; a metric that is not known counts as 0.

    A few validation patients bring the AUC to 1 long before the classes are told apart: where it is equal, the mean of
    all watched metrics decides.
    """
    known = {name: value if math.isfinite(value) else 0.0 for name, value in metrics.items()}
    if not known:
        return 0.0
    return known.get(f"{monitor}/val", 0.0) + 1e-6 * sum(known.values()) / len(known)


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
    """Fine-tune a classifier on labelled slices: a short fit, which is repeated rather than continued.

    Args:
        model: Where it begins; changed in place.
        labelled: What it learns.
        val: To keep the best weights by, with ``config.keep`` at ``best``.
        config: Rates, epochs and so on.
        fabric: Device and precision.
        bar: Progress.
        first: Whether this is the first fit of its kind, with its own epochs and rates.
        seed: Of all draws.
        rate: Another learning rate, for members of a committee.

    Returns:
        ``model``.

    Raises:
        TrainingError: The loss became non-finite.
    """
    if not first:
        later = {name: getattr(config, f"later_{name}") for name in ("epochs", "learning_rate", "head_factor", "gamma")}
        config = replace(config, **{name: value for name, value in later.items() if value is not None})
    if rate is not None:
        config = replace(config, learning_rate=rate)
    transfer = Transfer(model, config.transfer)
    batches = SliceBatches(labelled, config.batch_size, config.balance, Augmentation(config.augment), seed)
    total = config.epochs * batches.steps_per_epoch
    keeps_best = config.keep == "best" and len(val) > 0
    plan = LoopPlan(
        total_steps=total,
        mark_every=batches.steps_per_epoch if keeps_best else total,
        rate=Rates(config, total, batches.steps_per_epoch),
        clip_norm=config.clip_norm,
        seed=seed,
    )
    extra: dict[str, Any] = {}
    keeper = _Keeper(val if keeps_best else None, config.monitor, bar)
    objective = classifier_objective(transfer, lambda: extra)
    fit(model, classifier_optimizer(config, transfer), fabric, plan, batches.draw, objective, keeper, LoopState(), None)
    if keeper.weights:
        model.load_state_dict(keeper.weights)
    return model
