"""Optimisers by name."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer


def build_optimizer(
    name: str, parameters: Iterable[nn.Parameter], rate: float, weight_decay: float = 0.0, momentum: float = 0.99
) -> Optimizer:
    """An optimiser over the parameters that are trained.

    Args:
        name: ``adamw``, ``adam`` or ``sgd`` (with Nesterov momentum unless ``momentum`` is 0).
        parameters: Parameters; those without gradient are left out.
        rate: Learning rate.
        weight_decay: Decoupled for ``adamw``, an L2 term otherwise.
        momentum: Of ``sgd``.

    Raises:
        ValueError: Unknown name.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if name == "adamw":
        return torch.optim.AdamW(trained, lr=rate, weight_decay=weight_decay)
    if name == "adam":
        return torch.optim.Adam(trained, lr=rate, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(trained, lr=rate, momentum=momentum, nesterov=momentum > 0, weight_decay=weight_decay)
    raise ValueError(f"unknown optimiser {name!r}")
