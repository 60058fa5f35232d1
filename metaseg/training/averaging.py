"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class AveragedModel:
    """A copy of a network whose weights follow the original's with a delay.

    The decay grows from 0 to its value over the first steps, ``min(decay, (1 + n) / (10 + n))``, so that the random
    initialisation is soon forgotten.

    Args:
        model: The network that is trained.
        decay: Share of the old average that is kept at each step, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average toward ``model``; buffers are copied."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages: list[Tensor] = [average.data for average in self.model.parameters()]
        values: list[Tensor] = [value.detach() for value in model.parameters()]
        torch._foreach_lerp_(averages, values, 1 - decay)
        for average, value in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(value)
