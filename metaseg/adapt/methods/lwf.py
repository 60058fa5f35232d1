"""LwF: learning without forgetting (Li and Hoiem 2016)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from metaseg.adapt.methods.naive import Naive
from metaseg.adapt.methods.registry import register_method


@register_method(
    "lwf",
    "plain",
    title="LwF: distillation from the pretrained network",
    paper="Li and Hoiem 2016, Learning without Forgetting",
    cost="b for a batch of b slices (the old network's forward pass needs no gradient, and such are never counted)",
)
class Lwf(Naive):
    """Adds ``lambda`` times the :func:`distillation` of the pretrained network on the target's batch to the loss.

    The old network is a frozen copy in evaluation mode. With a lambda of 0 this is naive fine-tuning, to the bit.
    """

    def prepare(self, model: nn.Module) -> int:
        """Keep a copy of the pretrained network; costs nothing."""
        self.old = copy.deepcopy(model).eval().requires_grad_(False)
        return 0

    def objective(self, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        """The loss and the distillation."""
        if not self.config.lwf_lambda:
            return super().objective(model, images, classes)
        logits = model(images)
        with torch.no_grad(), self.fabric.autocast():
            old = self.old(images)
        kept = distillation(logits.float(), old.float(), self.config.lwf_temperature)
        return self.loss(logits, classes) + self.config.lwf_lambda * kept


def distillation(new: Tensor, old: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(old || new)`` of class probabilities that a temperature softens; the mean over all pixels.

    The paper's cross-entropy differs from this by the old network's entropy, which is constant. ``T^2`` keeps the
    gradient's size when the temperature is changed (Hinton et al. 2015).

    Args:
        new: Logits ``(batch, class, height, width)`` of the network that learns.
        old: Logits of the old one.
        temperature: Divides the logits, > 0.

    Returns:
        A scalar >= 0, in nats.
    """
    log_new, log_old = (torch.log_softmax(logits / temperature, dim=1) for logits in (new, old))
    return temperature**2 * (log_old.exp() * (log_old - log_new)).sum(dim=1).mean()
