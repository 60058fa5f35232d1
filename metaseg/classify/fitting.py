"""What a fit of a classifier is made of: network, optimiser, rate, objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from metaseg.classify.slices import ClassifiedSlices
from metaseg.classify.transfer import Transfer
from metaseg.config_classify import FitOptions
from metaseg.errors import RunError
from metaseg.models import Classifier, ModelCard, build_classifier
from metaseg.models.checkpoint import checkpoint_files
from metaseg.runs.folder import is_run
from metaseg.training.loop import Objective
from metaseg.training.optimizers import build_optimizer
from metaseg.training.schedule import learning_rate

NO_FILES = ("none", "imagenet")
"""Words for weights that are no files."""


def weights_file(weights: str) -> str:
    """The file of weights that a user names: a run stands for its best checkpoint.

    Raises:
        RunError: The run has no checkpoint.
    """
    path = Path(weights).expanduser()
    if weights in NO_FILES or not path.is_dir():
        return weights
    for name in ("best", "last"):
        file = checkpoint_files(path / "checkpoints" / name)[0]
        if is_run(path) and file.exists():
            return str(file)
    raise RunError(
        "the folder named as weights holds no checkpoint",
        where=path,
        expected="a run of 'metaseg classify train'",
        remedy="name such a run, a weights file, imagenet or none",
    )


def new_classifier(config: FitOptions, slices: ClassifiedSlices, seed: int, *, say: bool = True) -> Classifier:
    """Build the network, with the weights that are asked for."""
    weights = weights_file(config.weights)
    return build_classifier(
        config.model,
        len(slices.modalities),
        len(slices.classes),
        None if weights == "none" else weights,
        seed=seed,
        head=config.head,
        image_size=slices.input_size,
        on_weights=(lambda report: print("\n".join(report.lines()))) if say else (lambda report: None),
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
        parent=None if config.weights in ("none", "imagenet") else config.weights,
        task="classification",
        classes=slices.classes,
    )


@dataclass(frozen=True)
class Rates:
    """Learning rate of each step.

    Attributes:
        config: Rate, schedule and gamma.
        total: Steps in all.
        steps_per_epoch: Steps of an epoch.
        rate: Another first rate, or None.
    """

    config: FitOptions
    total: int
    steps_per_epoch: int
    rate: float | None = None

    def __call__(self, step: int) -> float:
        """The rate of a step, from 0."""
        first = self.config.learning_rate if self.rate is None else self.rate
        if self.config.schedule == "exponential":
            return first * self.config.gamma ** (step // self.steps_per_epoch)
        return learning_rate(step, self.total, first, self.config.schedule)


def classifier_optimizer(
    config: FitOptions, transfer: Transfer, head_factor: float | None = None, rate: float | None = None
) -> Optimizer:
    """The optimiser over all layers, each group with its share of the rate; resting layers have no gradient."""
    groups: list[dict[str, Any]] = transfer.parameter_groups(
        config.head_factor if head_factor is None else head_factor, config.bias_factor
    )
    first = config.learning_rate if rate is None else rate
    return build_optimizer(
        config.optimizer, groups, first, config.weight_decay, momentum=config.momentum, nesterov=False
    )


def classifier_objective(transfer: Transfer, extra: Callable[[], dict[str, Any]]) -> Objective:
    """Cross-entropy, with the blocks that rest held still. Of two classes it is the binary cross-entropy."""

    def objective(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        transfer.apply(extra())
        return F.cross_entropy(model(images), classes)

    return objective
