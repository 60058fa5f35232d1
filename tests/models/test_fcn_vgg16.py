from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from metaseg.models import WeightReport, build_segmenter, count_parameters
from metaseg.models.fcn_vgg16 import BilinearUpsample, FCN8s, from_vgg16
from metaseg.models.weights import inflate_input

VGG16_FEATURES = 14_714_688
"""Parameters of VGG-16's 13 convolutions for three channels (Simonyan and Zisserman 2015, configuration D)."""


def vgg16_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """State dict like that of torchvision's VGG-16, its classifier small but for the names."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    state = {f"features.{key}": value for key, value in features.state_dict().items()}
    return {**state, "classifier.6.weight": torch.zeros(1000, 4), "classifier.6.bias": torch.zeros(1000)}


def heads(num_classes: int, deep: int = 512) -> int:
    """Parameters of the three scores and the two learned doublings."""
    return sum((width + 1) * num_classes for width in (deep, 512, 256)) + 2 * num_classes * 4 * 4


@pytest.mark.parametrize(("in_channels", "num_classes"), [(1, 2), (3, 4), (4, 4)])
def test_parameter_count_is_the_closed_form(in_channels: int, num_classes: int) -> None:
    model = build_segmenter("fcn-vgg16", in_channels, num_classes, seed=0)
    assert count_parameters(model) == VGG16_FEATURES + (in_channels - 3) * 64 * 9 + heads(num_classes)


def test_fully_connected_layers_hold_what_vggs_classifier_holds() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.vgg16(weights=None)
        ours = FCN8s(3, 4, fc_channels=4096)
    hidden = count_parameters(theirs) - count_parameters(theirs.classifier[6])
    assert count_parameters(ours) == hidden + heads(4, deep=4096)


def test_fully_connected_layers_as_convolutions_compute_the_same() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        linear = nn.Linear(512 * 7 * 7, 8)
        net = FCN8s(3, 2, fc_channels=8)
        values = torch.randn(1, 512, 7, 7)
    state = {"classifier.0.weight": linear.weight, "classifier.0.bias": linear.bias}
    translated = from_vgg16(state, net)
    assert list(translated) == ["fc6.weight", "fc6.bias"]
    scores = F.conv2d(values, translated["fc6.weight"], translated["fc6.bias"])
    torch.testing.assert_close(scores.flatten(), linear(values.flatten()), rtol=1e-4, atol=1e-5)


def test_fully_connected_layers_take_any_size() -> None:
    model = build_segmenter("fcn-vgg16", 1, 2, seed=0, fc_channels=8, dropout=0.5)
    assert model(torch.randn(1, 1, 5, 40)).shape == (1, 2, 5, 40)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_enlargement_starts_as_bilinear_interpolation(factor: int) -> None:
    scores = torch.randn(2, 3, 5, 4)
    expected = F.interpolate(scores, scale_factor=float(factor), mode="bilinear", align_corners=False)
    torch.testing.assert_close(BilinearUpsample(3, factor)(scores), expected)


def test_features_are_torchvisions_and_skips_start_silent() -> None:
    model = build_segmenter("fcn-vgg16", 3, 2, seed=0).net
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    features.load_state_dict(model.features.state_dict())
    images = torch.randn(1, 3, 64, 32)
    coarse = model.score5(features(images))
    for _ in range(2):
        coarse = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    expected = F.interpolate(coarse, scale_factor=8.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(images), expected)


def test_the_skips_join_at_their_strides() -> None:
    model = build_segmenter("fcn-vgg16", 1, 2, seed=0).net
    images = torch.randn(1, 1, 32, 32)
    nn.init.zeros_(model.score5.weight)
    for score, stride in ((model.score4, 16), (model.score3, 8)):
        nn.init.ones_(score.weight)
        pooled = {16: model.features[:24], 8: model.features[:17]}[stride](images)
        joined = F.interpolate(score(pooled), scale_factor=stride / 8.0, mode="bilinear", align_corners=False)
        expected = F.interpolate(joined, scale_factor=8.0, mode="bilinear", align_corners=False)
        torch.testing.assert_close(model(images), expected)
        nn.init.zeros_(score.weight)


@pytest.mark.parametrize("in_channels", [1, 2, 4])
def test_a_widened_kernel_answers_equal_channels_as_before(in_channels: int) -> None:
    kernel = torch.randn(64, 3, 3, 3, dtype=torch.float64)
    grey = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    widened = inflate_input(kernel, in_channels)
    assert widened.shape == (64, in_channels, 3, 3)
    torch.testing.assert_close(
        F.conv2d(grey.repeat(1, in_channels, 1, 1), widened), F.conv2d(grey.repeat(1, 3, 1, 1), kernel)
    )
    np.testing.assert_allclose(widened[:, 0].numpy(), kernel.numpy().mean(axis=1) * 3 / in_channels)


@pytest.mark.parametrize("in_channels", [3, 4])
def test_imagenet_weights_reach_the_features(monkeypatch: pytest.MonkeyPatch, in_channels: int) -> None:
    state = vgg16_state()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda url, **_: state)
    reports: list[WeightReport] = []
    net = build_segmenter("fcn-vgg16", in_channels, 4, "imagenet", seed=0, on_weights=reports.append).net
    first = state["features.0.weight"]
    expected = first if in_channels == 3 else first.mean(1, keepdim=True).expand(-1, 4, -1, -1) * 3 / 4
    torch.testing.assert_close(net.features[0].weight.data, expected)
    assert torch.equal(net.features[28].weight, state["features.28.weight"])
    assert reports[0].adapted == (() if in_channels == 3 else ("net.features.0.weight",))
    assert len(reports[0].loaded) == 26
    assert "ImageNet weights of VGG-16" in reports[0].origin


def test_torchvisions_file_can_be_given_instead(tmp_path: Path) -> None:
    state = vgg16_state()
    torch.save(state, tmp_path / "vgg16-397923af.pth")
    net = build_segmenter("fcn-vgg16", 2, 4, str(tmp_path / "vgg16-397923af.pth"), seed=0).net
    assert torch.equal(net.features[2].weight, state["features.2.weight"])
