"""A network with other parameter values for the time of one forward: the ground of the functional engine and Reptile.

An inner loop needs the network at θ, at θ' and so on, without losing θ. Here the values are put into the network
itself, into every place that holds the parameter, and taken out again after the pass. No module is copied, so that
modules that are held twice, or also as plain attributes, are seen at their new values everywhere. The values stay for
the backward pass, so that a network that computes activations anew there (checkpointing) finds them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metaseg.adapt.engines.base import Loss
from metaseg.adapt.engines.isolation import NormStatistics, isolated_buffers

Values = dict[str, Tensor]
"""Tensors by the name of a trainable parameter."""


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

    Args:
        model: The network. It is left as it was to the bit after every call.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
        names = {id(one): name for name, one in self.parameters.items()}
        # Every place of every parameter: a shared one has several.
        self._places = [
            (module._parameters, key, names[id(one)])
            for module in model.modules()
            for key, one in module._parameters.items()
            if one is not None and id(one) in names
        ]

    @contextmanager
    def task(self, statistics: NormStatistics) -> Iterator[None]:
        """For the time of one task: buffers of its own, and normalisation statistics as chosen."""
        with isolated_buffers(self.model, statistics):
            yield

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
            for (table, key, _), one in zip(self._places, before, strict=True):
                table[key] = one


def checked_scalar(value: Tensor) -> Tensor:
    """A loss as it is.

    Raises:
        ValueError: It is not a scalar.
    """
    if value.ndim:
        raise ValueError(f"the loss must be a scalar, got shape {tuple(value.shape)}")
    return value


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
