"""An engine of our own: the outer gradient by a sweep back through the inner loop, for any inner rates and weights.

The inner loop is θ_k+1 = θ_k − a_k ∘ g_k with g_k = ∇L(θ_k; support), the outer loss Σ_k w_k L(θ_k; query). Its
gradient needs no graph of the updates. Beginning with v = w_K ∇L(θ_K; query), every inner step on the way back gives

* ∂/∂a_k = −g_k ∘ v, the gradient of the inner rates (Li et al. 2017),
* v ← v − H_k (a_k ∘ v) + w_k ∇L(θ_k; query), with the Hessian H_k of the support loss as a product with a vector;
  first order leaves this product out (Finn et al. 2017, section 5.2).

v at θ_0 is the outer gradient. Query graphs are let go at once, the support graphs of one task live until the sweep.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from metaseg.adapt.engines.base import Loss, StepResult, TaskBatch, check_step, register_engine
from metaseg.adapt.engines.fast_weights import FastWeights, Pass, Values, add_to, vector_product
from metaseg.adapt.engines.isolation import NormStatistics, check_norm_statistics

Rates = Mapping[str, Tensor | float]
"""Inner rates by the name of the parameter: a number, or a tensor that broadcasts to the parameter's shape."""

RateShares = dict[int, tuple[Tensor, Tensor]]
"""Inner rates with their gradients, by the identity of the rate."""


@dataclass(frozen=True, eq=False)
class InnerLoop:
    """How a task is adapted.

    Attributes:
        rates: Of all inner steps alike, or a table for each of them. A parameter that is missing is not adapted, but
            still receives its outer gradient. Tensors that require grad are given theirs.
        steps: Inner steps, 1 or more.
        first_order: Leave out the second derivative.
        query_weights: Weight of the query loss after each inner step, ``(steps,)`` (the multi-step loss of Antoniou et
            al. 2019); None weighs the last alone. A step of weight 0 has no query pass, but for the last.
    """

    rates: Rates | Sequence[Rates]
    steps: int = 1
    first_order: bool = False
    query_weights: Sequence[float] | None = None

    def rates_of(self, step: int) -> Rates:
        """Rates of an inner step, counted from 0."""
        return self.rates if isinstance(self.rates, Mapping) else self.rates[step]

    def weight_of(self, step: int) -> float:
        """Weight of the query loss after an inner step, counted from 0."""
        if self.query_weights is None:
            return float(step == self.steps - 1)
        return float(self.query_weights[step])


@dataclass(frozen=True, eq=False)
class _InnerStep:
    """What the sweep needs of an inner step: support pass, rates, and the weighted query gradient after it."""

    support: Pass
    rates: Rates
    query: Values


@dataclass(frozen=True, eq=False)
class TaskGradient:
    """What one task, or several that were computed together, add to a step.

    Attributes:
        positions: Of the tasks in the step.
        support_losses: Before each inner step, ``(tasks, inner_steps)``.
        query_losses: Of the last parameters, ``(tasks,)``.
        gradient: With respect to θ, summed over the tasks.
        rates: With respect to the inner rates that require a gradient, likewise.
    """

    positions: tuple[int, ...]
    support_losses: Tensor
    query_losses: Tensor
    gradient: Values
    rates: RateShares


@register_engine("functional")
class FunctionalEngine:
    """Meta-steps by parameter values put into the network and taken out again; see :mod:`.fast_weights`.

    Its gradients equal those of the ``learn2learn`` engine. Only :meth:`meta_gradient` can adapt a part of the
    parameters, learn inner rates and weigh several query losses.

    Args:
        norm_statistics: As in :class:`~metaseg.adapt.engines.learn2learn_engine.Learn2LearnEngine`.

    Raises:
        UsageError: The choice is unknown.
    """

    def __init__(self, norm_statistics: NormStatistics = "running") -> None:
        check_norm_statistics(norm_statistics)
        self.norm_statistics = norm_statistics

    def step(
        self,
        model: nn.Module,
        tasks: Sequence[TaskBatch],
        loss: Loss,
        inner_lr: float,
        inner_steps: int = 1,
        first_order: bool = False,
    ) -> StepResult:
        """Add the outer gradient to the model's; see :meth:`metaseg.adapt.engines.base.MetaStepEngine.step`."""
        rates = {name: inner_lr for name, one in model.named_parameters() if one.requires_grad}
        return self.meta_gradient(model, tasks, loss, InnerLoop(rates, inner_steps, first_order))

    def meta_gradient(self, model: nn.Module, tasks: Sequence[TaskBatch], loss: Loss, inner: InnerLoop) -> StepResult:
        """Add the gradient of Σ_i Σ_k w_k L(θ_k,i; query_i) to ``p.grad`` of the parameters and of the rates.

        Otherwise as :meth:`~metaseg.adapt.engines.base.MetaStepEngine.step`. Rates may be results of other tensors:
        the gradient goes on to those.

        Args:
            model: The network.
            tasks: The step's tasks, one at least.
            loss: Mean over the slices of a batch, as a scalar.
            inner: How each task is adapted.

        Returns:
            The losses; those of the query are unweighted and of the last parameters.

        Raises:
            UsageError: A rate or the number of steps is out of range, or every parameter is frozen.
            ValueError: There is no task, the loss is not a scalar, or rates or weights do not fit network and steps.
        """
        weights = FastWeights(model)
        _check(weights, tasks, inner)
        rates = RateGradients()
        support_losses: dict[int, Tensor] = {}
        query_losses: dict[int, Tensor] = {}
        for found in self.task_gradients(weights, tasks, loss, inner):
            weights.add_gradient(found.gradient)
            rates.add(found.rates)
            for row, position in enumerate(found.positions):
                support_losses[position], query_losses[position] = found.support_losses[row], found.query_losses[row]
        rates.backward()
        order = range(len(tasks))
        return StepResult(
            torch.stack([support_losses[position] for position in order]),
            torch.stack([query_losses[position] for position in order]),
        )

    def task_gradients(
        self, weights: FastWeights, tasks: Sequence[TaskBatch], loss: Loss, inner: InnerLoop
    ) -> Iterator[TaskGradient]:
        """Gradients of all tasks, always in the same order: what is added up in it has the same bits in every run."""
        for position, task in enumerate(tasks):
            yield task_gradient(weights, task, loss, inner, self.norm_statistics, (position,))


