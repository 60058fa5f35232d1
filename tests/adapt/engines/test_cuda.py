"""The engines on a GPU, against learn2learn on the CPU and against each other; passed over where there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaseg.adapt.engines import BatchedEngine, FunctionalEngine, InnerLoop, MetaStepEngine, TaskBatch, build_engine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ENGINES: dict[str, Callable[..., MetaStepEngine]] = {
    "learn2learn": lambda **options: build_engine("learn2learn", **options),
    "functional": FunctionalEngine,
    "one pass": lambda **options: BatchedEngine(record=False, **options),
    "replayed": BatchedEngine,
    "auto": lambda **options: build_engine("auto", **options),
}
TOLERANCE = {"default unet": 1e-6}
"""Its deepest level has four pixels, over which it normalises: that magnifies what rounding leaves."""


def on_gpu(tasks: list[TaskBatch]) -> list[TaskBatch]:
    return [TaskBatch(*(one.cuda() for one in task.tensors)) for task in tasks]


def step(engine: MetaStepEngine, model: nn.Module, tasks: list[TaskBatch], **how: object) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    engine.step(model, tasks, F.cross_entropy, InnerLoop(0.05, **how))
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["plain", "batch norm", "frozen", "default unet"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_gradients_are_those_of_the_cpu_at_every_step(
    lab: SimpleNamespace, engine: str, name: str, first_order: bool, statistics: str
):
    model, here = lab.nets[name]().eval(), lab.nets[name]().eval().cuda()
    found_by, reference = (
        ENGINES[engine](norm_statistics=statistics),
        build_engine("learn2learn", norm_statistics=statistics),
    )
    tolerance = TOLERANCE.get(name, 1e-10)
    # Often enough for what is recorded at one step and replayed at the next, with weights and data that change.
    for number in range(4):
        tasks = [*lab.tasks(3, 32, seed=number), *lab.tasks(1, 28, slices=2, seed=number)]
        for one in (model, here):
            one.zero_grad(set_to_none=True)
        expected = reference.step(model, tasks, F.cross_entropy, InnerLoop(0.05, 2, first_order))
        found = found_by.step(here, on_gpu(tasks), F.cross_entropy, InnerLoop(0.05, 2, first_order))
        gradient = {key: value.cpu() for key, value in lab.gradients(here).items()}
        assert lab.relative_error(gradient, lab.gradients(model)) <= tolerance
        for field in dataclasses.fields(expected):
            losses, wanted = getattr(found, field.name), getattr(expected, field.name)
            torch.testing.assert_close(losses.cpu(), wanted, rtol=tolerance, atol=0)
        with torch.no_grad():
            for mine, theirs in zip(model.parameters(), here.parameters(), strict=True):
                if mine.grad is not None:
                    mine -= 0.1 * mine.grad
                theirs.copy_(mine)


def test_the_third_step_is_replayed_and_a_moved_network_is_recorded_anew(lab: SimpleNamespace):
    model, engine, plain = lab.net().cuda(), BatchedEngine(), FunctionalEngine()
    tasks, said = on_gpu(lab.tasks(3)), []
    for _ in range(2):
        for _ in range(3):
            lab.assert_same(step(engine, model, tasks), step(plain, model, tasks))
            said.append(engine.said)
        held = [one.data for one in model.parameters()]  # so that the copies cannot lie where these do
        for one in model.parameters():
            one.data = 1.5 * one.data
        assert len(held) == 4
    assert said == ["3 tasks replayed"] * 6
    assert len(engine._recordings._recordings) == 1


def test_what_is_recorded_for_one_setting_is_not_replayed_for_another(lab: SimpleNamespace):
    model, engine, plain = lab.nets["batch norm"]().cuda().eval(), BatchedEngine(), FunctionalEngine()
    tasks = on_gpu(lab.tasks(2))
    settings = [{"steps": 1}, {"steps": 2}, {"steps": 1, "first_order": True}]
    for _ in range(3):
        for how in settings:
            lab.assert_same(step(engine, model, tasks, **how), step(plain, model, tasks, **how))
        with torch.autocast("cuda", dtype=torch.bfloat16):
            lab.assert_same(step(engine, model, tasks), step(plain, model, tasks), tolerance=0.05)
    assert len(engine._recordings._recordings) == 4


def test_groups_of_other_shapes_and_a_single_task(lab: SimpleNamespace):
    model, engine, plain = lab.net().cuda(), BatchedEngine(), FunctionalEngine()
    tasks = on_gpu([*lab.tasks(2, 8), *lab.tasks(1, 12), *lab.tasks(2, 8, seed=3), *lab.tasks(2, 12, seed=4)])
    for count in (7, 7, 7, 1, 1, 1):
        lab.assert_same(step(engine, model, tasks[:count]), step(plain, model, tasks[:count]))
    assert engine.said == "1 task replayed"


class Looks(nn.Module):
    """A network that looks at its numbers while it computes, which a recording cannot."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images)
        return logits * (2.0 if float(logits.detach().sum()) > 0 else 1.0)


def test_what_cannot_be_recorded_is_computed_otherwise(lab: SimpleNamespace):
    model, engine, plain = Looks(lab.net()).cuda(), BatchedEngine(), FunctionalEngine()
    tasks = on_gpu(lab.tasks(2))
    for _ in range(4):
        lab.assert_same(step(engine, model, tasks), step(plain, model, tasks))
    assert engine.said.startswith("task by task")
    well = lab.net().cuda()
    for _ in range(4):  # the GPU is none the worse for it
        lab.assert_same(step(engine, well, tasks), step(plain, well, tasks))
    assert engine.said.startswith("2 tasks replayed")


def test_inner_rates_that_are_learned_are_not_recorded(lab: SimpleNamespace):
    model, engine, plain = lab.net().cuda(), BatchedEngine(), FunctionalEngine()
    tasks = on_gpu(lab.tasks(2))
    rates = {name: torch.rand_like(one).mul(0.1).requires_grad_() for name, one in model.named_parameters()}
    for _ in range(3):
        found = []
        for one in (engine, plain):
            model.zero_grad(set_to_none=True)
            for rate in rates.values():
                rate.grad = None
            one.step(model, tasks, F.cross_entropy, InnerLoop(rates))
            found.append({name: rate.grad.clone() for name, rate in rates.items()} | lab.gradients(model))
        lab.assert_same({**found[0]}, {**found[1]})
    assert engine.said == "2 tasks in one pass"
