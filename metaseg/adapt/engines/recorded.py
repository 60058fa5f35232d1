"""Meta-steps recorded once as a CUDA graph and replayed: a GPU then never waits for the launch of an operation.

A pass of one slice is some hundred operations that a GPU ends sooner than Python can launch the next. A recording is
launched as a whole, and since it knows what depends on what, its tasks run side by side. It reads the network's
parameters where they lie, so that steps of the optimiser are seen; data are copied to where it reads them.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metaseg.adapt.engines.base import Autocast, InnerLoop, NormStatistics, TaskBatch
from metaseg.adapt.engines.functional import FastWeights, TaskGradient, task_gradient
from metaseg.training.optimization import Loss

STREAMS = 8
"""How many tasks run side by side at most; more of them find no idle part of a GPU."""


@dataclass(frozen=True, eq=False)
class _Recording:
    """A graph with the tensors that it reads and writes, and the loss, whose tensors it reads too."""

    graph: torch.cuda.CUDAGraph
    data: list[TaskBatch]
    found: TaskGradient
    loss: Loss

    def replay(self, tasks: Sequence[TaskBatch], positions: tuple[int, ...]) -> TaskGradient:
        """Gradients of these tasks. The tensors of the gradient are overwritten by the next replay of any recording."""
        for mine, task in zip(self.data, tasks, strict=True):
            for place, values in zip(mine.tensors, task.tensors, strict=True):
                place.copy_(values)
        self.graph.replay()
        # The losses are read later than the gradient.
        support, query = self.found.support_losses.clone(), self.found.query_losses.clone()
        return TaskGradient(positions, support, query, self.found.gradient, {})


class Recordings:
    """Recordings by the shapes of their tasks, for one network where it lies now.

    What comes for the first time is computed pass by pass, which also makes the libraries choose their kernels; the
    second time it is recorded. Inner rates that are tensors change from step to step and are not recorded.

    Args:
        statistics: Of normalisation layers.
        most: Recordings that are kept. Each takes a second to make and some MiB for its gradient; what the passes need
            in between is shared.

    Attributes:
        hindrance: Why the last attempt to record this network failed; empty if none did.
    """

    def __init__(self, statistics: NormStatistics = "running", most: int = 32) -> None:
        self.statistics, self.most = statistics, most
        self.hindrance = ""
        self._recordings: dict[Hashable, _Recording | None] = {}
        self._seen: set[Hashable] = set()
        self._network: Hashable = None
        self._model: weakref.ref[nn.Module] | None = None
        self._pool: Any = None

    def task_gradient(
        self, model: nn.Module, tasks: Sequence[TaskBatch], positions: tuple[int, ...], loss: Loss, inner: InnerLoop
    ) -> TaskGradient | None:
        """Gradients of tasks together, summed; None where they cannot be recorded, or not any more.

        Args:
            model: The network, on a GPU.
            tasks: Their data, there too.
            positions: Of the tasks among those of the step.
            loss: Mean over the slices of a batch, as a scalar.
            inner: How each is adapted.

        Returns:
            The gradient; use it before the next call, which overwrites it.
        """
        how = constant_part(inner)
        if how is None:
            return None
        with torch.cuda.device(tasks[0].support_images.device):
            return self._gradient(model, tasks, positions, loss, inner, how)

    def _gradient(
        self,
        model: nn.Module,
        tasks: Sequence[TaskBatch],
        positions: tuple[int, ...],
        loss: Loss,
        inner: InnerLoop,
        how: Hashable,
    ) -> TaskGradient | None:
        self._know(model)
        autocast = Autocast.current("cuda")
        shapes = tuple((tensor.shape, tensor.dtype) for task in tasks for tensor in task.tensors)
        key = (how, autocast, id(loss), shapes)
        if key not in self._recordings:
            if len(self._recordings) >= self.most:
                return None
            if key not in self._seen:
                self._seen.add(key)
                return gradient_of(model, tasks, positions, loss, inner, self.statistics, 1)
            self._recordings[key] = self._record(model, tasks, loss, inner, autocast)
        recording = self._recordings[key]
        return None if recording is None else recording.replay(tasks, positions)

    def _know(self, model: nn.Module) -> None:
        """Forget everything if it was recorded of another network, or elsewhere in memory."""
        network = layout_of(model)
        if network != self._network or self._model is None or self._model() is not model:
            self._recordings.clear()
            self._seen.clear()
            self.hindrance = ""
            self._network, self._model, self._pool = network, weakref.ref(model), torch.cuda.graph_pool_handle()

    def _record(
        self, model: nn.Module, tasks: Sequence[TaskBatch], loss: Loss, inner: InnerLoop, autocast: Autocast
    ) -> _Recording | None:
        data = [TaskBatch(*(tensor.clone() for tensor in task.tensors)) for task in tasks]
        graph = torch.cuda.CUDAGraph()
        positions = tuple(range(len(tasks)))
        try:
            # A cast that is kept would be read again after its memory is gone. One pool of memory for all recordings:
            # they never run at once, and what one leaves is used up before the next runs.
            with autocast.uncached(), torch.cuda.graph(graph, pool=self._pool):
                found = gradient_of(model, data, positions, loss, inner, self.statistics, min(STREAMS, len(tasks)))
        except RuntimeError as error:
            # Too little memory, or a network that looks at its numbers while it computes.
            self.hindrance = str(error).splitlines()[0]
            return None
        return _Recording(graph, data, found, loss)


def gradient_of(
    model: nn.Module,
    tasks: Sequence[TaskBatch],
    positions: tuple[int, ...],
    loss: Loss,
    inner: InnerLoop,
    statistics: NormStatistics,
    streams: int,
) -> TaskGradient:
    """Gradients of tasks, each computed by itself, summed in their order.

    Args:
        model: The network, on a GPU.
        tasks: Their data.
        positions: Of the tasks among those of the step.
        loss: Mean over the slices of a batch, as a scalar.
        inner: How each is adapted.
        statistics: Of normalisation layers.
        streams: Tasks that run side by side; more than one only while a graph is recorded, which alone keeps memory
            from being given to another stream too early.
    """
    weights, here = FastWeights(model), torch.cuda.current_stream()
    lanes = [torch.cuda.Stream() for _ in range(streams)] if streams > 1 else [here]
    found = []
    for lane in lanes:
        lane.wait_stream(here)
    for number, task in enumerate(tasks):
        with torch.cuda.stream(lanes[number % len(lanes)]):
            found.append(task_gradient(weights, task, loss, inner, statistics, (number,)))
    for lane in lanes:
        here.wait_stream(lane)
    return TaskGradient(
        positions,
        torch.cat([each.support_losses for each in found]),
        torch.cat([each.query_losses for each in found]),
        {name: torch.stack([each.gradient[name] for each in found]).sum(dim=0) for name in found[0].gradient},
        {},
    )


def constant_part(inner: InnerLoop) -> Hashable | None:
    """What an inner loop does, if numbers alone say it; None if rates are tensors."""
    rates = [tuple(table.items()) for table in inner.tables]
    if any(isinstance(rate, Tensor) for table in rates for _, rate in table):
        return None
    weights = None if inner.query_weights is None else tuple(inner.query_weights)
    return inner.steps, inner.first_order, weights, tuple(rates)


def layout_of(model: nn.Module) -> Hashable:
    """Where a network's tensors lie, which are trained, and the mode of its modules."""
    tensors = [(tensor.data_ptr(), tensor.requires_grad) for tensor in (*model.parameters(), *model.buffers())]
    return tuple(tensors), tuple(module.training for module in model.modules())
