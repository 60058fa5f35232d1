"""Rehearsal: replay that keeps working while a few patients are seen over and over. metaseg's recommended method."""

from __future__ import annotations

from types import MappingProxyType

from torch import Tensor, nn

from metaseg.adapt.methods.registry import register_method
from metaseg.adapt.methods.replay import Replay


@register_method(
    "rehearse",
    "plain",
    title="augmented replay (recommended)",
    paper="ours: replay (Rolnick et al. 2019), augmentation, cosine rate (Loshchilov and Hutter 2017)",
    needs_source="always",
    cost="b for a batch of b slices, source slices among them",
)
class Rehearse(Replay):
    """Replay with strong augmentation, a falling rate, and a loss for each domain.

    A network that rehearses its source can tell the shots' few slices from all others, and learns them by heart instead
    of the disease: with plain replay target Dice falls as tuning goes on. Strong augmentation takes that way out. The
    overlap term pools the pixels of what it is given, so domains in one term would make each other's small lesions
    weightless: each has a term of its own, weighted by its share of the batch.
    """

    defaults = MappingProxyType(Replay.defaults | {"learning_rate": 1e-3, "schedule": "cosine", "augment": "full"})

    def objective(self, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        """Loss of the target's slices and of the source's, weighted by their numbers and ``replay_weight``."""
        if not self.replayed:
            return super().objective(model, images, classes)
        logits, own = model(images), len(images) - self.replayed
        target, source = self.loss(logits[:own], classes[:own]), self.loss(logits[own:], classes[own:])
        return (own * target + self.config.replay_weight * self.replayed * source) / len(images)
