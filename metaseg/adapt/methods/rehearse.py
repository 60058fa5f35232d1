"""Rehearsal: replay that keeps working while a few patients are seen over and over. metaseg's recommended method."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from metaseg.adapt.balanced_slices import BatchSource
from metaseg.adapt.methods.registry import register_method
from metaseg.adapt.methods.replay import Replay
from metaseg.runs.events import Selection
from metaseg.training.loop import Batch
from metaseg.training.transplant import transplant


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
    source slices (:mod:`metaseg.training.transplant`) take that way out. The overlap term pools the pixels of what it
    is given, so domains in one term would make each other's small lesions weightless: each has a term of its own,
    weighted by its share of the batch, and the source's by ``replay_weight`` besides.
    """

    defaults = MappingProxyType(
        Replay.defaults
        | {"learning_rate": 2e-3, "schedule": "cosine", "augment": "full", "ema": 0.99, "interpolation": 0.75}
    )

    def batches(self, steps: int) -> BatchSource:
        """All batches of a training of so many steps.

        Raises:
            UsageError: None of the source cases bears tumour.
        """
        config, mixed = self.config, super().batches(steps)
        if not self.replayed or not config.transplant_share:
            return mixed
        return TransplantedSlices(mixed, config.batch_size - self.replayed, config.transplant_share, config.seed)

    def objective(self, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        """Loss of the target's slices and of the source's, weighted by their numbers and ``replay_weight``."""
        if not self.replayed:
            return super().objective(model, images, classes)
        logits, own = model(images), len(images) - self.replayed
        target, source = self.loss(logits[:own], classes[:own]), self.loss(logits[own:], classes[own:])
        return (own * target + self.config.replay_weight * self.replayed * source) / len(images)


@dataclass(frozen=True)
class TransplantedSlices:
    """Batches in whose source slices lesions of the batch's target slices are pasted.

    Attributes:
        slices: Batches of target slices, followed by source slices.
        own: Target slices of a batch.
        share: Probability that a source slice receives a lesion.
        seed: Seed of all draws.
    """

    slices: BatchSource
    own: int
    share: float
    seed: int

    def draw(self, step: int) -> Batch:
        """The batch of a step."""
        images, labels = map(list, map(torch.unbind, self.slices.draw(step)))
        rng = np.random.default_rng([self.seed, 24, step])
        for position in range(self.own, len(images)):
            donor = int(rng.integers(self.own))
            if rng.random() < self.share:
                images[position], labels[position] = transplant(
                    images[position], labels[position], images[donor], labels[donor], rng
                )
        return torch.stack(images), torch.stack(labels)

    def selections(self, step: int, spent: int) -> list[Selection]:
        """The slices of the batch of a step."""
        return self.slices.selections(step, spent)
