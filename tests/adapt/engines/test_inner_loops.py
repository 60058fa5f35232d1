"""Inner loops that learn2learn does not know, against a graph through the whole inner loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from metaseg.adapt.engines import BatchedEngine, FunctionalEngine, InnerLoop, TaskBatch
from metaseg.errors import UsageError

ENGINES: dict[str, Callable[..., FunctionalEngine]] = {
    "functional": FunctionalEngine,
    "threads": lambda *options: BatchedEngine(*options, together=False, threads=2),
    "one pass": lambda *options: BatchedEngine(*options, together=True),
}


@pytest.fixture(params=ENGINES)
def own(request: pytest.FixtureRequest) -> Callable[..., FunctionalEngine]:
    """Builds those engines that know all inner loops."""
    return ENGINES[request.param]


def graph_through_everything(
    model: nn.Module,
    tasks: list[TaskBatch],
    rates: Sequence[dict],
    weights: Sequence[float],
    first_order: bool,
    wanted: list[Tensor],
) -> tuple[Tensor, ...]:
    """The gradient of the weighed outer loss, by autograd through the updates."""
    theta, total = dict(model.named_parameters()), torch.zeros((), dtype=torch.float64)
    for task in tasks:
        fast = dict(theta)
        for table, weight in zip(rates, weights, strict=True):
            support = F.cross_entropy(functional_call(model, fast, (task.support_images,)), task.support_labels)
            grads = torch.autograd.grad(support, [fast[name] for name in table], create_graph=True)
            for (name, rate), grad in zip(table.items(), grads, strict=True):
                fast[name] = fast[name] - rate * (grad.detach() if first_order else grad)
            query = F.cross_entropy(functional_call(model, fast, (task.query_images,)), task.query_labels)
            total = total + weight * query
    return torch.autograd.grad(total, wanted)


@pytest.mark.parametrize("first_order", [False, True])
def test_rates_of_a_part_of_the_layers_and_several_query_losses(
    lab: SimpleNamespace, own: Callable[..., FunctionalEngine], first_order: bool
):
    model, tasks = lab.net(), lab.tasks(slices=2)
    generator = torch.Generator().manual_seed(5)
    elements = {
        name: (0.3 * torch.rand(one.shape, dtype=torch.float64, generator=generator)).requires_grad_()
        for name, one in model.named_parameters()
    }
    factor = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def rates() -> list[dict]:
        """Each step otherwise: elements, one learned number for two tensors, a plain number for the bias alone."""
        return [elements, dict.fromkeys(("2.weight", "2.bias"), 0.5 * factor.exp()), {"2.bias": 0.2}]

    weights = (0.25, 0.0, 0.75)
    wanted = [*model.parameters(), *elements.values(), factor]
    expected = graph_through_everything(model, tasks, rates(), weights, first_order, wanted)
    result = own().step(model, tasks, F.cross_entropy, InnerLoop(rates(), 3, first_order, query_weights=weights))
    for tensor, gradient in zip(wanted, expected, strict=True):
        torch.testing.assert_close(tensor.grad, gradient, rtol=1e-10, atol=1e-14)
    assert result.support_losses.shape == (2, 3)
    assert result.query_losses.shape == (2,)


def test_what_is_not_adapted_receives_its_outer_gradient(lab: SimpleNamespace, own: Callable[..., FunctionalEngine]):
    model, tasks = lab.net(), lab.tasks()
    head = dict.fromkeys(("2.weight", "2.bias"), 0.4)
    expected = graph_through_everything(model, tasks, [head] * 2, (0, 1), False, list(model.parameters()))
    own().step(model, tasks, F.cross_entropy, InnerLoop(head, 2))
    assert (
        lab.relative_error(lab.gradients(model), dict(zip(dict(model.named_parameters()), expected, strict=True)))
        <= 1e-10
    )
    # Nothing adapted at all: the gradient of the query slices.
    plain, unmoved = lab.net(), lab.net()
    sum(F.cross_entropy(plain(task.query_images), task.query_labels) for task in tasks).backward()
    own().step(unmoved, tasks, F.cross_entropy, InnerLoop({}))
    assert lab.relative_error(lab.gradients(unmoved), lab.gradients(plain)) <= 1e-12


def test_query_slices_are_forwarded_where_they_weigh_something(
    lab: SimpleNamespace, own: Callable[..., FunctionalEngine]
):
    model, (task,) = lab.net(), lab.tasks(1, slices=3)
    rates, seen = {name: 0.1 for name, _ in model.named_parameters()}, []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels is task.query_labels)
        return F.cross_entropy(logits, labels)

    own().step(model, [task], loss, InnerLoop(rates, 3, query_weights=(0.5, 0, 0.5)))
    assert seen == [False, True, False, False, True]


def test_a_network_is_put_back_after_an_error(lab: SimpleNamespace, own: Callable[..., FunctionalEngine]):
    model, (task,) = lab.net(lab.batch_norm).train(), lab.tasks(1)
    before, parameters = copy.deepcopy(model.state_dict()), list(model.parameters())
    task = TaskBatch(task.support_images, task.support_labels, task.query_images[:, :1], task.query_labels)
    with pytest.raises(RuntimeError, match="channels"):
        own("batch").step(model, [task], F.cross_entropy, InnerLoop(0.1))
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(module.training for module in model.modules())


def test_what_does_not_fit_is_refused(lab: SimpleNamespace, own: Callable[..., FunctionalEngine]):
    model, tasks = lab.net(), lab.tasks(1)
    engine, loss = own(), F.cross_entropy
    with pytest.raises(UsageError, match="inner learning rate of nan"):
        engine.step(model, tasks, loss, InnerLoop(float("nan")))
    with pytest.raises(UsageError, match="0 inner steps"):
        engine.step(model, tasks, loss, InnerLoop(0.1, 0))
    with pytest.raises(UsageError, match="frozen"):
        engine.step(lab.net().requires_grad_(False), tasks, loss, InnerLoop(0.1))
    with pytest.raises(ValueError, match="needs a task"):
        engine.step(model, [], loss, InnerLoop(0.1))
    with pytest.raises(ValueError, match="scalar"):
        engine.step(model, tasks, lambda x, y: F.cross_entropy(x, y, reduction="none"), InnerLoop(0.1))
    with pytest.raises(ValueError, match=r"no trainable parameter: 7\.weight"):
        engine.step(model, tasks, loss, InnerLoop({"7.weight": 0.1}))
    with pytest.raises(ValueError, match="1 tables of rates for 2"):
        engine.step(model, tasks, loss, InnerLoop([{}], 2))
    with pytest.raises(ValueError, match="3 query weights for 2"):
        engine.step(model, tasks, loss, InnerLoop({}, 2, query_weights=(0, 0, 1)))
    with pytest.raises(UsageError, match="'frozen'"):
        own("frozen")
