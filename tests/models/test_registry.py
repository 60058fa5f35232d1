from __future__ import annotations

import copy
import json
import logging
import re
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from monai.networks.nets import UNet
from torch import nn

from metaseg.errors import DataError, MetasegError, UsageError
from metaseg.models import (
    SEGMENTERS,
    WeightReport,
    build_segmenter,
    count_parameters,
    resolve_options,
)

SMALL: dict[str, dict[str, Any]] = {
    "unet": {"channels": (4, 8, 8), "strides": (2, 2)},
    "basic-unet": {"features": (4, 4, 4, 4, 8, 4)},
    "dynunet": {"filters": (4, 4, 8)},
    "segresnet": {"init_filters": 4, "blocks_down": (1, 1, 1)},
    "monai-fcn": {},
    "fcn-vgg16": {},
}


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    return {name: build_segmenter(name, 2, 3, seed=0, **options) for name, options in SMALL.items()}


def no_download(*args: object, **kwargs: object) -> None:
    raise AssertionError("a network was asked to download something")


def test_the_six_networks_are_there_with_the_default_first() -> None:
    assert SEGMENTERS.names() == ("unet", "basic-unet", "dynunet", "segresnet", "monai-fcn", "fcn-vgg16")
    assert set(SEGMENTERS.names()) == set(SMALL)
    for name in SEGMENTERS.names():
        entry = SEGMENTERS.get(name)
        assert entry.help
        assert re.search(r"\d{4}", entry.citation)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(1, 1), (7, 20), (33, 16)])
def test_every_size_trains_and_gives_logits_of_its_size(
    networks: dict[str, nn.Module], name: str, size: tuple[int, int]
) -> None:
    model = networks[name].train()
    logits = model(torch.randn(1, 2, *size))
    assert logits.shape == (1, 3, *size)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_has_a_gradient_as_a_meta_step_needs(networks: dict[str, nn.Module], name: str) -> None:
    model = networks[name].train()
    loss = model(torch.randn(1, 2, 32, 32)).square().mean()
    # Raises if a parameter does not take part.
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", SMALL)
def test_gradients_can_be_derived_again_as_the_second_order_needs(networks: dict[str, nn.Module], name: str) -> None:
    model = networks[name].train()
    parameters = list(model.parameters())
    loss = model(torch.randn(1, 2, 30, 32)).square().mean()
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    second = torch.autograd.grad(sum(value.square().sum() for value in gradients), parameters, allow_unused=True)
    assert any(value is not None and bool(value.ne(0).any()) for value in second)


@pytest.mark.parametrize("name", [name for name in SMALL if name != "monai-fcn"])
def test_training_and_evaluation_are_one_function_without_batch_normalisation(
    networks: dict[str, nn.Module], name: str
) -> None:
    images = torch.randn(1, 2, 20, 20)
    model = networks[name]
    assert torch.equal(model.train()(images), model.eval()(images))
    assert not list(model.buffers())


