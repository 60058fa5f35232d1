"""An engine of our own: the outer gradient by a sweep back through the inner loop, for any inner rates and weights.

The inner loop is θ_k+1 = θ_k − a_k ∘ g_k with g_k = ∇L(θ_k; support), the outer loss Σ_k w_k L(θ_k; query). Its
gradient needs no graph of the updates. Beginning with v = w_K ∇L(θ_K; query), every inner step on the way back gives

* ∂/∂a_k = −g_k ∘ v, the gradient of the inner rates (Li et al. 2017),
* v ← v − H_k (a_k ∘ v) + w_k ∇L(θ_k; query), with the Hessian H_k of the support loss as a product with a vector;
  first order leaves this product out (Finn et al. 2017, section 5.2).

v at θ_0 is the outer gradient. Query graphs are let go at once, the support graphs of one task live until the sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metaseg.adapt.engines.base import Loss, StepResult, TaskBatch, check_step, register_engine
from metaseg.adapt.engines.fast_weights import FastWeights, Pass, Values, add_to, vector_product
from metaseg.adapt.engines.isolation import NormStatistics, check_norm_statistics

Rates = Mapping[str, Tensor | float]
"""Inner rates by the name of the parameter: a number, or a tensor that broadcasts to the parameter's shape."""


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
        found: dict[int, tuple[Tensor, Tensor]] = {}
        support_losses, query_losses = [], []
        for task in tasks:
            with weights.task(self.norm_statistics):
                trail, query_loss = _adapt(weights, task, loss, inner)
            support_losses.append(torch.stack([step.support.loss for step in trail]))
            query_losses.append(query_loss)
            weights.add_gradient(_sweep_back(trail, inner.first_order, found))
        if found:
            # Once for all tasks: what the rates are computed from is gone through a single time.
            torch.autograd.backward([rate for rate, _ in found.values()], [share for _, share in found.values()])
        return StepResult(torch.stack(support_losses), torch.stack(query_losses))


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
        query: Values = {}
        if weight or number == inner.steps - 1:
            after = weights.differentiate(values, weights.parameters, loss, task.query_images, task.query_labels)
            query, last = {name: weight * gradient for name, gradient in after.gradient.items()}, after.loss
        trail.append(_InnerStep(support, rates, query))
    return trail, last


def _sweep_back(trail: list[_InnerStep], first_order: bool, found: dict[int, tuple[Tensor, Tensor]]) -> Values:
    """The outer gradient of one task. The trail is used up; gradients of rates are added to ``found``, by identity."""
    sweep: Values = {}
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
            add_to(sweep, vector_product(reached, vector, step.support.leaves))
    return sweep


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
