"""Parameter values of several tasks at once, one beside the other: a GPU then works on all tasks in one launch.

The forward pass is mapped over the tasks (:func:`torch.func.vmap`), the backward pass is autograd's own through what
came out of it. Since the loss of a task depends on its own values alone, the gradient of the summed losses holds that
of every task.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import vmap

from metaseg.adapt.engines.base import Loss, TaskBatch
from metaseg.adapt.engines.fast_weights import FastWeights, Values, checked_scalar
from metaseg.adapt.engines.isolation import NormStatistics
from metaseg.adapt.engines.thread_state import Autocast


class StackedWeights(FastWeights):
    """As :class:`FastWeights`, with a leading axis for the tasks in every value, batch and loss.

    Args:
        model: The network.
        tasks: Their number.
    """

    def __init__(self, model: nn.Module, tasks: int) -> None:
        super().__init__(model)
        self.tasks = tasks

    @contextmanager
    def task(self, statistics: NormStatistics) -> Iterator[None]:
        """Buffers of their own, shared by the tasks: a network that writes to them is refused by torch."""
        with super().task(statistics):
            if statistics == "batch":
                forget_running_statistics(self.model)
            yield

    def values(self) -> Values:
        """θ for every task; no memory is taken."""
        return {name: one.detach().expand(self.tasks, *one.shape) for name, one in self.parameters.items()}

    def over_tasks(self, values: Values) -> Values:
        """Their sum over the tasks."""
        return {name: value.sum(dim=0) for name, value in values.items()}

    def loss_at(self, values: Values, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        """Losses ``(tasks,)`` of images ``(tasks, batch, modality, height, width)``."""
        # A cast that is kept would outlive the mapped tensor that it was made from.
        autocast = Autocast.current(images.device.type)

        def one(values: Values, images: Tensor, labels: Tensor) -> Tensor:
            with self.placed(values), autocast.uncached():
                return checked_scalar(loss(self.model(images), labels))

        losses: Tensor = vmap(one, randomness="error")(values, images, labels)
        return losses


def stack_tasks(tasks: list[TaskBatch]) -> TaskBatch:
    """Data of tasks of equal shapes with a leading axis for the task."""
    return TaskBatch(*(torch.stack(values) for values in zip(*(task.tensors for task in tasks), strict=True)))


def forget_running_statistics(model: nn.Module) -> None:
    """Take running statistics out of the normalisation layers: in train mode they then have nothing to write to."""
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                if name in module._buffers:
                    module._buffers[name] = None
