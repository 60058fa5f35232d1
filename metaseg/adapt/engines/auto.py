"""The default engine: takes the quickest that gives the same gradients for the network and device at hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from metaseg.adapt.engines.base import Loss, NormStatistics, TaskBatch, register_engine
from metaseg.adapt.engines.batched import BatchedEngine, has_random_layers
from metaseg.adapt.engines.functional import FastWeights, FunctionalEngine, InnerLoop, TaskGradient


@dataclass(frozen=True)
class Choice:
    """An engine and why it was taken.

    Attributes:
        engine: Its name in the registry.
        reason: In a few words.
    """

    engine: str
    reason: str

    def __str__(self) -> str:
        return f"meta-step engine: {self.engine} ({self.reason})"


@register_engine("auto")
class AutoEngine(FunctionalEngine):
    """Meta-steps by ``batched``, or by ``functional`` where tasks cannot share the device.

    The choice rests on device and network, never on the load of the machine: a run that is resumed makes the same one.
    How many tasks the ``batched`` engine takes at a time, memory has a say in.

    Args:
        norm_statistics: As in :class:`~metaseg.adapt.engines.learn2learn.Learn2LearnEngine`.

    Attributes:
        choice: That of the last step; None before the first.

    Raises:
        UsageError: The choice of statistics is unknown.
    """

    def __init__(self, norm_statistics: NormStatistics = "running") -> None:
        super().__init__(norm_statistics)
        self.choice: Choice | None = None
        self._batched = BatchedEngine(norm_statistics)

    def task_gradients(
        self, weights: FastWeights, tasks: Sequence[TaskBatch], loss: Loss, inner: InnerLoop
    ) -> Iterator[TaskGradient]:
        """Gradients of all tasks, in an order that is the same in every run."""
        device = next(iter(weights.parameters.values())).device
        why_not = _why_not_batched(weights, device)
        if why_not:
            self.choice = Choice("functional", why_not)
            yield from super().task_gradients(weights, tasks, loss, inner)
            return
        yield from self._batched.task_gradients(weights, tasks, loss, inner)
        self.choice = Choice("batched", f"{device.type}: {self._batched.said}")


def _why_not_batched(weights: FastWeights, device: torch.device) -> str | None:
    if has_random_layers(weights.model):
        return "dropout is on, and its masks come in the order of the tasks"
    if device.type not in ("cpu", "cuda"):
        return f"tasks are not batched on {device.type}"
    return None
