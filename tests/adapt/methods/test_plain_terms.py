"""What the plain methods add to the loss, against closed forms, hand-worked cases and torch's own functions."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from metaseg.adapt.methods import find_method
from metaseg.adapt.methods.penalties import Ewc, diagonal_fisher, distillation, draw_classes
from metaseg.adapt.methods.registry import resolve_defaults
from metaseg.adapt.methods.replay import Replay, replayed_slices
from metaseg.adapt.setup import AdaptationSetup, prepare_setup
from metaseg.cases.labels import SUBREGIONS
from metaseg.config.io import load_config
from metaseg.config.segmentation import NaivetuneConfig
from metaseg.errors import UsageError
from metaseg.models import build_segmenter
from metaseg.models.device import make_fabric
from metaseg.models.parts import head_modules

CLASSES = SUBREGIONS.num_classes
UNET: dict[str, Any] = {"channels": (4, 8), "strides": (2,)}


def small_unet() -> nn.Module:
    return build_segmenter("unet", 2, CLASSES, seed=0, **UNET)


def batch(size: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 2, 32, 32, generator=generator)
    return images, torch.randint(CLASSES, (size, 32, 32), generator=generator)


def build(method: str, **settings: Any) -> Any:
    config = resolve_defaults(NaivetuneConfig(method=method, **settings))
    setup = SimpleNamespace(space=SUBREGIONS)
    return find_method(method).build(config, setup, make_fabric("cpu", "32-true"))


def move(model: nn.Module, by: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)


class TestFisher:
    def test_of_one_pixel_it_is_the_closed_form(self) -> None:
        # Softmax regression: F(W_ki) = x_i^2 p_k (1 - p_k), F(b_k) = p_k (1 - p_k).
        model = nn.Conv2d(2, 3, 1)
        pixel = torch.tensor([1.5, -0.5])
        p = torch.softmax(model(pixel[None, :, None, None]).flatten(), 0).detach()
        weight, bias = diagonal_fisher(model, [pixel[:, None, None]] * 2000, seed=0)
        expected = p * (1 - p)
        torch.testing.assert_close(bias, expected, rtol=0.1, atol=0)
        torch.testing.assert_close(weight[:, :, 0, 0], expected[:, None] * pixel.square(), rtol=0.1, atol=0)

    def test_of_many_pixels_it_is_that_of_one_whatever_the_size(self) -> None:
        # Pixels are drawn each for itself: their cross terms vanish, and the sum over pixels grows with their number.
        model = nn.Conv2d(1, 3, 1)
        p = torch.softmax(model(torch.ones(1, 1, 1, 1)).flatten(), 0).detach()
        for size in (2, 6):
            _, bias = diagonal_fisher(model, [torch.ones(1, size, size)] * 1500, seed=size)
            torch.testing.assert_close(bias, p * (1 - p), rtol=0.15, atol=0)

    def test_it_is_the_mean_of_squared_per_sample_gradients(self) -> None:
        model, (images, _) = small_unet(), batch(3)
        drawn = torch.stack(
            [draw_classes(model(image[None]).detach(), [5, 25, n])[0] for n, image in enumerate(images)]
        )
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

        def log_likelihood(values: dict[str, torch.Tensor], image: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
            logits = functional_call(model, values, (image[None],))
            return F.log_softmax(logits, dim=1)[0].gather(0, classes[None]).sum()

        each = vmap(grad(log_likelihood), in_dims=(None, 0, 0))(parameters, images, drawn)
        fisher = diagonal_fisher(model, images, seed=5)
        wrong = 0
        for name, ours in zip(parameters, fisher, strict=True):
            expected = each[name].square().mean(0) / (32 * 32)
            torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-8)
            wrong += int(torch.allclose(ours, each[name].mean(0).square() / (32 * 32), rtol=1e-2, atol=1e-9))
        assert wrong < len(fisher) / 2

    def test_model_is_left_as_it_was(self) -> None:
        model = build_segmenter("monai-fcn", 2, CLASSES, seed=0).train()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        diagonal_fisher(model, batch(1)[0], seed=0)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert model.training
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_classes_come_as_often_as_predicted_and_by_the_seed(self) -> None:
        logits = torch.tensor([0.0, 1.0, -1.0, 0.5])[None, :, None, None].expand(1, 4, 200, 200)
        drawn = draw_classes(logits, [1])
        assert drawn.shape == (1, 200, 200)
        share = torch.bincount(drawn.flatten(), minlength=4) / drawn.numel()
        torch.testing.assert_close(share, torch.softmax(logits[0, :, 0, 0], 0), rtol=0, atol=0.01)
        assert torch.equal(drawn, draw_classes(logits, [1]))
        assert not torch.equal(drawn, draw_classes(logits, [2]))

    def test_no_slices_are_no_information(self) -> None:
        with pytest.raises(ValueError, match="no slice"):
            diagonal_fisher(nn.Conv2d(1, 2, 1), [], seed=0)


class TestPenalties:
    def test_l2_sp_is_its_formula(self) -> None:
        method, model, (images, classes) = build("l2-sp", l2_sp_alpha=0.5, l2_sp_beta=0.25), small_unet(), batch()
        assert method.prepare(model) == 0
        head = [parameter for module in head_modules(model) for parameter in module.parameters()]
        body = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in head)
        move(model, 0.1)
        expected = (
            method.loss(model(images), classes) + 0.25 * 0.01 * body + 0.125 * sum(p.square().sum() for p in head)
        )
        torch.testing.assert_close(method.objective(model, images, classes), expected)

    def test_ewc_is_its_formula(self, monkeypatch: pytest.MonkeyPatch) -> None:
        method, model, (images, classes) = build("ewc", ewc_lambda=50.0), small_unet(), batch()
        monkeypatch.setattr(Ewc, "slices", lambda self: list(images))
        assert method.prepare(model) == 2
        fisher = diagonal_fisher(model, images, seed=0)
        assert sum(float(weight.sum()) for weight in fisher) > 0
        torch.testing.assert_close(method.objective(model, images, classes), method.loss(model(images), classes))
        move(model, 0.1)
        expected = method.loss(model(images), classes) + 25.0 * 0.01 * sum(weight.sum() for weight in fisher)
        torch.testing.assert_close(method.objective(model, images, classes), expected)

    def test_lwf_keeps_the_old_networks_predictions(self) -> None:
        method, model, (images, classes) = build("lwf", lwf_lambda=3.0, lwf_temperature=2.0), small_unet(), batch()
        assert method.prepare(model) == 0
        old = model(images).detach()
        torch.testing.assert_close(method.objective(model, images, classes), method.loss(old, classes))
        move(model, 0.1)
        new = model(images)
        divergence = F.kl_div(
            F.log_softmax(new / 2, 1), F.log_softmax(old / 2, 1), log_target=True, reduction="none"
        ).sum(1)
        expected = method.loss(new, classes) + 3.0 * 4.0 * divergence.mean()
        torch.testing.assert_close(method.objective(model, images, classes), expected)

    def test_distillation_of_a_case_by_hand(self) -> None:
        # At temperature 2: (1/2, 1/2) against (3/4, 1/4); KL = 1/2 ln 2/3 + 1/2 ln 2.
        old, new = torch.zeros(1, 2, 1, 1), torch.tensor([2 * math.log(3), 0.0])[None, :, None, None]
        assert float(distillation(new, old, 2.0)) == pytest.approx(2 * math.log(4 / 3))
        assert float(distillation(old, old, 2.0)) == 0


@pytest.mark.parametrize("method", ["naive", "head-only", "freeze-encoder", "lora"])
def test_statistics_of_batch_normalisation_stay_where_layers_are_frozen(method: str) -> None:
    frozen = {
        "naive": (),
        "head-only": ("",),
        "freeze-encoder": ("net.bn0", "net.layer", "net.init_proj"),
        "lora": ("",),
    }
    way, (images, classes) = build(method), batch()
    model = way.network(build_segmenter("monai-fcn", 2, CLASSES, seed=0))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    way.objective(model, images, classes).backward()
    for name, buffer in model.named_buffers():
        # Not one of the three that a layer keeps moves, or all do.
        assert torch.equal(buffer, before[name]) is name.startswith(frozen[method]), name


@pytest.fixture(scope="module")
def parts(pretrained: dict[str, Any]) -> tuple[NaivetuneConfig, AdaptationSetup]:
    given = {name: str(value) for name, value in pretrained.items()}
    settings = {"method": "replay", "shots": 2, "slices": 6, "batch_size": 5, "replay_fraction": 0.4}
    config = resolve_defaults(load_config(NaivetuneConfig, None, given | settings))
    return config, prepare_setup(config, draws_from_source=True)


class TestReplay:
    @pytest.mark.parametrize(
        ("size", "share", "count"),
        [(4, 0.25, 1), (4, 0.5, 2), (4, 0.01, 1), (4, 0.99, 3), (8, 0.3125, 3), (2, 0.1, 1), (4, 0.0, 0), (1, 0.0, 0)],
    )
    def test_share_is_rounded_and_leaves_room_for_both(self, size: int, share: float, count: int) -> None:
        assert replayed_slices(size, share) == count

    def test_one_slice_cannot_be_shared(self) -> None:
        with pytest.raises(UsageError, match="no room"):
            replayed_slices(1, 0.5)

    def test_batches_hold_the_slices_that_are_logged(self, parts: tuple[NaivetuneConfig, AdaptationSetup]) -> None:
        config, setup = parts
        slices = Replay(config, setup, make_fabric("cpu", "32-true")).batches(12)
        known = {case.id: case for case in [*setup.source_cases, *(shot.case for shot in setup.shots)]}
        memory, drawn = {case.id for case in setup.source_cases}, []
        for step in range(12):
            images, labels = slices.draw(step)
            chosen = slices.selections(step, 5 * (step + 1))
            assert [row.task for row in chosen] == ["plain"] * 3 + ["source"] * 2
            for row, image, label in zip(chosen, images, labels, strict=True):
                assert (row.task == "source") is (row.case in memory)
                case = known[row.case]
                index = row.slice - case.native_slice(0)
                assert case.areas()[index, 1:].sum() > 0
                assert int((label > 0).sum()) == case.areas()[index, 1:].sum()
                assert float(image.sum()) == pytest.approx(float(case.images([index]).sum()), rel=1e-3, abs=0.1)
                drawn += [(row.case, row.slice)] if row.task == "source" else []
        # As for the target, no slice comes twice before all have come once.
        assert len(set(drawn)) == min(
            len(drawn), sum((case.areas()[:, 1:].sum(1) > 0).sum() for case in setup.source_cases)
        )

    def test_augmentation_changes_both_parts_alike_every_time(
        self, parts: tuple[NaivetuneConfig, AdaptationSetup]
    ) -> None:
        config, setup = parts
        fabric = make_fabric("cpu", "32-true")
        plain = Replay(config, setup, fabric).batches(4)
        values = {**vars(config), "augment": "full"}
        one, other = (Replay(NaivetuneConfig(**values), setup, fabric).batches(4) for _ in range(2))
        for step in range(4):
            assert torch.equal(one.draw(step)[0], other.draw(step)[0])
            # NaN is in every row, so that rows are compared by what names the slice.
            assert [(row.case, row.slice) for row in one.selections(step, 1)] == [
                (row.case, row.slice) for row in plain.selections(step, 1)
            ]
            changed = (one.draw(step)[0] != plain.draw(step)[0]).flatten(1).any(1)
            assert changed.all()

    def test_fisher_slices_are_distinct_and_bear_tumour(self, parts: tuple[NaivetuneConfig, AdaptationSetup]) -> None:
        config, setup = parts
        few = Ewc(NaivetuneConfig(**{**vars(config), "fisher_slices": 5}), setup, make_fabric("cpu", "32-true"))
        many = Ewc(NaivetuneConfig(**{**vars(config), "fisher_slices": 500}), setup, make_fabric("cpu", "32-true"))
        bearing = [
            torch.from_numpy(case.images([index])[0])
            for case in setup.source_cases
            for index in np.flatnonzero(case.areas()[:, 1:].sum(1))
        ]
        assert len(many.slices()) == len(bearing)
        assert len(few.slices()) == 5
        for taken in (few.slices(), many.slices()):
            places = [[n for n, image in enumerate(bearing) if torch.equal(image, one)] for one in taken]
            assert all(len(place) == 1 for place in places)
            assert len({place[0] for place in places}) == len(taken)
        assert all(torch.equal(a, b) for a, b in zip(few.slices(), few.slices(), strict=True))