@pytest.mark.parametrize("name", SMALL)
def test_double_precision_and_channels_last_give_the_same_logits(networks: dict[str, nn.Module], name: str) -> None:
    model = networks[name].eval()
    images = torch.randn(2, 2, 40, 36)
    with torch.no_grad():
        logits = model(images)
        double = copy.deepcopy(model).double()(images.double())
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)(
            images.contiguous(memory_format=torch.channels_last)
        )
    assert double.dtype == torch.float64
    torch.testing.assert_close(logits.double(), double, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits, last, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_keys_are_the_librarys_own_behind_one_prefix(networks: dict[str, nn.Module], name: str) -> None:
    assert list(networks[name].state_dict()) == [f"net.{key}" for key in networks[name].net.state_dict()]


def test_the_default_is_monais_unet_with_the_settings_promised() -> None:
    theirs = UNet(2, 4, 4, (24, 48, 96, 192, 192), (2, 2, 2, 2), num_res_units=2, norm=("instance", {"affine": True}))
    ours = build_segmenter("unet", 4, 4, seed=0)
    theirs.load_state_dict(ours.net.state_dict())
    images = torch.randn(1, 4, 32, 48)
    # To rounding: ours normalises by another kernel.
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_groups_divide_every_width() -> None:
    model = build_segmenter("segresnet", 1, 2, init_filters=6, blocks_down=(1, 1), seed=0)
    groups = {layer.num_groups for layer in model.modules() if isinstance(layer, nn.GroupNorm)}
    assert groups == {2}


def test_a_seed_repeats_the_weights_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (build_segmenter("unet", 1, 2, seed=seed, **SMALL["unet"]) for seed in (5, 5, 6))
    assert torch.equal(before, torch.get_rng_state())
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


def test_without_a_seed_the_global_generator_is_drawn_from() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        drawn = build_segmenter("unet", 1, 2, **SMALL["unet"])
    seeded = build_segmenter("unet", 1, 2, seed=5, **SMALL["unet"])
    assert all(torch.equal(a, b) for a, b in zip(drawn.parameters(), seeded.parameters(), strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_options_survive_json_and_are_all_listed(name: str) -> None:
    resolved = resolve_options(name, SMALL[name])
    assert json.loads(json.dumps(resolved)) == resolved
    assert resolve_options(name, resolved) == resolved
    assert set(SMALL[name]) <= set(resolved)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet", {"chanels": (4, 8)}, "chanels"),
        ("unet", {"channels": "many"}, "channels"),
        ("unet", {"channels": (4, 8, 16), "strides": (2,)}, "3 channels and 1 strides"),
        ("unet", {"dropout": 1.5}, "dropout"),
        ("dynunet", {"filters": (4, 8)}, "filters"),
        ("monai-fcn", {"upsample_mode": "nearest"}, "upsample_mode"),
        ("transformer", {}, "unknown network 'transformer'"),
    ],
)
def test_wrong_names_and_options_are_usage_errors(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_segmenter(name, 2, 2, **options)


def test_a_network_without_classes_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        build_segmenter("unet", 2, 0)


def test_nothing_is_downloaded_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_download)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", no_download)
    for name in ("monai-fcn", "fcn-vgg16"):
        build_segmenter(name, 1, 2, seed=0)


def test_networks_without_imagenet_weights_say_which_have_them() -> None:
    with pytest.raises(UsageError, match=r"monai-fcn, fcn-vgg16"):
        build_segmenter("unet", 1, 2, "imagenet")


def test_a_failed_download_says_how_to_pass_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(MetasegError, match=r"(?s)no route to host.*vgg16.*--weights FILE"):
        build_segmenter("fcn-vgg16", 1, 2, "imagenet")


def test_resnet_weights_reach_monais_fcn(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng(devices=[]):
        theirs = torchvision.models.resnet50(weights=None)
    asked: dict[str, object] = {}

    def stored(url: str, **kwargs: object) -> dict[str, torch.Tensor]:
        asked.update(kwargs, url=url)
        return theirs.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", stored)
    reports: list[WeightReport] = []
    model = build_segmenter("monai-fcn", 4, 3, "imagenet", seed=0, on_weights=reports.append)
    assert asked["check_hash"]
    assert asked["weights_only"]
    assert "resnet50" in str(asked["url"])
    ours = model.net
    assert torch.equal(ours.bn0.weight, theirs.bn1.weight)
    assert torch.equal(ours.layer4[2].conv3.weight, theirs.layer4[2].conv3.weight)
    encoder = sum(value.numel() for name, value in theirs.named_parameters() if not name.startswith("fc."))
    assert reports[0].fraction == pytest.approx(encoder / count_parameters(model))
    assert not reports[0].unexpected
    assert not reports[0].skipped


def test_weights_from_a_file_are_loaded_and_the_report_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = build_segmenter("unet", 2, 4, seed=1, **SMALL["unet"])
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    with caplog.at_level(logging.INFO, logger="metaseg.models"):
        model = build_segmenter("unet", 2, 4, tmp_path / "weights.pth", seed=2, **SMALL["unet"])
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), model.parameters(), strict=True))
    assert "100.0 % of the parameters" in caplog.text


def test_a_missing_weight_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="weights"):
        build_segmenter("unet", 2, 4, tmp_path / "nothing.pth")


def test_parameters_are_counted_once() -> None:
    layer = nn.Linear(3, 2)
    assert count_parameters(nn.Sequential(layer, layer)) == 8
    assert count_parameters(nn.BatchNorm2d(5)) == 10


@pytest.mark.parametrize("name", SEGMENTERS.names())
def test_the_page_on_models_gives_each_networks_size(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}`"))
    model = build_segmenter(name, 4, 4, seed=0)
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[2] == f"{count_parameters(model):,}"
    assert cells[3] == str(model.stride)
    assert cells[4] == str(model.padded(1))
    for option in resolve_options(name):
        assert f"`{option}`" in page
