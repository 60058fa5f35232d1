"""Every engine against three independent computations: finite differences, deep copies and torch.func."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import BasicUNet, DynUNet, UNet
from torch import Tensor, nn
from torch.func import functional_call

from metaseg.adapt.engines import InnerLoop, MetaStepEngine, StepResult, TaskBatch, build_engine
from metaseg.errors import UsageError

CLASSES = 3
INNER_LR = 0.3

Builder = Callable[..., MetaStepEngine]


def adapted_copy(model: nn.Module, task: TaskBatch, inner_steps: int) -> nn.Module:
    learner = copy.deepcopy(model)
    parameters = [p for p in learner.parameters() if p.requires_grad]
    for _ in range(inner_steps):
        grads = torch.autograd.grad(F.cross_entropy(learner(task.support_images), task.support_labels), parameters)
        with torch.no_grad():
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter -= INNER_LR * grad
    return learner


def outer_loss(model: nn.Module, tasks: list[TaskBatch], inner_steps: int) -> float:
    learners = [adapted_copy(model, task, inner_steps) for task in tasks]
    with torch.no_grad():
        return sum(
            F.cross_entropy(learner(task.query_images), task.query_labels).item()
            for learner, task in zip(learners, tasks, strict=True)
        )


def functional_gradients(model: nn.Module, tasks: list[TaskBatch], inner_steps: int) -> dict[str, Tensor]:
    """Second-order outer gradient with parameters and buffers as plain dictionaries."""
    theta = {name: p for name, p in model.named_parameters() if p.requires_grad}
    fixed = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    total = torch.zeros((), dtype=torch.float64)
    for task in tasks:
        fast = dict(theta)
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        for _ in range(inner_steps):
            logits = functional_call(model, {**fast, **fixed, **buffers}, (task.support_images,))
            loss = F.cross_entropy(logits, task.support_labels)
            grads = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
            fast = {name: p - INNER_LR * g for (name, p), g in zip(fast.items(), grads, strict=True)}
        logits = functional_call(model, {**fast, **fixed, **buffers}, (task.query_images,))
        total = total + F.cross_entropy(logits, task.query_labels)
    return dict(zip(theta, torch.autograd.grad(total, list(theta.values())), strict=True))


@pytest.fixture(scope="module")
def reference() -> Builder:
    """learn2learn's gradient and losses, computed once for all engines."""
    known: dict[tuple, tuple[dict[str, Tensor], StepResult]] = {}

    def of(
        lab: SimpleNamespace, name: str, tasks: list[TaskBatch], *how: float
    ) -> tuple[dict[str, Tensor], StepResult]:
        if (name, how) not in known:
            model = lab.nets[name]().train()
            result = build_engine("learn2learn").step(model, tasks, F.cross_entropy, InnerLoop(*how))
            known[name, how] = lab.gradients(model), result
        return known[name, how]

    return of


