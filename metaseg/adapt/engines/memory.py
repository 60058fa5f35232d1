"""How many tasks fit into memory at once."""

from __future__ import annotations

import torch
from torch import Tensor

from metaseg.adapt.engines.base import Loss, TaskBatch
from metaseg.adapt.engines.fast_weights import FastWeights
from metaseg.adapt.engines.isolation import NormStatistics
from metaseg.cases import limits

FIRST_ORDER, SECOND_ORDER = 2.0, 4.0
"""Memory of a task, in that which a forward pass keeps for its backward pass: in second order the support pass with its
gradient stays while the query slices are passed. Rounded up from peaks of U-Nets."""

SHARE = 0.8
"""Of the free memory."""


def tasks_that_fit(free: int | None, kept: int, first_order: bool) -> int | None:
    """Number of tasks, 1 at least; None if the free memory is not known.

    Args:
        free: Free memory, in bytes.
        kept: What a forward pass of one task keeps, in bytes.
        first_order: Whether the second derivative is left out.
    """
    if free is None:
        return None
    return max(1, int(SHARE * free / max(1.0, kept * (FIRST_ORDER if first_order else SECOND_ORDER))))


def kept_bytes(weights: FastWeights, task: TaskBatch, loss: Loss, statistics: NormStatistics) -> int:
    """What the larger of a task's two forward passes keeps for its backward pass, without the parameters, in bytes.

    It is measured by such a pass.
    """
    batches = [(task.support_images, task.support_labels), (task.query_images, task.query_labels)]
    images, labels = max(batches, key=lambda batch: batch[0].numel())
    own = {one.untyped_storage().data_ptr() for one in weights.model.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    values = {name: one.requires_grad_() for name, one in weights.values().items()}
    with (
        weights.task(statistics),
        torch.enable_grad(),
        weights.placed(values),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        loss(weights.model(images), labels)
    return sum(found.values())


def free_memory(device: torch.device) -> int | None:
    """Memory of a device that is free to take, in bytes; None where the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch holds and does not use can be taken as well.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return limits.free_memory() if device.type == "cpu" else None
