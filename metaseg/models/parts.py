"""The parts of a segmentation network: encoder, head, and what lies outside of a part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from monai.networks.blocks.fcn import MCFCN
from monai.networks.layers.simplelayers import SkipConnection
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet
from torch import nn

from metaseg.errors import UsageError
from metaseg.models.fcn_vgg16 import FCN8s
from metaseg.models.padding import PadToStride

Modules = tuple[nn.Module, ...]


def head_modules(model: nn.Module) -> Modules:
    """The layers that classify: those that turn features into one channel for each class.

    * ``unet``: the topmost layer of the way up, whose transposed convolution goes from features to classes, with the
      residual unit on the classes that may follow it.
    * ``basic-unet``, ``dynunet``, ``segresnet``: the last 1 x 1 convolution.
    * ``monai-fcn``: the global convolutions, which classify at five depths. The refinement of their scores is not head.
    * ``fcn-vgg16``: the scores of the three depths. Their enlargement is not head.

    Args:
        model: A registered network, as :func:`~metaseg.models.registry.build_segmenter` gives it, or the bare one.

    Raises:
        UsageError: The network is of another kind.
    """
    return _parts(model)[1]


def encoder_modules(model: nn.Module) -> Modules:
    """The layers from the image down to the deepest features, those of the bottleneck included.

    Args:
        model: As for :func:`head_modules`.

    Raises:
        UsageError: The network is of another kind.
    """
    return _parts(model)[0]


def modules_beside(model: nn.Module, part: Iterable[nn.Module]) -> Modules:
    """The largest modules of a network that share nothing with a part of it: together, all the rest."""
    inside = {id(module) for top in part for module in top.modules()}
    found: dict[int, nn.Module] = {}

    def visit(module: nn.Module) -> None:
        if id(module) in inside:
            return
        if inside.isdisjoint(map(id, module.modules())):
            found[id(module)] = module
            return
        for child in module.children():
            visit(child)

    visit(model)
    return tuple(found.values())


def freeze(modules: Iterable[nn.Module]) -> None:
    """Stop the parameters of modules from learning; :func:`hold_still` stops what is not a parameter."""
    for module in modules:
        module.requires_grad_(False)


def hold_still(modules: Iterable[nn.Module]) -> None:
    """Put modules in evaluation mode: frozen ones must neither move the statistics of batch normalisation nor drop."""
    for module in modules:
        module.eval()


def _parts(model: nn.Module) -> tuple[Modules, Modules]:
    """Encoder and head."""
    net = model.net if isinstance(model, PadToStride) else model
    for kind, parts in _KINDS.items():
        if isinstance(net, kind):
            return parts(net)
    raise UsageError(
        f"it is not known which layers of the network {type(net).__name__} are its encoder and its head",
        expected="one of " + ", ".join(kind.__name__ for kind in _KINDS),
        remedy="choose a method that treats all layers alike, or name the network's parts in metaseg/models/parts.py",
    )


def _unet(net: Any) -> tuple[Modules, Modules]:
    return tuple(_way_down(net.model)), (net.model[-1],)


def _way_down(block: Any) -> Iterator[nn.Module]:
    """The first layer of each nested level, and the bottleneck, which is no such level."""
    if isinstance(block, nn.Sequential) and len(block) == 3 and isinstance(block[1], SkipConnection):
        yield block[0]
        yield from _way_down(block[1].submodule)
    else:
        yield block


def _basic_unet(net: Any) -> tuple[Modules, Modules]:
    return (net.conv_0, net.down_1, net.down_2, net.down_3, net.down_4), (net.final_conv,)


def _dynunet(net: Any) -> tuple[Modules, Modules]:
    return (net.input_block, *net.downsamples, net.bottleneck), (net.output_block,)


def _segresnet(net: Any) -> tuple[Modules, Modules]:
    return (net.convInit, *net.down_layers), (net.conv_final[-1],)


def _monai_fcn(net: Any) -> tuple[Modules, Modules]:
    encoder = (net.init_proj, net.conv1, net.bn0, net.layer1, net.layer2, net.layer3, net.layer4)
    return encoder, (net.gcn1, net.gcn2, net.gcn3, net.gcn4, net.gcn5)


def _fcn_vgg16(net: Any) -> tuple[Modules, Modules]:
    hidden = tuple(layer for layer in (net.fc6, net.fc7) if layer is not None)
    return (net.features, *hidden), (net.score5, net.score4, net.score3)


_KINDS: dict[type[nn.Module], Callable[[Any], tuple[Modules, Modules]]] = {
    UNet: _unet,
    BasicUNet: _basic_unet,
    DynUNet: _dynunet,
    SegResNet: _segresnet,
    MCFCN: _monai_fcn,
    FCN8s: _fcn_vgg16,
}
