from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from metaseg.errors import UsageError
from metaseg.models import build_segmenter
from metaseg.models.parts import (
    AdaptedConvolution,
    adapter_tensors,
    add_adapters,
    load_adapters,
    merge_adapters,
    remove_adapters,
)

SMALL: dict[str, dict[str, Any]] = {
    "unet": {"channels": (4, 8, 8), "strides": (2, 2)},
    "basic-unet": {"features": (4, 4, 4, 4, 8, 4)},
    "dynunet": {"filters": (4, 4, 8)},
    "segresnet": {"init_filters": 4, "blocks_down": (1, 1, 1)},
    "monai-fcn": {},
    "fcn-vgg16": {},
}


@pytest.fixture(scope="module", params=SMALL)
def network(request: pytest.FixtureRequest) -> nn.Module:
    return build_segmenter(request.param, 2, 3, seed=0, **SMALL[request.param]).eval()


def learned(model: nn.Module) -> nn.Module:
    """As after training: no adapter at zero any more."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture
def adapted(network: nn.Module) -> nn.Module:
    model = copy.deepcopy(network)
    add_adapters(model, rank=2, seed=3)
    return model


def test_start_is_the_source_network_to_the_bit(network: nn.Module, adapted: nn.Module) -> None:
    images = torch.randn(1, 2, 32, 32)
    assert torch.equal(adapted(images), network(images))


def test_adapters_alone_learn_one_on_every_convolution(network: nn.Module, adapted: nn.Module) -> None:
    convolutions = {name: module for name, module in network.named_modules() if isinstance(module, _ConvNd)}
    tensors = adapter_tensors(adapted)
    assert set(tensors) == {f"{name}.{part}" for name in convolutions for part in ("down", "up")}
    learning = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in learning) == sum(tensor.numel() for tensor in tensors.values())
    gradients = torch.autograd.grad(adapted(torch.randn(1, 2, 32, 32)).square().mean(), learning)
    assert any(bool(gradient.ne(0).any()) for gradient in gradients)


def test_removed_they_leave_the_source_network_to_the_bit(network: nn.Module, adapted: nn.Module) -> None:
    expected = adapter_tensors(learned(adapted))
    removed = remove_adapters(adapted)
    assert removed.keys() == expected.keys()
    assert all(torch.equal(removed[name], expected[name]) for name in expected)
    assert list(adapted.state_dict()) == list(network.state_dict())
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in adapted.state_dict().items())
    assert [type(module) for module in adapted.modules()] == [type(module) for module in network.modules()]
    images = torch.randn(1, 2, 32, 32)
    assert torch.equal(adapted(images), network(images))
    assert all(parameter.requires_grad for parameter in adapted.parameters())


def test_merged_they_compute_the_same_in_the_original_architecture(network: nn.Module, adapted: nn.Module) -> None:
    learned(adapted)
    before = copy.deepcopy(adapted.state_dict())
    merged = merge_adapters(adapted)
    images = torch.randn(1, 2, 32, 32)
    assert list(merged.state_dict()) == list(network.state_dict())
    torch.testing.assert_close(merged(images), adapted(images), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(merged(images), network(images), atol=1e-2)
    # The adapted network is untouched and goes on learning.
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapted.state_dict().items())


def test_saved_adapters_and_the_source_network_are_the_adapted_one(network: nn.Module, adapted: nn.Module) -> None:
    tensors = adapter_tensors(learned(adapted))
    again = copy.deepcopy(network)
    load_adapters(again, tensors)
    images = torch.randn(1, 2, 32, 32)
    assert torch.equal(again(images), adapted(images))


@pytest.mark.parametrize(
    "base",
    [
        nn.Conv2d(3, 5, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (1, 7), padding=(0, 3), bias=False, dilation=1),
        nn.Conv2d(3, 5, 3, padding=2, dilation=2, padding_mode="reflect"),
    ],
)
def test_it_is_the_convolution_plus_one_down_to_the_rank_and_one_up(base: nn.Conv2d) -> None:
    layer = AdaptedConvolution(base, 2, torch.Generator().manual_seed(0))
    assert layer.down.shape[0] == 2
    learned(layer)
    down = copy.deepcopy(base)
    down.out_channels, down.bias, down.weight = 2, None, layer.down
    values = torch.randn(2, base.in_channels, 9, 8)
    expected = base(values) + F.conv2d(down(values), layer.up[:, :, None, None])
    torch.testing.assert_close(layer(values), expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_alike(groups: int) -> None:
    base = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=groups)
    layer = learned(AdaptedConvolution(base, 2, torch.Generator().manual_seed(0)))
    values = torch.randn(2, 4, 5, 7)
    lower = F.conv_transpose2d(
        values, layer.down, stride=2, padding=1, output_padding=1, groups=groups
    )  # (batch, groups * rank, ...)
    up = torch.cat([layer.up] * groups)[:, :, None, None]
    torch.testing.assert_close(layer(values), base(values) + F.conv2d(lower, up, groups=groups))


def test_rank_is_no_larger_than_the_kernels_own() -> None:
    layer = AdaptedConvolution(nn.Conv2d(1, 3, 1), 16, torch.Generator())
    assert layer.up.shape == (3, 1)
    assert AdaptedConvolution(nn.ConvTranspose2d(8, 3, 2), 16, torch.Generator()).down.shape == (8, 3, 2, 2)


def test_the_difference_has_the_rank_asked_for() -> None:
    base = nn.Conv2d(6, 8, 3)
    layer = learned(AdaptedConvolution(base, 3, torch.Generator().manual_seed(1)))
    difference = (layer.kernel() - base.weight).flatten(1)
    assert int(torch.linalg.matrix_rank(difference.double(), tol=1e-4)) == 3


def test_seed_decides_the_draw_and_no_global_generator() -> None:
    def drawn(seed: int) -> torch.Tensor:
        model = build_segmenter("unet", 2, 3, seed=0, **SMALL["unet"])
        add_adapters(model, 2, seed)
        return torch.cat([tensor.flatten() for tensor in adapter_tensors(model).values()])

    state = torch.get_rng_state()
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert torch.equal(state, torch.get_rng_state())


def test_wrong_use_is_told() -> None:
    model = build_segmenter("unet", 2, 3, seed=0, **SMALL["unet"])
    other = build_segmenter("basic-unet", 2, 3, seed=0, **SMALL["basic-unet"])
    add_adapters(model, 2, 0)
    with pytest.raises(UsageError, match="adapters already"):
        add_adapters(model, 2, 0)
    with pytest.raises(UsageError, match="another network"):
        load_adapters(other, adapter_tensors(model))
    assert not adapter_tensors(other)
    with pytest.raises(UsageError, match="no convolution"):
        add_adapters(nn.Linear(2, 2), 2, 0)
