"""The functional engine against learn2learn, and its further parts against a graph through the whole inner loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from metaseg.adapt.engines import FunctionalEngine, InnerLoop, MetaStepEngine, TaskBatch, build_engine
from metaseg.errors import UsageError
from metaseg.models.registry import build_segmenter

CLASSES = 3


def tiny_net(norm: Callable[[int], nn.Module] | None = None) -> nn.Module:
    torch.manual_seed(0)
    middle = [norm(4)] if norm else []
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), *middle, nn.SiLU(), nn.Conv2d(4, CLASSES, 3, padding=1)
    ).double()


def batch_norm(channels: int) -> nn.Module:
    norm = nn.BatchNorm2d(channels)
    nn.init.uniform_(norm.running_mean, -0.5, 0.5)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


def frozen_front() -> nn.Module:
    net = tiny_net()
    net[0].requires_grad_(False)
    return net


def default_unet() -> nn.Module:
    torch.manual_seed(0)
    return build_segmenter("unet", in_channels=2, num_classes=CLASSES).double()


def dynunet() -> nn.Module:
    # Holds some of its modules twice, and pads.
    torch.manual_seed(0)
    return build_segmenter("dynunet", in_channels=2, num_classes=CLASSES, filters=(4, 6, 8)).double()


def make_tasks(count: int = 2, size: int = 8, slices: int = 1) -> list[TaskBatch]:
    generator = torch.Generator().manual_seed(1)

    def images() -> Tensor:
        return torch.randn(slices, 2, size, size, dtype=torch.float64, generator=generator)

    def labels() -> Tensor:
        return torch.randint(CLASSES, (slices, size, size), generator=generator)

    return [TaskBatch(images(), labels(), images(), labels()) for _ in range(count)]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    difference = sum(((found[name] - grad) ** 2).sum() for name, grad in expected.items())
    return float((difference / sum((grad**2).sum() for grad in expected.values())) ** 0.5)


@pytest.fixture(scope="module")
def reference() -> MetaStepEngine:
    return build_engine("learn2learn")


@pytest.mark.parametrize(
    ("build", "size"),
    [(tiny_net, 8), (lambda: tiny_net(batch_norm), 8), (frozen_front, 8), (default_unet, 32), (dynunet, 24)],
    ids=["plain", "batch norm", "frozen", "default unet", "dynunet"],
)
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_steps", [1, 3])
def test_gradients_and_losses_are_learn2learns(
    reference: MetaStepEngine, build: Callable[[], nn.Module], size: int, inner_steps: int, first_order: bool
):
    model, tasks = build().train(), make_tasks(size=size)
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    expected = reference.step(model, tasks, F.cross_entropy, 0.05, inner_steps, first_order)
    wanted = {name: grad.clone() for name, grad in gradients(model).items()}
    model.zero_grad(set_to_none=True)
    found = build_engine("functional").step(model, tasks, F.cross_entropy, 0.05, inner_steps, first_order)
    assert relative_error(gradients(model), wanted) <= 1e-10
    torch.testing.assert_close(found.support_losses, expected.support_losses, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.query_losses, expected.query_losses, rtol=1e-10, atol=0)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_batch_norm_takes_the_statistics_asked_for_and_keeps_its_own(statistics: str):
    model, other, tasks = tiny_net(batch_norm), tiny_net(batch_norm), make_tasks(slices=2)
    other.load_state_dict(model.state_dict())
    before = copy.deepcopy(model.state_dict())
    FunctionalEngine(statistics).step(model, tasks, F.cross_entropy, 0.1, 2)
    build_engine("learn2learn", norm_statistics=statistics).step(other, tasks, F.cross_entropy, 0.1, 2)
    assert relative_error(gradients(model), gradients(other)) <= 1e-10
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


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
def test_rates_of_a_part_of_the_layers_and_several_query_losses(first_order: bool):
    model, tasks = tiny_net(), make_tasks(slices=2)
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
    result = FunctionalEngine().meta_gradient(
        model, tasks, F.cross_entropy, InnerLoop(rates(), 3, first_order, query_weights=weights)
    )
    for tensor, gradient in zip(wanted, expected, strict=True):
        torch.testing.assert_close(tensor.grad, gradient, rtol=1e-10, atol=1e-14)
    assert result.support_losses.shape == (2, 3)
    assert result.query_losses.shape == (2,)


def test_what_is_not_adapted_receives_its_outer_gradient():
    model, tasks = tiny_net(), make_tasks()
    head = dict.fromkeys(("2.weight", "2.bias"), 0.4)
    expected = graph_through_everything(model, tasks, [head] * 2, (0, 1), False, list(model.parameters()))
    FunctionalEngine().meta_gradient(model, tasks, F.cross_entropy, InnerLoop(head, 2))
    assert relative_error(gradients(model), dict(zip(dict(model.named_parameters()), expected, strict=True))) <= 1e-10
    # Nothing adapted at all: the gradient of the query slices.
    plain, unmoved = tiny_net(), tiny_net()
    sum(F.cross_entropy(plain(task.query_images), task.query_labels) for task in tasks).backward()
    FunctionalEngine().meta_gradient(unmoved, tasks, F.cross_entropy, InnerLoop({}))
    assert relative_error(gradients(unmoved), gradients(plain)) <= 1e-12


def test_query_slices_are_forwarded_where_they_weigh_something():
    model, (task,) = tiny_net(), make_tasks(1, slices=3)
    rates, seen = {name: 0.1 for name, _ in model.named_parameters()}, []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels is task.query_labels)
        return F.cross_entropy(logits, labels)

    FunctionalEngine().meta_gradient(model, [task], loss, InnerLoop(rates, 3, query_weights=(0.5, 0, 0.5)))
    assert seen == [False, True, False, False, True]


def test_a_network_is_put_back_after_an_error():
    model, (task,) = tiny_net(batch_norm).train(), make_tasks(1)
    before, parameters = copy.deepcopy(model.state_dict()), list(model.parameters())
    task = TaskBatch(task.support_images, task.support_labels, task.query_images[:, :1], task.query_labels)
    with pytest.raises(RuntimeError, match="channels"):
        FunctionalEngine("batch").step(model, [task], F.cross_entropy, 0.1)
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(module.training for module in model.modules())


def test_what_does_not_fit_is_refused():
    model, tasks = tiny_net(), make_tasks(1)
    engine, loss = FunctionalEngine(), F.cross_entropy
    with pytest.raises(UsageError, match="inner learning rate of nan"):
        engine.step(model, tasks, loss, float("nan"))
    with pytest.raises(UsageError, match="0 inner steps"):
        engine.step(model, tasks, loss, 0.1, 0)
    with pytest.raises(UsageError, match="frozen"):
        engine.step(tiny_net().requires_grad_(False), tasks, loss, 0.1)
    with pytest.raises(ValueError, match="needs a task"):
        engine.step(model, [], loss, 0.1)
    with pytest.raises(ValueError, match="scalar"):
        engine.step(model, tasks, lambda x, y: F.cross_entropy(x, y, reduction="none"), 0.1)
    with pytest.raises(ValueError, match=r"no trainable parameter: 7\.weight"):
        engine.meta_gradient(model, tasks, loss, InnerLoop({"7.weight": 0.1}))
    with pytest.raises(ValueError, match="1 tables of rates for 2"):
        engine.meta_gradient(model, tasks, loss, InnerLoop([{}], 2))
    with pytest.raises(ValueError, match="3 query weights for 2"):
        engine.meta_gradient(model, tasks, loss, InnerLoop({}, 2, query_weights=(0, 0, 1)))
    with pytest.raises(UsageError, match="'frozen'"):
        build_engine("functional", norm_statistics="frozen")
