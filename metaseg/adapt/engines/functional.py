"""An engine of our own: the outer gradient by a sweep back through the inner loop, for any inner rates and weights.

The inner loop is θ_k+1 = θ_k − a_k ∘ g_k with g_k = ∇L(θ_k; support), the outer loss Σ_k w_k L(θ_k; query). Its
gradient needs no graph of the updates. Beginning with v = w_K ∇L(θ_K; query), every inner step on the way back gives

* ∂/∂a_k = −g_k ∘ v, the gradient of the inner rates (Li et al. 2017),
* v ← v − H_k (a_k ∘ v) + w_k ∇L(θ_k; query), with the Hessian H_k of the support loss as a product with a vector;
  first order leaves this product out (Finn et al. 2017, section 5.2).

v at θ_0 is the outer gradient. Query graphs are let go at once, the support graphs of one task live until the sweep.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from metaseg.adapt.engines.base import (
    ENGINES,
    InnerLoop,
    NormStatistics,
    Rates,
    StepResult,
    TaskBatch,
    check_norm_statistics,
    check_step,
    checked_scalar,
    isolated_buffers,
)
from metaseg.training.optimization import Loss

Values = dict[str, Tensor]
"""Tensors by the name of a trainable parameter."""


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@dataclass(frozen=True, eq=False)
class Pass:
    """A forward and backward pass.

    Attributes:
        loss: Its loss, a detached scalar.
        leaves: The parameter values that the network was called with.
        gradient: With respect to those asked for that the loss reaches; detached unless the graph was asked for.
    """

    loss: Tensor
    leaves: Values
    gradient: Values


class FastWeights:
    """A network's trainable parameters as values beside it.

    An inner loop needs the network at θ, at θ' and so on, without losing θ. The values are put into the network itself,
    into every place that holds the parameter, and taken out again after the pass. No module is copied, so that modules
    that are held twice, or also as plain attributes, are seen at their new values everywhere. The values stay for the
    backward pass, so that a network that computes activations anew there (checkpointing) finds them.

    Args:
        model: The network. It is left as it was to the bit after every call.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = trainable_parameters(model)
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        # Every place of every parameter: a shared one has several.
        self._places = [
            (module._parameters, key, names[id(parameter)])
            for module in model.modules()
            for key, parameter in module._parameters.items()
            if parameter is not None and id(parameter) in names
        ]

    def task(self, statistics: NormStatistics) -> AbstractContextManager[None]:
        """For the time of one task: buffers of its own, and normalisation statistics as chosen."""
        return isolated_buffers(self.model, statistics)

    def values(self) -> Values:
        """θ, detached; it shares the parameters' memory."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def over_tasks(self, values: Values) -> Values:
        """Values of a task as they add up over the tasks that were computed together: of one, as they are."""
        return values

    def differentiate(
        self,
        values: Mapping[str, Tensor],
        over: Collection[str],
        loss: Loss,
        images: Tensor,
        labels: Tensor,
        second_order: bool = False,
    ) -> Pass:
        """Loss of a batch under other parameter values, and its gradient.

        Args:
            values: A value for every trainable parameter.
            over: With respect to which parameters.
            loss: Of logits and labels.
            images: ``(batch, modality, height, width)``.
            labels: ``(batch, height, width)``.
            second_order: Keep the graph, so that the gradient can be differentiated with respect to every leaf.

        Raises:
            ValueError: The loss is not a scalar.
        """
        needed = self.parameters if second_order else over
        leaves = {name: value.detach().requires_grad_(name in needed) for name, value in values.items()}
        with torch.enable_grad(), self.placed(leaves):
            value = self.loss_at(leaves, loss, images, labels)
            gradient = vector_product({"loss": value.sum()}, {}, {name: leaves[name] for name in over}, second_order)
        return Pass(value.detach(), leaves, gradient)

    def loss_at(self, values: Values, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, a scalar, with the graph to the values, which are in their places.

        Raises:
            ValueError: The loss is not a scalar.
        """
        return checked_scalar(loss(self.model(images), labels))

    def add_gradient(self, gradient: Mapping[str, Tensor], factor: float = 1.0) -> None:
        """Add to ``p.grad`` of the parameters named."""
        for name, value in gradient.items():
            parameter = self.parameters[name]
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(value.detach(), alpha=factor)

    @contextmanager
    def placed(self, values: Values) -> Iterator[None]:
        """The network at these values for as long as the context lasts; then at those that it had before."""
        before = [table[key] for table, key, _ in self._places]
        try:
            for table, key, name in self._places:
                table[key] = values[name]  # type: ignore[assignment]
            yield
        finally:
            for (table, key, _), parameter in zip(self._places, before, strict=True):
                table[key] = parameter


