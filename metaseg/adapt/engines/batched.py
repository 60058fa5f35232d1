"""The quick engine: several tasks at a time, on a GPU in one launch, on a CPU in threads.

A pass of one slice leaves a machine idle: a GPU waits for launches, and the cores of a CPU for each other at the end of
every operation. Tasks do not depend on each other, so that they can share the machine instead:

* On a GPU, tasks of equal shapes are recorded once and replayed side by side (:mod:`.recorded`). What cannot be
  recorded is computed by one pass over stacked parameters (:class:`StackedWeights`).
* On a CPU, each task is computed by a thread of its own, on a replica of the network that shares the tensors
  (:func:`replicate`). The intra-op threads are divided among the tasks.

Gradients are added up in the order of the tasks. On a CPU they have the same bits as those of the functional engine
with as many intra-op threads as a task has here: with as many tasks as threads, or more, that is one, whatever the
number of threads.
"""

from __future__ import annotations

import copy
import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from metaseg.adapt.engines.base import (
    ENGINES,
    Autocast,
    InnerLoop,
    NormStatistics,
    TaskBatch,
    checked_scalar,
)
from metaseg.adapt.engines.functional import (
    FastWeights,
    FunctionalEngine,
    TaskGradient,
    Values,
    task_gradient,
)
from metaseg.adapt.engines.recorded import Recordings
from metaseg.cases import file_checks
from metaseg.threads import ordered_map
from metaseg.training.optimization import Loss

Shapes = tuple[torch.Size, ...]