@pytest.mark.parametrize("name", ["plain", "batch norm", "frozen", "default unet", "dynunet", "segresnet"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_steps", [1, 3])
def test_gradients_and_losses_are_learn2learns(
    lab: SimpleNamespace, build: Builder, reference: Callable, name: str, inner_steps: int, first_order: bool
):
    size = {"default unet": 32, "dynunet": 24, "segresnet": 16}.get(name, 8)
    # Two sizes, so that not all tasks can be computed in one pass.
    tasks = [*lab.tasks(3, size), *lab.tasks(1, size - 2, slices=2)]
    tasks = [tasks[0], tasks[3], *tasks[1:3]] if name != "default unet" else tasks[:2]
    gradient, losses = reference(lab, name, tasks, 0.05, inner_steps, first_order)
    model = lab.nets[name]().train()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    found = build().step(model, tasks, F.cross_entropy, InnerLoop(0.05, inner_steps, first_order))
    assert lab.relative_error(lab.gradients(model), gradient) <= 1e-10
    torch.testing.assert_close(found.support_losses, losses.support_losses, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.query_losses, losses.query_losses, rtol=1e-10, atol=0)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_second_order_is_the_finite_difference_of_the_outer_loss(
    lab: SimpleNamespace, engine: MetaStepEngine, inner_steps: int
):
    model, tasks = lab.net(), lab.tasks()
    engine.step(model, tasks, F.cross_entropy, InnerLoop(INNER_LR, inner_steps))
    generator = torch.Generator().manual_seed(2)
    for _ in range(12):  # random directions through all parameters at once
        direction = {n: torch.randn(p.shape, dtype=p.dtype, generator=generator) for n, p in model.named_parameters()}
        step, values = 1e-5, []
        for sign in (1, -1):
            moved = copy.deepcopy(model)
            with torch.no_grad():
                for name, parameter in moved.named_parameters():
                    parameter += sign * step * direction[name]
            values.append(outer_loss(moved, tasks, inner_steps))
        expected = (values[0] - values[1]) / (2 * step)
        found = sum((grad * direction[name]).sum().item() for name, grad in lab.gradients(model).items())
        assert found == pytest.approx(expected, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_second_order_is_torch_funcs(lab: SimpleNamespace, engine: MetaStepEngine, inner_steps: int):
    model, tasks = lab.net(), lab.tasks(slices=2)
    engine.step(model, tasks, F.cross_entropy, InnerLoop(INNER_LR, inner_steps))
    lab.assert_same(lab.gradients(model), functional_gradients(model, tasks, inner_steps))


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_first_order_is_the_gradient_of_independently_adapted_copies(
    lab: SimpleNamespace, engine: MetaStepEngine, inner_steps: int
):
    model, tasks = lab.net(), lab.tasks()
    result = engine.step(model, tasks, F.cross_entropy, InnerLoop(INNER_LR, inner_steps, first_order=True))
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for position, task in enumerate(tasks):
        learner = adapted_copy(model, task, inner_steps)
        query_loss = F.cross_entropy(learner(task.query_images), task.query_labels)
        query_loss.backward()
        for name, grad in lab.gradients(learner).items():
            expected[name] += grad
        torch.testing.assert_close(result.query_losses[position], query_loss.detach())
    lab.assert_same(lab.gradients(model), expected)
    second = lab.net()
    engine.step(second, tasks, F.cross_entropy, InnerLoop(INNER_LR, inner_steps))
    assert not torch.allclose(lab.gradients(model)["0.weight"], lab.gradients(second)["0.weight"], rtol=1e-3)


@pytest.mark.parametrize("first_order", [True, False])
def test_losses_are_those_of_the_inner_and_outer_loop(lab: SimpleNamespace, engine: MetaStepEngine, first_order: bool):
    model, tasks = lab.net(), lab.tasks(3)
    result = engine.step(model, tasks, F.cross_entropy, InnerLoop(INNER_LR, 2, first_order))
    assert (result.support_losses.shape, result.query_losses.shape) == ((3, 2), (3,))
    assert not result.query_losses.requires_grad
    assert not result.support_losses.requires_grad
    for task, support, query in zip(tasks, result.support_losses, result.query_losses, strict=True):
        for inner_steps, found in enumerate(support):
            learner = adapted_copy(model, task, inner_steps)
            torch.testing.assert_close(
                found, F.cross_entropy(learner(task.support_images), task.support_labels).detach()
            )
        learner = adapted_copy(model, task, 2)
        torch.testing.assert_close(query, F.cross_entropy(learner(task.query_images), task.query_labels).detach())


@pytest.mark.parametrize("statistics", ["running", "batch"])
@pytest.mark.parametrize("first_order", [True, False])
def test_the_model_is_left_as_it_was_to_the_bit(
    lab: SimpleNamespace, build: Builder, statistics: str, first_order: bool
):
    model = lab.net(lab.batch_norm).train()
    model.append(nn.Dropout(0.5))
    before, pointers = copy.deepcopy(model.state_dict()), [t.data_ptr() for t in model.state_dict().values()]
    modes = [module.training for module in model.modules()]
    engine = build(norm_statistics=statistics)
    engine.step(model, lab.tasks(), F.cross_entropy, InnerLoop(INNER_LR, 2, first_order))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert "1.num_batches_tracked" in before
    for name in before:
        assert torch.equal(after[name], before[name]), name
    assert [t.data_ptr() for t in after.values()] == pointers
    assert [module.training for module in model.modules()] == modes
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in model.parameters())


class Louder(nn.Module):
    """Scales by the number of forwards that its buffer has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x * self.seen.item()


def test_a_task_does_not_depend_on_the_tasks_before_it(lab: SimpleNamespace, engine: MetaStepEngine):
    tasks, model = lab.tasks(3), nn.Sequential(*lab.net(), Louder())
    together = engine.step(model, tasks, F.cross_entropy, InnerLoop(INNER_LR)).query_losses
    reversed_order = engine.step(model, tasks[::-1], F.cross_entropy, InnerLoop(INNER_LR)).query_losses
    torch.testing.assert_close(together, reversed_order.flip(0), rtol=0, atol=0)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, lambda c: nn.InstanceNorm2d(c, track_running_stats=True)])
@pytest.mark.parametrize(("statistics", "training"), [("running", False), ("batch", True)])
def test_norm_statistics_choose_between_evaluation_and_training(
    lab: SimpleNamespace, build: Builder, norm: Callable, statistics: str, training: bool
):
    tasks = lab.tasks(slices=2)
    engine = build(norm_statistics=statistics)
    for mode in (True, False):  # the mode in which the model comes does not matter
        model = lab.net(norm).train(mode)
        engine.step(model, tasks, F.cross_entropy, InnerLoop(INNER_LR))
        reference = lab.net(norm).train(training)
        lab.assert_same(lab.gradients(model), functional_gradients(reference, tasks, 1))


def test_frozen_layers_are_neither_adapted_nor_given_a_gradient(lab: SimpleNamespace, engine: MetaStepEngine):
    model, tasks = lab.net(), lab.tasks()
    model[0].requires_grad_(False)
    engine.step(model, tasks, F.cross_entropy, InnerLoop(INNER_LR, 2))
    assert lab.gradients(model).keys() == {"2.weight", "2.bias"}
    lab.assert_same(lab.gradients(model), functional_gradients(model, tasks, 2))


def test_a_parameter_that_the_loss_does_not_reach(lab: SimpleNamespace, engine: MetaStepEngine):
    model, tasks = lab.net(), lab.tasks()
    model.register_parameter("unused", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    engine.step(model, tasks, F.cross_entropy, InnerLoop(INNER_LR))
    assert model.unused.grad is None
    lab.assert_same(lab.gradients(model), functional_gradients(lab.net(), tasks, 1))


def test_shared_parameters_stay_shared(lab: SimpleNamespace, engine: MetaStepEngine):
    def shared() -> nn.Module:
        torch.manual_seed(0)
        twice = nn.Conv2d(2, 2, 3, padding=1)
        return nn.Sequential(twice, nn.SiLU(), twice, nn.SiLU(), nn.Conv2d(2, CLASSES, 1)).double()

    model, tasks = shared(), lab.tasks()
    engine.step(model, tasks, F.cross_entropy, InnerLoop(INNER_LR, 2))
    lab.assert_same(lab.gradients(model), functional_gradients(shared(), tasks, 2))


@pytest.mark.parametrize("first_order", [True, False])
def test_gradients_are_added_to_those_that_are_there(lab: SimpleNamespace, engine: MetaStepEngine, first_order: bool):
    tasks = lab.tasks()
    together, apart = lab.net(), lab.net()
    engine.step(together, tasks, F.cross_entropy, InnerLoop(INNER_LR, 1, first_order))
    for task in tasks:
        engine.step(apart, [task], F.cross_entropy, InnerLoop(INNER_LR, 1, first_order))
    lab.assert_same(lab.gradients(apart), lab.gradients(together))


def test_nothing_but_the_models_parameters_gets_a_gradient(lab: SimpleNamespace, engine: MetaStepEngine):
    model, tasks = lab.net(), lab.tasks(1)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    tasks[0].query_images.requires_grad_()
    engine.step(model, tasks, lambda logits, labels: weight * F.cross_entropy(logits, labels), InnerLoop(INNER_LR))
    assert weight.grad is None
    assert tasks[0].query_images.grad is None


def test_support_and_query_of_different_sizes(lab: SimpleNamespace, engine: MetaStepEngine):
    model, large, small = lab.net(), lab.tasks(1, size=8)[0], lab.tasks(1, size=6, slices=2)[0]
    task = TaskBatch(large.support_images, large.support_labels, small.query_images, small.query_labels)
    engine.step(model, [task], F.cross_entropy, InnerLoop(INNER_LR))
    lab.assert_same(lab.gradients(model), functional_gradients(model, [task], 1))


def test_inside_no_grad(lab: SimpleNamespace, engine: MetaStepEngine):
    model, tasks = lab.net(), lab.tasks()
    with torch.no_grad():
        engine.step(model, tasks, F.cross_entropy, InnerLoop(INNER_LR))
    lab.assert_same(lab.gradients(model), functional_gradients(model, tasks, 1))


def test_a_learning_rate_of_zero_gives_the_plain_gradient_of_the_query(lab: SimpleNamespace, engine: MetaStepEngine):
    model, plain, tasks = lab.net(), lab.net(), lab.tasks()
    engine.step(model, tasks, F.cross_entropy, InnerLoop(0.0))
    sum(F.cross_entropy(plain(task.query_images), task.query_labels) for task in tasks).backward()
    lab.assert_same(lab.gradients(model), lab.gradients(plain))


class Held:
    """A tensor kept for the backward pass; weak references to it tell when the graph lets go."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def most_held(lab: SimpleNamespace, engine: MetaStepEngine, count: int) -> int:
    living: weakref.WeakSet[Held] = weakref.WeakSet()
    most = 0

    def pack(tensor: Tensor) -> Held:
        nonlocal most
        held = Held(tensor)
        living.add(held)
        most = max(most, len(living))
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        engine.step(lab.net(), lab.tasks(count), F.cross_entropy, InnerLoop(INNER_LR))
    return most


@pytest.mark.parametrize("name", ["learn2learn", "functional"])
def test_memory_does_not_grow_with_the_number_of_tasks(lab: SimpleNamespace, name: str):
    engine = build_engine(name)
    assert most_held(lab, engine, 6) == most_held(lab, engine, 2) > 0


def monai_unet() -> nn.Module:
    return UNet(2, 2, CLASSES, channels=(4, 8), strides=(2,), num_res_units=1, norm=("INSTANCE", {"affine": True}))


def monai_basic_unet() -> nn.Module:
    return BasicUNet(2, 2, CLASSES, features=(4, 4, 4, 4, 4, 4), norm=("GROUP", {"num_groups": 2, "affine": True}))


def monai_dynunet() -> nn.Module:
    # Its skip layers hold the same submodules a second time.
    kernels, strides = (3, 3, 3), (1, 2, 2)
    return DynUNet(
        2, 2, CLASSES, kernels, strides, strides[1:], filters=(4, 6, 8), norm_name=("INSTANCE", {"affine": True})
    )


@pytest.mark.parametrize("make", [monai_unet, monai_basic_unet, monai_dynunet])
def test_monai_networks(lab: SimpleNamespace, engine: MetaStepEngine, make: Callable[[], nn.Module]):
    torch.manual_seed(0)
    model, tasks = make().double().train(), lab.tasks(size=32)
    before = copy.deepcopy(model.state_dict())
    engine.step(model, tasks, F.cross_entropy, InnerLoop(INNER_LR, 2))
    # Looked at before the reference runs: functional_call itself does not restore modules that are held twice.
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    lab.assert_same(lab.gradients(model), functional_gradients(model, tasks, 2), tolerance=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rates": float("nan")}, "inner learning rate of nan"),
        ({"rates": -0.1}, "inner learning rate of -0.1"),
        ({"steps": 0}, "0 inner steps"),
    ],
)
def test_arguments_out_of_range(lab: SimpleNamespace, engine: MetaStepEngine, arguments: dict, message: str):
    with pytest.raises(UsageError, match=message):
        engine.step(lab.net(), lab.tasks(1), F.cross_entropy, InnerLoop(**{"rates": 0.1, **arguments}))


def test_what_cannot_be_differentiated_is_refused(lab: SimpleNamespace, build: Builder, engine: MetaStepEngine):
    with pytest.raises(UsageError, match="frozen"):
        engine.step(lab.net().requires_grad_(False), lab.tasks(1), F.cross_entropy, InnerLoop(0.1))
    with pytest.raises(ValueError, match="needs a task"):
        engine.step(lab.net(), [], F.cross_entropy, InnerLoop(0.1))
    with pytest.raises(ValueError, match="scalar"):
        engine.step(lab.net(), lab.tasks(1), lambda x, y: F.cross_entropy(x, y, reduction="none"), InnerLoop(0.1))
    with pytest.raises(UsageError, match="'frozen'"):
        build(norm_statistics="frozen")