def vector_product(
    outputs: Mapping[str, Tensor], vector: Mapping[str, Tensor], inputs: Values, create_graph: bool = False
) -> Values:
    """Gradient of Σ vector · output with respect to the inputs, without those that the outputs do not reach.

    Args:
        outputs: Tensors with a graph; those without are constants and add nothing.
        vector: Factors of the outputs' elements, 1 where none is given (for scalars).
        inputs: Leaves of the graph.
        create_graph: Keep the graph, and give the result one.
    """
    reached = {name: output for name, output in outputs.items() if output.requires_grad}
    if not reached or not inputs:
        return {}
    found = torch.autograd.grad(
        list(reached.values()),
        list(inputs.values()),
        [vector.get(name) for name in reached],
        create_graph=create_graph,
        allow_unused=True,
    )
    return {name: gradient for name, gradient in zip(inputs, found, strict=True) if gradient is not None}


def add_to(total: Values, more: Mapping[str, Tensor]) -> None:
    """Add values to those of the same names."""
    for name, value in more.items():
        total[name] = total[name] + value if name in total else value


RateGradients = dict[int, tuple[Tensor, Tensor]]
"""Inner rates with their gradients, by the identity of the rate."""


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
    rates: RateGradients


@ENGINES.register("functional")
class FunctionalEngine:
    """Meta-steps by parameter values put into the network and taken out again; see :class:`FastWeights`.

    Its gradients equal those of the ``learn2learn`` engine. It can also adapt a part of the parameters, learn inner
    rates and weigh several query losses.

    Args:
        norm_statistics: As in :class:`~metaseg.adapt.engines.learn2learn.Learn2LearnEngine`.

    Raises:
        UsageError: The choice is unknown.
    """

    def __init__(self, norm_statistics: NormStatistics = "running") -> None:
        check_norm_statistics(norm_statistics)
        self.norm_statistics = norm_statistics

    def step(self, model: nn.Module, tasks: Sequence[TaskBatch], loss: Loss, inner: InnerLoop) -> StepResult:
        """Add the outer gradient to the model's; see :meth:`metaseg.adapt.engines.base.MetaStepEngine.step`."""
        weights = FastWeights(model)
        inner = check_step(tasks, inner, weights.parameters)
        rates: RateGradients = {}
        losses: dict[int, tuple[Tensor, Tensor]] = {}
        for found in self.task_gradients(weights, tasks, loss, inner):
            weights.add_gradient(found.gradient)
            for rate, gradient in found.rates.values():
                _add_rate(rates, rate, gradient)
            losses |= zip(found.positions, zip(found.support_losses, found.query_losses, strict=True), strict=True)
        if rates:
            # Once for all tasks: what the rates are computed from is gone through a single time.
            torch.autograd.backward([rate for rate, _ in rates.values()], [gradient for _, gradient in rates.values()])
        support, query = zip(*(losses[position] for position in range(len(tasks))), strict=True)
        return StepResult(torch.stack(support), torch.stack(query))

    def task_gradients(
        self, weights: FastWeights, tasks: Sequence[TaskBatch], loss: Loss, inner: InnerLoop
    ) -> Iterator[TaskGradient]:
        """Gradients of all tasks, always in the same order: what is added up in it has the same bits in every run."""
        for position, task in enumerate(tasks):
            yield task_gradient(weights, task, loss, inner, self.norm_statistics, (position,))


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
    trail: list[_InnerStep] = []
    with weights.task(statistics):
        values = weights.values()
        for number in range(inner.steps):
            rates, weight = inner.tables[number], inner.weight_of(number)
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
        support_losses = torch.stack([step.support.loss for step in trail], dim=-1)
        gradient, of_rates = _sweep_back(weights, trail, inner.first_order)
    count = len(positions)
    return TaskGradient(positions, support_losses.reshape(count, -1), last.reshape(count), gradient, of_rates)


def _needed_on_the_way_back(rates: Rates, first_order: bool) -> bool:
    """Whether the gradient of a support pass is; it is as large as the network."""
    return not first_order or any(isinstance(rate, Tensor) and rate.requires_grad for rate in rates.values())


def _sweep_back(weights: FastWeights, trail: list[_InnerStep], first_order: bool) -> tuple[Values, RateGradients]:
    """The outer gradient of a task, and that of its inner rates. The trail is used up."""
    sweep: Values = {}
    found: RateGradients = {}
    while trail:
        step = trail.pop()
        add_to(sweep, step.query)
        reached = {name: gradient for name, gradient in step.support.gradient.items() if name in sweep}
        for name, gradient in reached.items():
            rate = step.rates[name]
            if isinstance(rate, Tensor) and rate.requires_grad:
                _add_rate(found, rate, -(gradient.detach() * sweep[name]).sum_to_size(rate.shape))
        if not first_order:
            vector = {name: -_constant(step.rates[name]) * sweep[name] for name in reached}
            with weights.placed(step.support.leaves):
                add_to(sweep, vector_product(reached, vector, step.support.leaves))
    return weights.over_tasks(sweep), found


def _add_rate(total: RateGradients, rate: Tensor, gradient: Tensor) -> None:
    """Add to the gradient of a rate."""
    total[id(rate)] = (rate, total[id(rate)][1] + gradient if id(rate) in total else gradient)


def _constant(rate: Tensor | float) -> Tensor | float:
    return rate.detach() if isinstance(rate, Tensor) else rate