class RateGradients:
    """Gradients of those inner rates that require one, added up over tasks."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, shares: RateShares) -> None:
        """Add to those that are there."""
        for key, (rate, share) in shares.items():
            self._found[key] = (rate, self._found[key][1] + share if key in self._found else share)

    def backward(self) -> None:
        """Hand them on. Once for all tasks: what the rates are computed from is gone through a single time."""
        if self._found:
            torch.autograd.backward(
                [rate for rate, _ in self._found.values()], [one for _, one in self._found.values()]
            )


def task_gradient(
    weights: FastWeights,
    task: TaskBatch,
    loss: Loss,
    inner: InnerLoop,
    statistics: NormStatistics,
    positions: tuple[int, ...],
) -> TaskGradient:
    """The inner loop of a task and the way back.

    Args:
        weights: The network.
        task: Its data, or those of several tasks as the weights take them.
        loss: Mean over the slices of a batch, as a scalar.
        inner: How it is adapted.
        statistics: Of normalisation layers.
        positions: Of the task among those of the step.
    """
    with weights.task(statistics):
        trail, query_loss = _adapt(weights, task, loss, inner)
        support_losses = torch.stack([step.support.loss for step in trail], dim=-1)
        gradient, rates = _sweep_back(weights, trail, inner.first_order)
    return TaskGradient(
        positions, support_losses.reshape(len(positions), -1), query_loss.reshape(len(positions)), gradient, rates
    )


def _adapt(weights: FastWeights, task: TaskBatch, loss: Loss, inner: InnerLoop) -> tuple[list[_InnerStep], Tensor]:
    """The inner loop forward: its steps, and the last query loss."""
    values, trail = weights.values(), []
    for number in range(inner.steps):
        rates, weight = inner.rates_of(number), inner.weight_of(number)
        support = weights.differentiate(
            values, rates, loss, task.support_images, task.support_labels, not inner.first_order
        )
        values = values | {
            name: values[name] - _constant(rates[name]) * gradient.detach()
            for name, gradient in support.gradient.items()
        }
        if not _needed_on_the_way_back(rates, inner.first_order):
            support = replace(support, gradient={})
        query: Values = {}
        if weight or number == inner.steps - 1:
            after = weights.differentiate(values, weights.parameters, loss, task.query_images, task.query_labels)
            query, last = after.gradient, after.loss
            if weight != 1:
                query = {name: weight * gradient for name, gradient in query.items()}
        trail.append(_InnerStep(support, rates, query))
    return trail, last


def _needed_on_the_way_back(rates: Rates, first_order: bool) -> bool:
    """Whether the gradient of a support pass is; it is as large as the network."""
    return not first_order or any(isinstance(rate, Tensor) and rate.requires_grad for rate in rates.values())


def _sweep_back(weights: FastWeights, trail: list[_InnerStep], first_order: bool) -> tuple[Values, RateShares]:
    """The outer gradient of a task, and that of its inner rates. The trail is used up."""
    sweep: Values = {}
    found: RateShares = {}
    while trail:
        step = trail.pop()
        add_to(sweep, step.query)
        reached = {name: gradient for name, gradient in step.support.gradient.items() if name in sweep}
        for name, gradient in reached.items():
            rate = step.rates[name]
            if isinstance(rate, Tensor) and rate.requires_grad:
                share = -(gradient.detach() * sweep[name]).sum_to_size(rate.shape)
                found[id(rate)] = (rate, found[id(rate)][1] + share if id(rate) in found else share)
        if not first_order:
            vector = {name: -_constant(step.rates[name]) * sweep[name] for name in reached}
            with weights.placed(step.support.leaves):
                add_to(sweep, vector_product(reached, vector, step.support.leaves))
    return weights.over_tasks(sweep), found


def _constant(rate: Tensor | float) -> Tensor | float:
    return rate.detach() if isinstance(rate, Tensor) else rate


def _check(weights: FastWeights, tasks: Sequence[TaskBatch], inner: InnerLoop) -> None:
    numbers = [
        rate
        for table in ([inner.rates] if isinstance(inner.rates, Mapping) else inner.rates)
        for rate in table.values()
        if not isinstance(rate, Tensor)
    ]
    check_step(tasks, numbers, inner.steps, bool(weights.parameters))
    if not isinstance(inner.rates, Mapping) and len(inner.rates) != inner.steps:
        raise ValueError(f"{len(inner.rates)} tables of rates for {inner.steps} inner steps")
    if inner.query_weights is not None and len(inner.query_weights) != inner.steps:
        raise ValueError(f"{len(inner.query_weights)} query weights for {inner.steps} inner steps")
    for step in range(inner.steps):
        unknown = inner.rates_of(step).keys() - weights.parameters.keys()
        if unknown:
            raise ValueError(f"rates of what is no trainable parameter: {', '.join(sorted(unknown))}")