@ENGINES.register("auto")
@ENGINES.register("batched")
class BatchedEngine(FunctionalEngine):
    """The default: meta-steps of several tasks at a time; gradients equal those of the other engines.

    What cannot share the machine is computed task by task: a network with dropout in train mode (whose masks would come
    in any order), one whose modules cannot be copied, and, where a GPU cannot record, tasks of other shapes than their
    neighbours and a network whose buffers a forward pass changes, or that :func:`torch.func.vmap` cannot map.

    Args:
        norm_statistics: As in :class:`~metaseg.adapt.engines.learn2learn.Learn2LearnEngine`.
        together: Compute tasks by one pass over stacked parameters, not by threads; by default on a GPU.
        threads: Threads on a CPU; by default torch's intra-op threads.
        record: Whether a GPU may record and replay.

    Attributes:
        said: How the last step was computed, in a few words.

    Raises:
        UsageError: The choice of statistics is unknown.
    """

    def __init__(
        self,
        norm_statistics: NormStatistics = "running",
        together: bool | None = None,
        threads: int | None = None,
        record: bool = True,
    ) -> None:
        super().__init__(norm_statistics)
        self.together, self.threads = together, threads
        self._recordings = Recordings(norm_statistics) if record else None
        self.said = ""
        self._limit, self._hindrance = 1, ""
        self._kept: dict[tuple[Shapes, bool], int] = {}
        # To set the number of threads takes MKL's freedom to use fewer. Done before anything is computed, so that no
        # value depends on whether a step, which sets the number and sets it back, came before it.
        torch.set_num_threads(torch.get_num_threads())

    def task_gradients(
        self, weights: FastWeights, tasks: Sequence[TaskBatch], loss: Loss, inner: InnerLoop
    ) -> Iterator[TaskGradient]:
        """Gradients of all tasks, in an order that is the same in every run."""
        device = next(iter(weights.parameters.values())).device
        together = device.type == "cuda" if self.together is None else self.together
        if has_random_layers(weights.model):
            self.said = "task by task: dropout is on"
            return super().task_gradients(weights, tasks, loss, inner)
        if together:
            return self._on_gpu(weights, tasks, loss, inner)
        if device.type == "cpu":
            return self._in_threads(weights, tasks, loss, inner)
        self.said = f"task by task: on {device.type}"
        return super().task_gradients(weights, tasks, loss, inner)

    def _most(self, weights: FastWeights, tasks: Sequence[TaskBatch], loss: Loss, inner: InnerLoop, wanted: int) -> int:
        """How many tasks at a time, no more than wanted, memory has room for."""
        if wanted == 1:
            return 1
        largest = max(tasks, key=lambda task: max(task.support_images.numel(), task.query_images.numel()))
        key = (shapes_of(largest), torch.is_autocast_enabled(largest.support_images.device.type))
        if key not in self._kept:
            self._kept[key] = kept_bytes(weights, largest, loss, self.norm_statistics)
        fit = tasks_that_fit(free_memory(largest.support_images.device), self._kept[key], inner.first_order)
        return wanted if fit is None else min(wanted, fit)

    def _in_threads(
        self, weights: FastWeights, tasks: Sequence[TaskBatch], loss: Loss, inner: InnerLoop
    ) -> Iterator[TaskGradient]:
        threads = self.threads or torch.get_num_threads()
        # Of tasks and threads alone, so that the bits of a gradient do not depend on free memory.
        side_by_side = min(len(tasks), threads)
        intra_op = threads // side_by_side
        with intra_op_threads(intra_op):
            count = self._most(weights, tasks, loss, inner, side_by_side)
            replicas = self._replicas(weights, count)
            if len(replicas) == 1:
                if count == side_by_side == 1:
                    self.said = f"task by task: {threads} threads, {counted(len(tasks))}"
                elif count == 1:
                    self.said = "task by task: memory is short"
                yield from super().task_gradients(weights, tasks, loss, inner)
                return
            self.said = f"{count} tasks at a time, {intra_op} threads each"
            autocast = Autocast.current("cpu")
            idle: queue.SimpleQueue[FastWeights] = queue.SimpleQueue()
            for replica in replicas:
                idle.put(replica)

            def compute(position: int) -> TaskGradient:
                own = idle.get()
                try:
                    with autocast.uncached():
                        return task_gradient(own, tasks[position], loss, inner, self.norm_statistics, (position,))
                finally:
                    idle.put(own)

            own_threads = partial(torch.set_num_threads, intra_op)
            yield from ordered_map(compute, range(len(tasks)), count, initializer=own_threads)

    def _replicas(self, weights: FastWeights, count: int) -> list[FastWeights]:
        """The network and replicas of it."""
        try:
            return [weights, *(FastWeights(replicate(weights.model)) for _ in range(count - 1))]
        except Exception as error:
            # Anything may be among the attributes of a network.
            self.said = f"task by task: the network cannot be copied, {error}"
            return [weights]

    def _on_gpu(
        self, weights: FastWeights, tasks: Sequence[TaskBatch], loss: Loss, inner: InnerLoop
    ) -> Iterator[TaskGradient]:
        ways: dict[str, int] = {}
        self._hindrance = "no two tasks are of equal shapes"
        for left in equal_shapes(tasks):
            self._limit = self._most(weights, [tasks[left[0]]], loss, inner, len(left))
            while left:
                batch = left[: self._limit]
                way, found = "replayed", self._recorded(weights.model, tasks, batch, loss, inner)
                if found is None and len(batch) > 1:
                    way, found = "in one pass", self._in_one_pass(weights.model, tasks, batch, loss, inner)
                elif found is None:
                    way = "task by task"
                    found = task_gradient(weights, tasks[batch[0]], loss, inner, self.norm_statistics, (batch[0],))
                if found is not None:
                    yield found
                    ways[way] = max(len(batch), ways.get(way, 0))
                    left = left[len(batch) :]
        self.said = self._say(ways)

    def _say(self, ways: dict[str, int]) -> str:
        """In which ways the groups of a step were computed; the largest group of each is given."""
        if ways.keys() == {"task by task"}:
            return f"task by task: {self._hindrance}"
        named = [way if way == "task by task" else f"{counted(most)} {way}" for way, most in ways.items()]
        hindrance = self._recordings.hindrance if self._recordings else ""
        return ", ".join(named) + (f"; not recorded: {hindrance}" if hindrance else "")

    def _recorded(
        self, model: nn.Module, tasks: Sequence[TaskBatch], positions: list[int], loss: Loss, inner: InnerLoop
    ) -> TaskGradient | None:
        """Gradients of these tasks by a recording; None if there is none."""
        batch = [tasks[position] for position in positions]
        if self._recordings is None or batch[0].support_images.device.type != "cuda":
            return None
        try:
            return self._recordings.task_gradient(model, batch, tuple(positions), loss, inner)
        except torch.OutOfMemoryError:
            # The first time, pass by pass; the stacked pass finds out how many tasks do fit.
            return None

    def _in_one_pass(
        self, model: nn.Module, tasks: Sequence[TaskBatch], positions: list[int], loss: Loss, inner: InnerLoop
    ) -> TaskGradient | None:
        """Gradient of these tasks; None, with the limit lowered, if too many or the network cannot be mapped."""
        try:
            batch = stack_tasks([tasks[position] for position in positions])
            weights = StackedWeights(model, len(positions))
            return task_gradient(weights, batch, loss, inner, self.norm_statistics, tuple(positions))
        except torch.OutOfMemoryError:
            self._limit, self._hindrance = len(positions) // 2, "memory is short"
        except RuntimeError as error:
            # Of what the caller made wrong, the pass of a single task gives the same error again.
            self._limit, self._hindrance = 1, f"the network cannot be mapped over tasks, {str(error).splitlines()[0]}"
        # Outside of the handlers, which hold on to the tensors of the pass.
        torch.cuda.empty_cache()
        return None


