"""The meta-step engine: one inner and outer update of MAML behind one small interface (Finn et al. 2017).

Engines differ in how they differentiate, never in what: for the same model, tasks and loss all give the same outer
gradient. Order, pairing, optimiser and schedule are not theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from metaseg.errors import UsageError
from metaseg.registry import Registry
from metaseg.training.optimization import Loss


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """The data of one task. Support and query may differ in height and width.

    Attributes:
        support_images: Inner-loop slices, ``(batch, modality, height, width)``.
        support_labels: Their classes, ``(batch, height, width)``.
        query_images: Outer-loop slices, ``(batch, modality, height, width)``.
        query_labels: Their classes, ``(batch, height, width)``.
    """

    support_images: Tensor
    support_labels: Tensor
    query_images: Tensor
    query_labels: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All four, in the order above."""
        return self.support_images, self.support_labels, self.query_images, self.query_labels


Rates = Mapping[str, Tensor | float]
"""Inner rates by the name of the parameter: a number, or a tensor that broadcasts to the parameter's shape."""


@dataclass(frozen=True, eq=False)
class InnerLoop:
    """How a task is adapted.

    Attributes:
        rates: α for all trainable parameters; or the inner rates of all steps alike, or a table for each of them. A
            parameter that is missing in a table is not adapted, but still receives its outer gradient. Tensors that
            require grad are given theirs. Rates may be results of other tensors: the gradient goes on to those.
        steps: Inner steps, 1 or more.
        first_order: Leave out the second derivative (Finn et al. 2017, section 5.2).
        query_weights: Weight of the query loss after each inner step, ``(steps,)`` (the multi-step loss of Antoniou et
            al. 2019); None weighs the last alone. A step of weight 0 has no query pass, but for the last.
    """

    rates: float | Rates | Sequence[Rates]
    steps: int = 1
    first_order: bool = False
    query_weights: Sequence[float] | None = None

    @property
    def tables(self) -> Sequence[Rates]:
        """The rates of each inner step, where they are given by name."""
        if isinstance(self.rates, int | float):
            return []
        return [self.rates] * self.steps if isinstance(self.rates, Mapping) else self.rates

    def weight_of(self, step: int) -> float:
        """Weight of the query loss after an inner step, counted from 0."""
        if self.query_weights is None:
            return float(step == self.steps - 1)
        return float(self.query_weights[step])


@dataclass(frozen=True, eq=False)
class StepResult:
    """Losses of one meta-step, detached and on the model's device, so that reading them is the caller's choice.

    Attributes:
        support_losses: Support loss before each inner step, ``(tasks, inner_steps)``.
        query_losses: Query loss of the adapted parameters, ``(tasks,)``; the outer loss is their sum.
    """

    support_losses: Tensor
    query_losses: Tensor


@dataclass(frozen=True)
class EngineChoice:
    """The engine that computed a step, and why it was taken.

    Attributes:
        engine: Its name in the registry.
        reason: In a few words.
    """

    engine: str
    reason: str

    def __str__(self) -> str:
        return f"meta-step engine: {self.engine} ({self.reason})"


@runtime_checkable
class MetaStepEngine(Protocol):
    """Computes the outer gradient of a meta-step."""

    def step(self, model: nn.Module, tasks: Sequence[TaskBatch], loss: Loss, inner: InnerLoop) -> StepResult:
        """Add the outer gradient ∇_θ Σ_i L(θ'_i; query_i) to ``p.grad`` of the model's trainable parameters.

        θ'_i is θ after the inner steps θ ← θ − α ∇ L(θ; support_i). With ``query_weights`` the outer loss is
        Σ_i Σ_k w_k L(θ_k,i; query_i). Parameters and buffers of the model stay as
        they are to the bit; only ``grad`` changes. Frozen parameters are neither adapted nor given a gradient. Modules
        keep the mode (train or eval) in which they come, except that the engine's ``norm_statistics`` rules the
        normalisation layers. Dropout in train mode draws a new mask in each forward from torch's global generator, so
        support and query see different networks: put such layers in eval mode for a repeatable gradient.

        The caller zeroes gradients before and steps the outer optimiser after. A non-finite loss is returned, not
        raised: look at the result before that step.

        Args:
            model: The network; called with images, gives logits. Pass the plain module, not a distributed wrapper.
            tasks: The step's tasks, one at least.
            loss: Mean over the slices of a batch, as a scalar.
            inner: How each task is adapted.

        Returns:
            The losses; those of the query are unweighted and of the last parameters.

        Raises:
            UsageError: A rate or the number of steps is out of range, every parameter is frozen, or the engine cannot
                compute such an inner loop.
            ValueError: There is no task, the loss is not a scalar, or rates or weights do not fit network and steps.
        """
        ...


ENGINES: Registry[Callable[..., MetaStepEngine]] = Registry("meta-step engine")
"""Engine classes by the name used in ``--engine``."""


def build_engine(name: str, **options: Any) -> MetaStepEngine:
    """Make an engine.

    Args:
        name: An engine of the registry.
        options: The engine's own, such as ``norm_statistics``.

    Raises:
        UsageError: There is no such engine, an option is out of range, or its library is missing.
    """
    return ENGINES.get(name)(**options)


