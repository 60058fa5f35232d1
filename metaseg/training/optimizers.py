"""Optimisers by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


def build_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter] | list[dict[str, Any]],
    rate: float,
    weight_decay: float = 0.0,
    momentum: float = 0.99,
    nesterov: bool = True,
) -> Optimizer:
    """An optimiser over the parameters that are trained.

    Args:
        name: ``adamw``, ``adam`` or ``sgd``.
        parameters: Parameters, of which those without gradient are left out; or groups of them, which are taken whole.
        rate: Learning rate.
        weight_decay: Decoupled for ``adamw``, an L2 term otherwise.
        momentum: Of ``sgd``.
        nesterov: Nesterov's momentum, where there is any.

    Raises:
        ValueError: Unknown name.
    """
    trained: list[Any] = [one for one in parameters if isinstance(one, dict) or one.requires_grad]
    if name == "adamw":
        return torch.optim.AdamW(trained, lr=rate, weight_decay=weight_decay)
    if name == "adam":
        return torch.optim.Adam(trained, lr=rate, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(
            trained, lr=rate, momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=weight_decay
        )
    raise ValueError(f"unknown optimiser {name!r}")
