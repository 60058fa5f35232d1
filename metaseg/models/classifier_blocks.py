"""The blocks of a classifier's base, from the image to the head, for freezing and unfreezing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import nn
from torchvision.models import VGG, AlexNet, EfficientNet, MobileNetV2, ResNet

from metaseg.models.parts import Modules, modules_beside
from metaseg.models.small_classifiers import LauCNN, PlainCNN

Block = tuple[str, Modules]


def base_blocks(net: nn.Module, head: nn.Module) -> tuple[Block, ...]:
    """The named blocks of a network apart from its head, the first on the image first.

    Every parameter outside of the head is in exactly one of them. Blocks are those of the papers for the named
    families; of any other network, its top-level parts, a row of layers that holds most of the parameters taken apart.

    Args:
        net: The bare network.
        head: Its head, a module within it.
    """
    named = _known(net)
    blocks = named(net) if named is not None else _top_level(net)
    beside = [(name, _without(modules, head)) for name, modules in blocks]
    return tuple((name, modules) for name, modules in _with_strays(net, beside, head) if _parameters(modules))


def _known(net: nn.Module) -> Callable[[Any], Iterable[Block]] | None:
    """The function for the network's family; timm's own are told by name, since importing timm is slow."""
    if type(net).__module__ == "timm.models.xception":
        return _xception
    return next((blocks for kind, blocks in _KINDS.items() if isinstance(net, kind)), None)


def _parameters(modules: Iterable[nn.Module]) -> set[nn.Parameter]:
    return {parameter for module in modules for parameter in module.parameters()}


def _without(modules: Iterable[nn.Module], head: nn.Module) -> Modules:
    """Modules, those that contain the head replaced by their parts beside it."""
    inside = set(head.modules())
    found: list[nn.Module] = []
    for module in modules:
        within = [part for part in module.modules() if part in inside]
        found += modules_beside(module, within) if within else [module]
    return tuple(found)


def _with_strays(net: nn.Module, blocks: Sequence[Block], head: nn.Module) -> list[Block]:
    """The blocks, and parameters that belong to no block (a transformer's tokens) as part of the first."""
    held = _parameters([head, *(module for _, modules in blocks for module in modules)])
    strays = [parameter for parameter in net.parameters() if parameter not in held]
    if not strays:
        return list(blocks)
    (name, modules), *rest = blocks
    return [(name, (*modules, nn.ParameterList(strays))), *rest]


def _alexnet(net: Any) -> list[Block]:
    return [*_split(net.features, nn.Conv2d, before=True), ("fully-connected", tuple(net.classifier))]


def _vgg(net: Any) -> list[Block]:
    return [*_split(net.features, nn.MaxPool2d, before=False), ("fully-connected", tuple(net.classifier))]


def _split(layers: Iterable[nn.Module], kind: type[nn.Module], *, before: bool) -> list[Block]:
    """Layers in groups ``conv1``, ``conv2``, ... that begin before, or end after, each layer of a kind."""
    groups: list[list[nn.Module]] = [[]]
    for layer in layers:
        if before and isinstance(layer, kind) and groups[-1]:
            groups.append([])
        groups[-1].append(layer)
        if not before and isinstance(layer, kind):
            groups.append([])
    return [(f"conv{number}", tuple(group)) for number, group in enumerate(groups, start=1) if group]


def _resnet(net: Any) -> list[Block]:
    stem = ("stem", (net.conv1, net.bn1))
    return [stem, *((name, (getattr(net, name),)) for name in ("layer1", "layer2", "layer3", "layer4"))]


def _mobilenet(net: Any) -> list[Block]:
    """The stem, the seven stages of the paper (equal widths in a row), and the last convolution."""
    stem, *bottlenecks, last = net.features
    stages: list[list[Any]] = []
    for bottleneck in bottlenecks:
        if stages and stages[-1][-1].out_channels == bottleneck.out_channels:
            stages[-1].append(bottleneck)
        else:
            stages.append([bottleneck])
    named = [(f"stage{number}", tuple(stage)) for number, stage in enumerate(stages, start=1)]
    return [("stem", (stem,)), *named, ("last", (last,))]


def _efficientnet(net: Any) -> list[Block]:
    stem, *stages, last = net.features
    named = [(f"stage{number}", (stage,)) for number, stage in enumerate(stages, start=1)]
    return [("stem", (stem,)), *named, ("last", (last,))]


def _xception(net: Any) -> list[Block]:
    """The three flows of the paper, the two convolutions on the image apart."""
    flows = {"entry": range(1, 4), "middle": range(4, 12), "exit": range(12, 13)}
    blocks = {name: tuple(getattr(net, f"block{number}") for number in numbers) for name, numbers in flows.items()}
    blocks["exit"] += (net.conv3, net.bn3, net.conv4, net.bn4)
    return [("stem", (net.conv1, net.bn1, net.conv2, net.bn2)), *blocks.items()]


def _lau(net: Any) -> list[Block]:
    return [*_plain(net), ("dense", (net.dense1, net.dense2))]


def _plain(net: Any) -> list[Block]:
    return [(name, (getattr(net, name),)) for name in ("conv1", "conv2", "conv3")]


def _top_level(net: nn.Module) -> list[Block]:
    """Top-level children; a row of layers that holds more than half of the parameters is replaced by its members."""
    return [(name, (module,)) for name, module in _taken_apart(net, _count(net) / 2)]


def _taken_apart(module: nn.Module, limit: float) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        inner = [child, *child.children()]
        if any(_count(part) > limit and isinstance(part, nn.Sequential | nn.ModuleList) for part in inner):
            yield from ((f"{name}.{below}", part) for below, part in _taken_apart(child, limit))
        else:
            yield name, child


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


_KINDS: dict[type[nn.Module], Callable[[Any], Iterable[Block]]] = {
    AlexNet: _alexnet,
    VGG: _vgg,
    ResNet: _resnet,
    MobileNetV2: _mobilenet,
    EfficientNet: _efficientnet,
    LauCNN: _lau,
    PlainCNN: _plain,
}
