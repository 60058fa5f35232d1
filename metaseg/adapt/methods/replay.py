"""Methods that draw from the source: replay, and rehearsal, which metaseg recommends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from metaseg.adapt.batches import BalancedSlices, BatchSource, augmented, source_shots, stack
from metaseg.adapt.methods.naive import Naive
from metaseg.adapt.methods.registry import Stage, register_method
from metaseg.adapt.setup import AdaptationSetup
from metaseg.config.segmentation import NaivetuneConfig
from metaseg.errors import UsageError
from metaseg.runs.logs import Selection
from metaseg.training.augment import transplant
from metaseg.training.loop import Batch
from metaseg.training.optimization import build_loss


@register_method(
    "replay",
    "plain",
    title="replay of source slices",
    paper="Rolnick et al. 2019, Experience Replay for Continual Learning",
    needs_source="always",
    cost="b for a batch of b slices, source slices among them",
)
class Replay(Naive):
    """Every batch holds as many slices as in naive fine-tuning, some of them of the source's training cases.

    Both parts are drawn class-balanced from tumour-bearing slices. With a fraction of 0 this is naive fine-tuning, to
    the bit.

    Args:
        config: The verb's settings.
        setup: Network, shots and source memory.
        fabric: Device and precision.

    Raises:
        UsageError: A batch has no room for slices of both.
    """

    def __init__(self, config: NaivetuneConfig, setup: AdaptationSetup, fabric: Fabric) -> None:
        super().__init__(config, setup, fabric)
        self.replayed = replayed_slices(config.batch_size, cast(float, config.replay_fraction))

    def batches(self, steps: int) -> BatchSource:
        """All batches of a training of so many steps.

        Raises:
            UsageError: None of the source cases bears tumour.
        """
        if not self.replayed:
            return super().batches(steps)
        config, setup = self.config, self.setup
        target = BalancedSlices.plan(setup, config.batch_size - self.replayed, steps, config.seed, config.augment)
        source = replace(setup, shots=source_shots(setup))
        # A stream of its own, lest source and target are drawn in step.
        other = int(np.random.default_rng([config.seed, 23]).integers(2**31))
        return MixedSlices(target, BalancedSlices.plan(source, self.replayed, steps, other, config.augment))


@dataclass(frozen=True)
class MixedSlices:
    """Batches of target slices, followed by source slices.

    Attributes:
        target: The target's part of every batch.
        source: The source's part; its shots are the source's cases.
    """

    target: BalancedSlices
    source: BalancedSlices

    def draw(self, step: int) -> Batch:
        """The batch of a step; all of its slices are augmented alike."""
        (images, labels), (more_images, more_labels) = self.target.slices(step), self.source.slices(step)
        mixed = stack([*images, *more_images], [*labels, *more_labels])
        return augmented(*mixed, self.target.augmentation, [self.target.seed, 22, step])

    def selections(self, step: int, spent: int) -> list[Selection]:
        """The slices of the batch of a step; those of the source are marked as such."""
        target = self.target.selections(step, spent)
        source = self.source.selections(step, spent)
        return [*target, *(replace(row, task="source", position=row.position + len(target)) for row in source)]


def replayed_slices(batch_size: int, fraction: float) -> int:
    """Source slices of a batch: the fraction of it, halves up; one at least unless it is 0, and never the whole batch.

    Raises:
        UsageError: A batch of one slice has no room for both domains.
    """
    if not fraction:
        return 0
    if batch_size < 2:
        raise UsageError(
            "a batch of one slice has no room for a slice of the source beside one of the target",
            expected="--batch-size of 2 or more, or --replay-fraction 0",
        )
    return min(max(int(np.floor(fraction * batch_size + 0.5)), 1), batch_size - 1)


@register_method(
    "rehearse",
    "plain",
    title="rehearsal with transplants (recommended)",
    paper="ours: replay (Rolnick et al. 2019), pasted lesions (TumorCP, Yang et al. 2021), averaged weights",
    needs_source="always",
    cost="b for a batch of b slices, source slices among them",
)
class Rehearse(Replay):
    """Replay with strong augmentation, transplanted lesions, a falling rate, averaged weights, and a loss per domain.

    A network that rehearses its source can tell the shots' few slices from all others, and learns them by heart instead
    of the disease: with plain replay target Dice falls as tuning goes on. Strong augmentation and target lesions in
    source slices (:mod:`metaseg.training.augment`) take that way out. The overlap term pools the pixels of what it
    is given, so domains in one term would make each other's small lesions weightless: each has a term of its own,
    weighted by its fraction of the batch, and the source's by ``replay_weight`` besides.
    """

    defaults = MappingProxyType(
        Replay.defaults
        | {"learning_rate": 2e-3, "schedule": "cosine", "augment": "full", "ema": 0.99, "interpolation": 0.75}
    )

    stages = (
        Stage("recall", ({"recall_weight": 0.7}, {"recall_weight": 0.5}, {"recall_weight": 0.85})),
        Stage(
            "source",
            (
                {"replay_fraction": 0.25, "replay_weight": 0.7},
                {"replay_fraction": 0.5, "replay_weight": 1.0},
                {"replay_fraction": 0.25, "replay_weight": 0.3},
            ),
        ),
        Stage("augmentation", ({"augment": "full"}, {"augment": "none"}), "normal"),
        Stage("rate", ({"learning_rate": 2e-3}, {"learning_rate": 5e-4}), "normal"),
    )

    def __init__(self, config: NaivetuneConfig, setup: AdaptationSetup, fabric: Fabric) -> None:
        super().__init__(config, setup, fabric)
        self.source_loss = build_loss(config.loss, setup.space, config.replay_recall_weight, fabric.device)

    def batches(self, steps: int) -> BatchSource:
        """All batches of a training of so many steps.

        Raises:
            UsageError: None of the source cases bears tumour.
        """
        config, mixed = self.config, super().batches(steps)
        if not self.replayed or not config.transplant_fraction:
            return mixed
        return TransplantedSlices(mixed, config.batch_size - self.replayed, config.transplant_fraction, config.seed)

    def objective(self, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        """Loss of the target's slices and of the source's, weighted by their numbers and ``replay_weight``."""
        if not self.replayed:
            return super().objective(model, images, classes)
        logits, own = model(images), len(images) - self.replayed
        target, source = self.loss(logits[:own], classes[:own]), self.source_loss(logits[own:], classes[own:])
        return (own * target + cast(float, self.config.replay_weight) * self.replayed * source) / len(images)


@dataclass(frozen=True)
class TransplantedSlices:
    """Batches in whose source slices lesions of the batch's target slices are pasted.

    Attributes:
        slices: Batches of target slices, followed by source slices.
        own: Target slices of a batch.
        fraction: Probability that a source slice receives a lesion.
        seed: Seed of all draws.
    """

    slices: BatchSource
    own: int
    fraction: float
    seed: int

    def draw(self, step: int) -> Batch:
        """The batch of a step."""
        images, labels = map(list, map(torch.unbind, self.slices.draw(step)))
        rng = np.random.default_rng([self.seed, 24, step])
        for position in range(self.own, len(images)):
            donor = int(rng.integers(self.own))
            if rng.random() < self.fraction:
                images[position], labels[position] = transplant(
                    images[position], labels[position], images[donor], labels[donor], rng
                )
        return torch.stack(images), torch.stack(labels)

    def selections(self, step: int, spent: int) -> list[Selection]:
        """The slices of the batch of a step."""
        return self.slices.selections(step, spent)
