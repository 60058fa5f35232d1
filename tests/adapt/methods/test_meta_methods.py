"""The meta-learning methods: against learn2learn, against each other where they must agree, and end to end."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import metaseg
from metaseg.adapt.engines import InnerLoop, TaskBatch, build_engine
from metaseg.adapt.metatune import MetaTuning
from metaseg.adapt.methods import find_method, method_names
from metaseg.adapt.methods.maml import UNIT, Maml
from metaseg.adapt.methods.registry import resolve_defaults
from metaseg.config.segmentation import MetatuneConfig
from metaseg.errors import RunError, UsageError
from metaseg.models.device import make_fabric
from metaseg.models.segmenters import build_segmenter
from metaseg.runs.networks import load_network
from metaseg.runs.training_state import load_training_state

CLASSES = 3
RATE = 0.3
META = ("anil", "fomaml", "maml", "meta-sgd", "reptile")


def tiny_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, CLASSES, 3, padding=1)).double()


def tiny_unet() -> nn.Module:
    return build_segmenter("unet", 2, CLASSES, seed=0, channels=[4, 8], strides=[2], num_res_units=1).double()


def make_tasks(support: int = 1, query: int = 1) -> list[TaskBatch]:
    generator = torch.Generator().manual_seed(1)

    def slices(count: int) -> tuple[Tensor, Tensor]:
        images = torch.randn(count, 2, 8, 8, dtype=torch.float64, generator=generator)
        return images, torch.randint(CLASSES, (count, 8, 8), generator=generator)

    return [TaskBatch(*slices(support), *slices(query)) for _ in range(2)]


def build(name: str, model: nn.Module, **settings: Any) -> Maml:
    config = MetatuneConfig(method=name, **{"inner_learning_rate": RATE, **settings})
    return find_method(name, "meta").build(config, model, make_fabric("cpu", "32-true"))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def outer_gradient(name: str, net=tiny_net, tasks=None, progress: float = 0.5, **settings: Any) -> dict[str, Tensor]:
    model = net()
    build(name, model, **settings).step(model, tasks or make_tasks(), F.cross_entropy, progress)
    return gradients(model)


def sgd_gradient(batches: list[tuple[Tensor, Tensor]], net=tiny_net) -> dict[str, Tensor]:
    model = net()
    sum(F.cross_entropy(model(images), labels) for images, labels in batches).backward()
    return gradients(model)


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    difference = sum(((found[name] - grad) ** 2).sum() for name, grad in expected.items())
    return float((difference / sum((grad**2).sum() for grad in expected.values())) ** 0.5)


def queries(tasks: list[TaskBatch]) -> list[tuple[Tensor, Tensor]]:
    return [(task.query_images, task.query_labels) for task in tasks]


def test_all_of_them_are_registered_and_cite_a_paper():
    assert set(META) <= set(method_names("meta"))
    assert all(find_method(name, "meta").paper for name in META)


class TestMaml:
    def test_without_switches_is_learn2learns_step_to_the_bit(self):
        model, tasks = tiny_net(), make_tasks()
        build_engine("learn2learn").step(model, tasks, F.cross_entropy, InnerLoop(RATE, 2))
        found = outer_gradient("maml", tasks=tasks, inner_steps=2, engine="learn2learn")
        assert all(torch.equal(found[name], grad) for name, grad in gradients(model).items())

    def test_several_query_losses_of_one_inner_step_are_one(self):
        plain, switched = outer_gradient("maml"), outer_gradient("maml", multi_step_loss=True)
        assert all(torch.equal(switched[name], grad) for name, grad in plain.items())

    @pytest.mark.parametrize("name", ["maml", "fomaml"])
    @pytest.mark.parametrize("engine", ["auto", "functional", "batched"])
    def test_the_engine_makes_no_difference(self, name, engine):
        one, other = (outer_gradient(name, engine=each, inner_steps=2) for each in ("learn2learn", engine))
        assert relative_error(one, other) <= 1e-12

    @pytest.mark.parametrize("name", ["anil", "meta-sgd", "maml"])
    @pytest.mark.parametrize("engine", ["auto", "batched", "learn2learn"])
    def test_nor_where_learn2learn_cannot_compute_it(self, name, engine):
        settings = {"inner_steps": 2, "multi_step_loss": True}
        net = tiny_unet if name == "anil" else tiny_net
        one, other = (outer_gradient(name, net, engine=each, **settings) for each in ("functional", engine))
        assert relative_error(one, other) <= 1e-12

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({}, r"meta-step engine: batched \(cpu: .*\)"),
            ({"engine": "learn2learn"}, r"meta-step engine: learn2learn \(as asked for\)"),
            (
                {"engine": "learn2learn", "learnable_inner_rates": True},
                r"meta-step engine: functional \(learn2learn has",
            ),
            ({"engine": "batched", "learnable_inner_rates": True}, r"meta-step engine: batched \(as asked for; .*\)"),
        ],
    )
    def test_the_engine_is_named(self, settings, expected):
        model = tiny_net()
        method = build("maml", model, **settings)
        method.step(model, make_tasks(), F.cross_entropy, 0.5)
        assert re.match(expected, str(method.engine_choice()))

    def test_first_order_comes_nearer_in_proportion_to_the_inner_rate(self):
        def error(rate: float) -> float:
            return relative_error(*(outer_gradient(name, inner_learning_rate=rate) for name in ("fomaml", "maml")))

        errors = [error(rate) for rate in (1e-2, 1e-3, 1e-4)]
        assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
        assert errors[1] / errors[2] == pytest.approx(10, rel=0.01)

    @pytest.mark.parametrize("name", ["maml", "fomaml", "anil", "meta-sgd"])
    def test_an_inner_rate_of_zero_is_sgd_on_the_query_slices(self, name):
        net, tasks = (tiny_unet if name == "anil" else tiny_net), make_tasks(2, 2)
        found = outer_gradient(name, net, tasks, inner_learning_rate=0.0)
        assert relative_error(found, sgd_gradient(queries(tasks), net)) <= 1e-12

    def test_query_weights_begin_alike_and_end_with_the_last_alone(self):
        method = build("maml", tiny_net(), inner_steps=4, multi_step_loss=True)
        assert method.query_weights(0.0) == (0.25, 0.25, 0.25, 0.25)
        assert method.query_weights(1.0) == (0, 0, 0, 1)
        assert method.query_weights(0.5) == (0.125, 0.125, 0.125, 0.625)
        assert build("maml", tiny_net(), inner_steps=3).query_weights(0.0) == (0, 0, 1)

    def test_several_query_losses_are_the_weighed_sum_of_trainings_of_their_length(self):
        found = outer_gradient("maml", inner_steps=3, multi_step_loss=True, progress=0.4)
        parts = [outer_gradient("maml", inner_steps=steps) for steps in (1, 2, 3)]
        expected = {n: 0.2 * parts[0][n] + 0.2 * parts[1][n] + 0.6 * parts[2][n] for n in found}
        assert relative_error(found, expected) <= 1e-12

    def test_the_order_of_the_derivative_rises_at_its_share(self):
        first, second = outer_gradient("fomaml"), outer_gradient("maml")
        early, late = (outer_gradient("maml", first_order_fraction=0.5, progress=share) for share in (0.49, 0.5))
        assert all(torch.equal(early[name], grad) for name, grad in first.items())
        assert all(torch.equal(late[name], grad) for name, grad in second.items())
        assert relative_error(first, second) > 1e-3


class TestLearnableRates:
    @pytest.mark.parametrize("name", ["maml", "fomaml"])
    def test_layer_rates_begin_as_the_fixed_one(self, name):
        model = tiny_net()
        method = build(name, model, learnable_inner_rates=True, inner_steps=3)
        method.step(model, make_tasks(), F.cross_entropy, 0.5)
        assert relative_error(gradients(model), outer_gradient(name, inner_steps=3)) <= 1e-12
        assert [value.shape for value in method.parameters()] == [(3,)] * 4
        assert all((value.grad != 0).all() for value in method.parameters())

    def test_the_gradient_of_a_layer_rate_is_its_finite_difference(self):
        model, tasks = tiny_net(), make_tasks(2, 2)
        method = build("maml", model, learnable_inner_rates=True, inner_steps=2)
        method.step(model, tasks, F.cross_entropy, 0.5)
        value, step, losses = method.rates.values["2.weight"], 1e-6, []
        gradient = value.grad[1].item()
        for moved in (1 / UNIT + step, 1 / UNIT - step):
            with torch.no_grad():
                value[1] = moved
            losses.append(method.step(model, tasks, F.cross_entropy, 0.5).query_losses.sum().item())
        assert gradient == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-6)

    def test_an_adam_step_at_the_default_rate_moves_a_rate_by_a_hundredth(self):
        model = tiny_net()
        method = build("meta-sgd", model)
        method.step(model, make_tasks(), F.cross_entropy, 0.0)
        torch.optim.Adam(method.parameters(), lr=resolve_defaults(MetatuneConfig()).outer_learning_rate).step()
        moved = torch.cat([(rate / RATE - 1).abs().flatten() for rate in method.rates.tables()[0].values()])
        assert moved.max() < 0.01
        assert moved.median() > 0.009

    def test_rates_are_saved_and_fit_only_their_own_settings(self):
        method = build("meta-sgd", tiny_net())
        with torch.no_grad():
            method.parameters()[0].uniform_(-1, 1)
        other = build("meta-sgd", tiny_net())
        other.load_state_dict(method.state_dict())
        assert all(torch.equal(*pair) for pair in zip(method.parameters(), other.parameters(), strict=True))
        with pytest.raises(RunError, match="inner rates do not fit"):
            build("maml", tiny_net(), learnable_inner_rates=True).load_state_dict(method.state_dict())
        assert build("maml", tiny_net()).state_dict() == {}


class TestMetaSgd:
    @pytest.mark.parametrize("first_order", [False, True])
    def test_gradients_of_weights_and_rates_are_learn2learns(self, first_order):
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            from learn2learn.algorithms import MetaSGD
        model, tasks = tiny_net(), make_tasks(2, 2)
        method = build("meta-sgd", model, inner_steps=2, first_order=first_order)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for value in method.parameters():
                value.copy_(torch.rand(value.shape, dtype=value.dtype, generator=generator) / UNIT - 0.2 / UNIT)
        theirs = tiny_net()
        meta = MetaSGD(theirs, first_order=first_order)
        with torch.no_grad():
            for rate, own in zip(meta.lrs, method.rates.tables()[0].values(), strict=True):
                rate.copy_(own)
        result = method.step(model, tasks, F.cross_entropy, 0.5)
        for task, loss in zip(tasks, result.query_losses, strict=True):
            learner = meta.clone()
            for _ in range(2):
                learner.adapt(F.cross_entropy(learner(task.support_images), task.support_labels))
            query = F.cross_entropy(learner(task.query_images), task.query_labels)
            torch.testing.assert_close(query.detach(), loss)
            query.backward()
        assert relative_error(gradients(model), gradients(theirs)) <= 1e-12
        found = {str(number): value.grad for number, value in enumerate(method.parameters())}
        expected = {str(number): UNIT * RATE * rate.grad for number, rate in enumerate(meta.lrs)}
        assert relative_error(found, expected) <= 1e-12

    def test_equal_rates_are_maml(self):
        found = outer_gradient("meta-sgd", inner_steps=2)
        assert relative_error(found, outer_gradient("maml", inner_steps=2)) <= 1e-12


class TestAnil:
    def test_the_inner_loop_leaves_the_body_and_the_outer_loop_does_not(self):
        model, tasks = tiny_unet(), make_tasks()
        method = build("anil", model, inner_steps=2)
        body, seen = model.net.model[0], []
        hook = model.register_forward_hook(
            lambda net, *_: seen.append({name: p.detach().clone() for name, p in net.named_parameters()})
        )
        method.step(model, tasks[:1], F.cross_entropy, 0.5)
        hook.remove()
        moved = [{name for name in seen[0] if not torch.equal(seen[0][name], step[name])} for step in seen]
        head = {f"net.model.2.{name}" for name, _ in model.net.model[2].named_parameters()}
        assert [len(seen), moved[0]] == [3, set()]
        assert moved[1] <= head
        assert moved[1] >= {name for name in head if name.endswith("conv.weight")}
        assert moved[2] <= head
        assert all((p.grad != 0).any() for p in body.parameters() if p.grad is not None)
        assert gradients(body)

    def test_a_frozen_body_makes_it_maml(self):
        def frozen() -> nn.Module:
            net = tiny_unet().requires_grad_(False)
            net.net.model[2].requires_grad_(True)
            return net

        assert relative_error(outer_gradient("anil", frozen), outer_gradient("maml", frozen)) <= 1e-12

    def test_a_frozen_head_is_refused(self):
        model = tiny_unet()
        model.net.model[2].requires_grad_(False)
        with pytest.raises(UsageError, match="head is frozen"):
            build("anil", model)


class TestReptile:
    @pytest.mark.parametrize(("support", "query"), [(1, 1), (3, 2)])
    def test_one_inner_step_is_sgd_on_the_same_slices(self, support, query):
        tasks = make_tasks(support, query)
        joint = [
            (torch.cat([task.support_images, task.query_images]), torch.cat([task.support_labels, task.query_labels]))
            for task in tasks
        ]
        found = outer_gradient("reptile", tasks=tasks)
        assert relative_error(found, sgd_gradient(joint)) <= 1e-14

    def test_one_inner_step_on_slices_of_two_sizes_weighs_them_by_their_number(self):
        task = make_tasks(3, 1)[0]
        small = TaskBatch(
            task.support_images, task.support_labels, task.query_images[..., :6], task.query_labels[..., :6]
        )
        support = sgd_gradient([(small.support_images, small.support_labels)])
        query = sgd_gradient(queries([small]))
        expected = {name: 0.75 * support[name] + 0.25 * query[name] for name in support}
        assert relative_error(outer_gradient("reptile", tasks=[small]), expected) <= 1e-12

    @pytest.mark.parametrize("steps", [2, 3])
    def test_points_to_where_training_in_turn_ends(self, steps):
        tasks, expected, losses = make_tasks(2, 1), {}, []
        for task in tasks:
            trained = tiny_net()
            optimizer = torch.optim.SGD(trained.parameters(), lr=RATE)
            for step in range(steps):
                support, query = (task.support_images, task.support_labels), (task.query_images, task.query_labels)
                images, labels = query if step % 2 else support
                optimizer.zero_grad()
                loss = F.cross_entropy(trained(images), labels)
                loss.backward()
                optimizer.step()
            losses.append(loss.item())
            for (name, start), end in zip(tiny_net().named_parameters(), trained.parameters(), strict=True):
                expected[name] = expected.get(name, 0) + ((start - end) / (RATE * steps)).detach()
        model = tiny_net()
        result = build("reptile", model, inner_steps=steps).step(model, tasks, F.cross_entropy, 0.5)
        assert relative_error(gradients(model), expected) <= 1e-12
        assert result.support_losses.shape == (2, steps)
        assert result.query_losses.tolist() == pytest.approx(losses)


class Counted:
    """Cross-entropy that counts the slices that go forward and come back."""

    def __init__(self) -> None:
        self.forward = self.backward = 0

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        def back(gradient: Tensor) -> None:
            self.backward += len(gradient)

        self.forward += len(logits)
        logits.register_hook(back)
        return F.cross_entropy(logits, labels)


@pytest.mark.parametrize(
    ("name", "settings", "progress", "expected"),
    [
        ("fomaml", {"inner_steps": 1}, 0.5, 2 * (2 + 3)),
        ("fomaml", {"inner_steps": 3}, 0.5, 2 * (3 * 2 + 3)),
        ("fomaml", {"inner_steps": 3, "engine": "functional"}, 0.5, 2 * (3 * 2 + 3)),
        ("maml", {"inner_steps": 2, "first_order_fraction": 0.6}, 0.5, 2 * (2 * 2 + 3)),
        ("fomaml", {"inner_steps": 3, "multi_step_loss": True}, 0.0, 2 * (3 * 2 + 3 * 3)),
        ("fomaml", {"inner_steps": 3, "multi_step_loss": True}, 1.0, 2 * (3 * 2 + 3)),
        ("fomaml", {"inner_steps": 2, "learnable_inner_rates": True}, 0.5, 2 * (2 * 2 + 3)),
        ("anil", {"inner_steps": 2, "first_order": True}, 0.5, 2 * (2 * 2 + 3)),
        ("meta-sgd", {"inner_steps": 2, "first_order": True}, 0.5, 2 * (2 * 2 + 3)),
        ("reptile", {"inner_steps": 1}, 0.5, 2 * (2 + 3)),
        ("reptile", {"inner_steps": 3}, 0.5, 2 * (2 + 3 + 2)),
    ],
)
def test_cost_is_the_slices_that_go_forward_and_back(name, settings, progress, expected):
    model, tasks, counted = (tiny_unet if name == "anil" else tiny_net)(), make_tasks(2, 3), Counted()
    method = build(name, model, **settings)
    assert method.cost(tasks, progress) == expected
    method.step(model, tasks, counted, progress)
    assert (counted.forward, counted.backward) == (expected, expected)


def test_the_second_derivative_costs_the_inner_steps_once_more():
    tasks = make_tasks(2, 3)
    assert build("maml", tiny_net(), inner_steps=3).cost(tasks, 0.5) == 2 * (2 * 3 * 2 + 3)
    assert build("anil", tiny_unet(), inner_steps=3).cost(tasks, 0.5) == 2 * (2 * 3 * 2 + 3)
    assert build("meta-sgd", tiny_net()).cost(tasks, 0.5) == 2 * (2 * 2 + 3)
    switched = build("maml", tiny_net(), inner_steps=2, multi_step_loss=True, first_order_fraction=0.5)
    assert [switched.cost(tasks, share) for share in (0.4, 0.6)] == [2 * (2 * 2 + 2 * 3), 2 * (2 * 2 * 2 + 2 * 3)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "reptile", "learnable_inner_rates": True}, "--learnable-inner-rates with the method reptile"),
        (
            {"method": "reptile", "multi_step_loss": True, "first_order_fraction": 0.1},
            "and --first-order-fraction",
        ),
        ({"method": "meta-sgd", "learnable_inner_rates": True}, "learns a rate for every element already"),
        ({"method": "fomaml", "first_order_fraction": 0.5}, "first order always"),
        ({"method": "anil", "first_order": True, "first_order_fraction": 0.5}, "for a part of the budget"),
    ],
)
def test_contradictions_are_refused_before_any_data_are_read(tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        metaseg.metatune(from_run=tmp_path / "no run", data=tmp_path / "no data", out=tmp_path / "r", **settings)
    assert not (tmp_path / "r").exists()


SMALL = {"shots": 2, "slices": 6, "budget": 24, "marks": 1, "watch_cases": 1}


def weights(run) -> Tensor:
    return torch.cat([p.flatten() for p in load_network(run, "last").model.parameters()])


@pytest.mark.parametrize(
    "settings",
    [{"method": "anil"}, {"method": "reptile"}, {"method": "fomaml", "engine": "functional"}],
    ids=lambda settings: settings["method"],
)
def test_methods_run_to_their_end(pretrained, tmp_path, settings):
    result = metaseg.metatune(**pretrained, **SMALL, **settings, out=tmp_path / "r")
    assert result.spent >= 24
    assert not torch.equal(weights(result.run), weights(pretrained["from_run"]))
    logged = [row for row in csv.DictReader((result.run / "metrics.csv").open()) if row["name"] == "train/query_loss"]
    assert logged
    assert torch.tensor([float(row["value"]) for row in logged]).isfinite().all()


MAML_PLUS_PLUS = {
    "inner_steps": 2,
    "multi_step_loss": True,
    "first_order_fraction": 0.5,
    "learnable_inner_rates": True,
    "outer_schedule": "cosine",
}


@pytest.mark.parametrize(
    "settings",
    [{"method": "meta-sgd", "meta_batch": "patient", "replay": "added"}, {"method": "maml", **MAML_PLUS_PLUS}],
    ids=["meta-sgd of patients", "maml++"],
)
def test_a_run_cut_off_in_the_middle_ends_with_the_same_bits(pretrained, tmp_path, monkeypatch, settings):
    options = {**pretrained, **SMALL, "budget": 40, "order": "passive", **settings}
    whole = metaseg.metatune(**options, out=tmp_path / "whole").run
    visit = MetaTuning.visit

    def cut_off(tuning: MetaTuning) -> None:
        if tuning.state.visit == 2:
            raise KeyboardInterrupt
        visit(tuning)

    with monkeypatch.context() as patch:
        patch.setattr(MetaTuning, "visit", cut_off)
        with pytest.raises(KeyboardInterrupt):
            metaseg.metatune(**options, out=tmp_path / "cut")
    cut = metaseg.metatune(**options, out=tmp_path / "cut", resume=True).run
    assert torch.equal(weights(cut), weights(whole))
    assert (cut / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    states = [load_training_state(run / "checkpoints" / "last.state.pt") for run in (cut, whole)]
    rates = [state["method"]["inner_rates"] for state in states]
    assert all(torch.equal(rates[0][name], value) for name, value in rates[1].items())
    assert any((value != 1 / UNIT).any() for value in rates[0].values())
