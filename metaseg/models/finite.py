"""Numbers that are not finite, found in weights and outputs before anything is made of them.

A network with one NaN predicts an empty mask, and its figures look like those of a poor one. So weights are looked at
whenever they are saved or loaded, and what a network gives whenever it is used.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metaseg.errors import TrainingError


def non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that holds NaN or infinity; None if there is none."""
    floating = {name: tensor.detach() for name, tensor in tensors.items() if tensor.is_floating_point()}
    # Sums tell of all tensors of a device at once. Only where one is not finite, which may be its own overflow, is each
    # tensor looked at.
    sums: dict[torch.device, list[Tensor]] = {}
    for tensor in floating.values():
        sums.setdefault(tensor.device, []).append(tensor.sum().float())
    if all(bool(torch.isfinite(torch.stack(some)).all()) for some in sums.values()):
        return None
    return next((name for name, tensor in floating.items() if not bool(torch.isfinite(tensor).all())), None)


def finite_output(output: Tensor, of: str) -> Tensor:
    """What a network gives, unchanged.

    Args:
        output: Logits or embeddings.
        of: What it is given for, such as ``"case P1"``, for the message.

    Raises:
        TrainingError: A value is not finite.
    """
    if non_finite({"output": output}) is not None:
        raise TrainingError(
            f"the network gives numbers that are not finite for {of}",
            expected="finite numbers; its weights are so large that they overflow",
            remedy="use an earlier checkpoint or train again with a lower learning rate; with --precision 16-mixed, "
            "try 32-true",
        )
    return output
