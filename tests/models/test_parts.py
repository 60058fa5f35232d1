from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from metaseg.errors import UsageError
from metaseg.models import SEGMENTERS, build_segmenter
from metaseg.models.parts import encoder_modules, feature_modules, freeze, head_modules, hold_still, modules_beside

CLASSES = 5
CASES: list[tuple[str, dict[str, Any]]] = [
    ("unet", {"channels": (4, 8, 8, 16), "strides": (2, 2, 2)}),
    ("unet", {"channels": (4, 8), "strides": (2,), "num_res_units": 0}),
    ("basic-unet", {"features": (4, 4, 4, 4, 8, 4)}),
    ("dynunet", {"filters": (4, 4, 8)}),
    ("dynunet", {"filters": (4, 4, 8), "res_block": True}),
    ("segresnet", {"init_filters": 4, "blocks_down": (1, 1, 1)}),
    ("monai-fcn", {}),
    ("monai-fcn", {"upsample_mode": "transpose"}),
    ("fcn-vgg16", {}),
    ("fcn-vgg16", {"fc_channels": 8}),
]
BOTTLENECK = {
    "unet": lambda net: innermost(net.model),
    "basic-unet": lambda net: net.down_4,
    "dynunet": lambda net: net.bottleneck,
    "segresnet": lambda net: net.down_layers[-1],
    "monai-fcn": lambda net: net.layer4,
    "fcn-vgg16": lambda net: net.fc7 or net.features[-1],
}


def innermost(block: nn.Sequential) -> nn.Module:
    below: nn.Module = block[1].submodule
    return innermost(below) if hasattr(below, "__getitem__") and hasattr(below[1], "submodule") else below


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{len(case[1])}{list(case[1].values())[-1:]}")
def network(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    name, options = request.param
    return name, build_segmenter(name, 2, CLASSES, seed=0, **options)


def ids(modules: tuple[nn.Module, ...]) -> set[int]:
    return {id(parameter) for module in modules for parameter in module.parameters()}


def test_every_registered_network_is_tried() -> None:
    assert {name for name, _ in CASES} == set(SEGMENTERS.names())


def test_encoder_is_all_that_the_deepest_features_are_made_of(network: tuple[str, nn.Module]) -> None:
    # Not by name: the parameters that the bottleneck's output depends on are the encoder's, bottleneck included.
    name, model = network
    seen: list[torch.Tensor] = []
    hook = BOTTLENECK[name](model.net).register_forward_hook(lambda module, given, made: seen.append(made))
    model.eval()(torch.randn(1, 2, 32, 32))
    hook.remove()
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(seen[-1].square().sum(), parameters, allow_unused=True)
    above = {id(p) for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    assert ids(encoder_modules(model)) == above
    assert ids((BOTTLENECK[name](model.net),)) <= ids(encoder_modules(model))


def test_features_pass_on_the_way_to_the_deepest(network: tuple[str, nn.Module]) -> None:
    name, model = network
    passed: list[tuple[nn.Module, torch.Size]] = []
    modules = feature_modules(model)
    watched = dict.fromkeys((*modules, BOTTLENECK[name](model.net)))
    hooks = [part.register_forward_hook(lambda own, _, made: passed.append((own, made.shape))) for part in watched]
    model.eval()(torch.randn(1, 2, 32, 32))
    for hook in hooks:
        hook.remove()
    found = [part for part, _ in passed if part in modules]
    assert list(dict.fromkeys(found)) == list(modules)
    sizes = [shape[-1] for part, shape in passed if part in modules]
    assert sizes == sorted(sizes, reverse=True)


def test_head_goes_from_features_to_classes_and_is_no_encoder(network: tuple[str, nn.Module]) -> None:
    _, model = network
    head = head_modules(model)
    convolutions = [layer for top in head for layer in top.modules() if isinstance(layer, _ConvNd)]
    assert {layer.out_channels for layer in convolutions} == {CLASSES}
    for top in head:
        first = next(layer for layer in top.modules() if isinstance(layer, _ConvNd))
        assert first.in_channels != CLASSES
    # Every convolution from other channels to the classes is head: there is no second way around it.
    every = [layer for layer in model.modules() if isinstance(layer, _ConvNd)]
    classifying = [layer for layer in every if layer.out_channels == CLASSES != layer.in_channels]
    assert {id(layer) for layer in classifying} <= {id(layer) for layer in convolutions}
    assert ids(head).isdisjoint(ids(encoder_modules(model)))


def test_part_and_rest_are_the_whole_without_overlap(network: tuple[str, nn.Module]) -> None:
    _, model = network
    for part in (head_modules(model), encoder_modules(model)):
        rest = modules_beside(model, part)
        assert ids(part) | ids(rest) == {id(parameter) for parameter in model.parameters()}
        assert ids(part).isdisjoint(ids(rest))
        assert ids(part)
        assert ids(rest)


@pytest.mark.parametrize("part_of", [head_modules, encoder_modules])
def test_what_is_frozen_stays_and_the_rest_moves(network: tuple[str, nn.Module], part_of: Any) -> None:
    _, model = network
    frozen = modules_beside(model, head_modules(model)) if part_of is head_modules else encoder_modules(model)
    model.requires_grad_(True)
    freeze(frozen)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    hold_still(frozen)
    torch.optim.SGD(learning, lr=0.0)  # raises if nothing is left to learn
    model(torch.randn(2, 2, 32, 32)).square().mean().backward()
    with torch.no_grad():
        for parameter in learning:
            assert parameter.grad is not None
            parameter.add_(1.0)
    still = {id(tensor) for top in frozen for tensor in (*top.parameters(), *top.buffers())}
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert torch.equal(before[name], tensor) is (id(tensor) in still), name
    for parameter in model.parameters():
        assert (parameter.grad is not None) is parameter.requires_grad
        parameter.grad = None
    model.load_state_dict(before)


def test_another_network_is_refused() -> None:
    with pytest.raises(UsageError, match="Sequential are its encoder"):
        head_modules(nn.Sequential(nn.Conv2d(1, 2, 1)))
    with pytest.raises(UsageError, match="encoder and its head"):
        encoder_modules(nn.Conv2d(1, 2, 1))