def counted(tasks: int) -> str:
    """A number of tasks, in words."""
    return "1 task" if tasks == 1 else f"{tasks} tasks"


def shapes_of(task: TaskBatch) -> Shapes:
    """Shapes of its four tensors."""
    return tuple(tensor.shape for tensor in task.tensors)


def equal_shapes(tasks: Sequence[TaskBatch]) -> list[list[int]]:
    """Positions of the tasks, those of equal shapes together, in the order in which the shapes appear."""
    groups: dict[Shapes, list[int]] = {}
    for position, task in enumerate(tasks):
        groups.setdefault(shapes_of(task), []).append(position)
    return list(groups.values())


def has_random_layers(model: nn.Module) -> bool:
    """Whether a layer of the network draws at random as it stands: dropout in train mode."""
    return any(
        module.training and module.p > 0
        for module in model.modules()
        if isinstance(module, nn.modules.dropout._DropoutNd)
    )


@contextmanager
def intra_op_threads(count: int) -> Iterator[None]:
    """So many intra-op threads in this thread, and in those that begin meanwhile; then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    own = {parameter.untyped_storage().data_ptr() for parameter in weights.model.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    values = {name: value.requires_grad_() for name, value in weights.values().items()}
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
    return file_checks.free_memory() if device.type == "cpu" else None


_TABLES = ("_parameters", "_buffers", "_modules")
_CONSTANTS = (bool, int, float, str, type(None), Tensor)


def replicate(model: nn.Module) -> nn.Module:
    """A network of new modules with the same parameters and buffers.

    Modules that are held twice, in attributes or lists too, are one module in the replica as well. Hooks that are
    methods of a module become methods of its replica.

    Args:
        model: The network.

    Raises:
        Exception: Whatever :func:`copy.deepcopy` raises of an attribute that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        memo[id(tensor)] = tensor
    modules = list(model.modules())
    for module in modules:
        memo[id(module)] = module.__new__(type(module))
    for module in modules:
        memo[id(module)].__dict__.update({name: _copied(name, value, memo) for name, value in module.__dict__.items()})
    replica: nn.Module = memo[id(model)]
    return replica


def _copied(name: str, value: Any, memo: dict[int, Any]) -> Any:
    if name in _TABLES:
        # Direct: deepcopy takes ten times as long, and this is done once a step and thread.
        return type(value)(
            (key, held if isinstance(held, Tensor) else memo.get(id(held))) for key, held in value.items()
        )
    if isinstance(value, _CONSTANTS):
        return value
    if isinstance(value, dict) and not value:
        return copy.copy(value)
    return copy.deepcopy(value, memo)


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
        return {name: value.expand(self.tasks, *value.shape) for name, value in super().values().items()}

    def over_tasks(self, values: Values) -> Values:
        """Their sum over the tasks."""
        return {name: value.sum(dim=0) for name, value in values.items()}

    def loss_at(self, values: Values, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        """Losses ``(tasks,)`` of images ``(tasks, batch, modality, height, width)``."""
        # A cast that is kept would outlive the mapped tensor that it was made from.
        autocast = Autocast.current(images.device.type)

        def loss_of_task(values: Values, images: Tensor, labels: Tensor) -> Tensor:
            with self.placed(values), autocast.uncached():
                return checked_scalar(loss(self.model(images), labels))

        losses: Tensor = vmap(loss_of_task, randomness="error")(values, images, labels)
        return losses


def stack_tasks(tasks: list[TaskBatch]) -> TaskBatch:
    """Data of tasks of equal shapes with a leading axis for the task."""
    return TaskBatch(*(torch.stack(values) for values in zip(*(task.tensors for task in tasks), strict=True)))


def forget_running_statistics(model: nn.Module) -> None:
    """Take running statistics out of the normalisation layers: in train mode they then have nothing to write to."""
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            for name in module._buffers.keys() & {"running_mean", "running_var", "num_batches_tracked"}:
                module._buffers[name] = None
