"""L2-SP: weight decay toward the pretrained weights (Li, Grandvalet and Davoine 2018, arXiv 1802.01483)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metaseg.adapt.methods.naive import Naive
from metaseg.adapt.methods.registry import register_method
from metaseg.models.parts import head_modules


@register_method(
    "l2-sp",
    "plain",
    title="L2-SP: decay toward the pretrained weights",
    paper="Li, Grandvalet and Davoine 2018, Explicit Inductive Bias for Transfer Learning with Convolutional Networks",
)
class L2Sp(Naive):
    """Adds ``alpha / 2 ||w - w0||^2`` over the body and ``beta / 2 ||w_head||^2`` over the head to the loss.

    The head is that of :func:`~metaseg.models.parts.head_modules`; in the paper it is drawn anew for other classes,
    here it is pretrained for the same ones and decays toward zero nevertheless, as the paper's formula has it. Gains
    and offsets of normalisation are parameters like all others. With both weights at 0 this is naive fine-tuning, to
    the bit.
    """

    def prepare(self, model: nn.Module) -> int:
        """Keep the pretrained weights of the body; costs nothing.

        Raises:
            UsageError: The parts of such a network are not known.
        """
        head = {id(parameter) for module in head_modules(model) for parameter in module.parameters()}
        self.head = [parameter for parameter in model.parameters() if id(parameter) in head]
        self.body = [parameter for parameter in model.parameters() if id(parameter) not in head]
        self.start = [parameter.detach().clone() for parameter in self.body]
        return 0

    def objective(self, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        """The loss and both penalties; one whose weight is 0 is not computed."""
        value = super().objective(model, images, classes)
        if self.config.l2_sp_alpha:
            away = [(now - start).square().sum() for now, start in zip(self.body, self.start, strict=True)]
            value = value + self.config.l2_sp_alpha / 2 * torch.stack(away).sum()
        if self.config.l2_sp_beta:
            value = value + self.config.l2_sp_beta / 2 * torch.stack([now.square().sum() for now in self.head]).sum()
        return value