def slice_gradient_evaluations(
    tasks: int, inner_steps: int = 1, support_size: int = 1, query_size: int = 1, first_order: bool = False
) -> int:
    """Cost of one meta-step in slice gradient evaluations: forward-and-backward passes of one slice.

    Per task, first order costs ``inner_steps * support_size + query_size``, second order
    ``2 * inner_steps * support_size + query_size``: the inner step is differentiated once more. The paper's case, one
    slice each and one inner step, so costs 2 or 3, while a naive step over b slices costs b. This is the unit in which
    methods are given equal budgets. Counted floating-point operations of the exact second order come to about 4: a
    Hessian-vector product takes two passes, not one. Budgets in seconds show that difference.

    Args:
        tasks: Tasks in the step.
        inner_steps: Inner steps of each.
        support_size: Slices of one inner loop.
        query_size: Slices of one outer loop.
        first_order: Whether the second derivative is left out.

    Returns:
        The count.
    """
    passes = 1 if first_order else 2
    return tasks * (passes * inner_steps * support_size + query_size)


def check_step(tasks: Sequence[TaskBatch], inner: InnerLoop, trainable: Collection[str]) -> InnerLoop:
    """Check what every meta-step needs.

    Args:
        tasks: One at least.
        inner: How they are adapted.
        trainable: Names of the network's trainable parameters.

    Returns:
        The inner loop with a table of rates for each step.

    Raises:
        UsageError: A rate or the number of steps is out of range, or every parameter is frozen.
        ValueError: There is no task, or rates or weights do not fit network and steps.
    """
    if not tasks:
        raise ValueError("a meta-step needs a task")
    if isinstance(inner.rates, int | float):
        inner = replace(inner, rates=dict.fromkeys(trainable, inner.rates))
    for rate in {rate for table in inner.tables for rate in table.values() if not isinstance(rate, Tensor)}:
        if not math.isfinite(rate) or rate < 0:
            raise UsageError(f"an inner learning rate of {rate}", expected="a finite number, 0 or more")
    if inner.steps < 1:
        raise UsageError(f"{inner.steps} inner steps", expected="1 or more")
    if not trainable:
        raise UsageError(
            "every parameter of the network is frozen", remedy="unfreeze the layers that are to be adapted"
        )
    if len(inner.tables) != inner.steps:
        raise ValueError(f"{len(inner.tables)} tables of rates for {inner.steps} inner steps")
    if inner.query_weights is not None and len(inner.query_weights) != inner.steps:
        raise ValueError(f"{len(inner.query_weights)} query weights for {inner.steps} inner steps")
    unknown = {name for table in inner.tables for name in table} - set(trainable)
    if unknown:
        raise ValueError(f"rates of what is no trainable parameter: {', '.join(sorted(unknown))}")
    return inner


def checked_scalar(value: Tensor) -> Tensor:
    """A loss as it is.

    Raises:
        ValueError: It is not a scalar.
    """
    if value.ndim:
        raise ValueError(f"the loss must be a scalar, got shape {tuple(value.shape)}")
    return value


# Normalisation: a batch normalisation in train mode moves its running mean and variance at every forward. In
# meta-tuning this would carry one task's intensities into the next and into the pretrained network, although no
# parameter was updated.

NormStatistics = Literal["running", "batch"]
"""``running``: layers that keep running statistics normalise by them, frozen, as in evaluation. ``batch``: they
normalise by the slices at hand, as in training; the statistics that they would keep are thrown away."""


def check_norm_statistics(choice: str) -> None:
    """Check a choice of statistics.

    Raises:
        UsageError: It is not one of :data:`NormStatistics`.
    """
    if choice not in get_args(NormStatistics):
        raise UsageError(
            f"unknown normalisation statistics '{choice}'", expected="one of " + ", ".join(get_args(NormStatistics))
        )


def isolate_buffers(clone: nn.Module, statistics: NormStatistics) -> None:
    """Give a clone, whose modules are its own but whose buffers are still the model's, buffers of its own.

    Then set its normalisation layers with running statistics as ``statistics`` says. Layers without them (instance
    and group normalisation as a rule) know one way only and are left alone.

    Args:
        clone: A module whose submodules and ``_buffers`` tables are not shared with the model it was made from.
        statistics: Which statistics the layers use.
    """
    copies: dict[int, Tensor] = {}
    for module in clone.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                # A buffer that two modules share stays shared.
                module._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
        if getattr(module, "running_mean", None) is not None:
            module.train(statistics == "batch")


@contextmanager
def isolated_buffers(model: nn.Module, statistics: NormStatistics) -> Iterator[None]:
    """:func:`isolate_buffers` on the model itself, for as long as the context lasts.

    Then it has its own buffers again, and its modules the mode in which they came.

    Args:
        model: The network.
        statistics: Which statistics the layers use meanwhile.
    """
    before = [(module, dict(module._buffers), module.training) for module in model.modules()]
    try:
        isolate_buffers(model, statistics)
        yield
    finally:
        for module, buffers, training in before:
            module._buffers.clear()
            module._buffers.update(buffers)
            module.training = training


@dataclass(frozen=True)
class Autocast:
    """The autocast that is in force: torch keeps it for each thread by itself, and a worker has to be given it.

    Attributes:
        device: The device type.
        enabled: Whether there is one.
        dtype: To which it casts.
    """

    device: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def current(cls, device: str) -> Autocast:
        """That of this thread for a device type."""
        if not torch.amp.is_autocast_available(device):
            return cls(device, False, torch.float32)
        return cls(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))

    def uncached(self) -> AbstractContextManager[object]:
        """Enter it here. Casts are made anew each time, since the table of those kept is one for all threads."""
        return torch.autocast(self.device, dtype=self.dtype, cache_enabled=False) if self.enabled else nullcontext()
