"""The parts of a segmentation network (encoder, head, what lies outside of a part), and adapters on its convolutions.

Hu et al.: LoRA, low-rank adaptation of large language models. ICLR 2022. For convolutions as in Aleem et al.: ConvLoRA
and AdaBN based domain adaptation via self-training. ISBI 2024.

An adapter is a convolution of the adapted one's kernel to few channels (``down``), and a 1 x 1 convolution from those
to its output channels (``up``). Both are linear, so their sum with the convolution is one convolution, whose kernel is
the old one plus the product of both: that is what is computed, at nearly the price of the convolution alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from monai.networks.blocks.fcn import MCFCN
from monai.networks.layers.simplelayers import SkipConnection
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from metaseg.errors import UsageError
from metaseg.models.fcn_vgg16 import FCN8s
from metaseg.models.segmenters import PadToStride

Modules = tuple[nn.Module, ...]


def head_modules(model: nn.Module) -> Modules:
    """The layers that classify: those that turn features into one channel for each class.

    * ``unet``: the topmost layer of the way up, whose transposed convolution goes from features to classes, with the
      residual unit on the classes that may follow it.
    * ``basic-unet``, ``dynunet``, ``segresnet``: the last 1 x 1 convolution.
    * ``monai-fcn``: the global convolutions, which classify at five depths. The refinement of their scores is not head.
    * ``fcn-vgg16``: the scores of the three depths. Their enlargement is not head.

    Args:
        model: A registered network, as :func:`~metaseg.models.segmenters.build_segmenter` gives it, or the bare one.
            One of another package says it by a method ``encoder_and_head``, which gives two sequences of its modules.

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


def feature_modules(model: nn.Module) -> Modules:
    """Modules of the encoder whose outputs are its features, depth by depth.

    Those of :func:`encoder_modules`, but for ``fcn-vgg16``, which passes the layers of its features one by one: there
    the pooling layers.

    Raises:
        UsageError: The network is of another kind.
    """
    net = model.net if isinstance(model, PadToStride) else model
    if not isinstance(net, FCN8s):
        return encoder_modules(model)
    return tuple(layer for layer in net.features if isinstance(layer, nn.MaxPool2d))


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
    own: Any = getattr(net, "encoder_and_head", None)
    if own is not None:
        encoder, head = own()
        return tuple(encoder), tuple(head)
    raise UsageError(
        f"it is not known which layers of the network {type(net).__name__} are its encoder and its head",
        expected="one of " + ", ".join(kind.__name__ for kind in _KINDS) + ", or one with a method encoder_and_head",
        remedy="choose a method that treats all layers alike, or give the network's class that method",
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


class AdaptedConvolution(nn.Module):
    """A convolution with a low-rank adapter.

    Transposed convolutions are adapted alike: transposed down to the rank, then 1 x 1.

    Args:
        base: The convolution; not changed, and the very module that is put back.
        rank: Channels between ``down`` and ``up``. It is lowered to the kernel's own rank where that is smaller.
        generator: Draws ``down``, uniformly within the square root of the reciprocal of its values for one channel;
            ``up`` starts at zero, so that the start is the convolution alone.

    Attributes:
        base: As given.
        down: Kernel ``(rank, in / groups, height, width)``; of a transposed one ``(in, rank, height, width)``.
        up: ``(out, rank)``; of a transposed one ``(out / groups, rank)``.
    """

    def __init__(self, base: _ConvNd, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        kernel = base.weight
        self.transposed = isinstance(base, _ConvTransposeNd)
        outputs, inputs = (kernel.shape[1], kernel.shape[0]) if self.transposed else kernel.shape[:2]
        fan_in = inputs * math.prod(kernel.shape[2:])
        rank, bound = min(rank, outputs, fan_in), 1 / math.sqrt(fan_in)
        size = (inputs, rank) if self.transposed else (rank, inputs)
        drawn = torch.empty(*size, *kernel.shape[2:]).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(drawn.to(kernel))
        self.up = nn.Parameter(torch.zeros(outputs, rank).to(kernel))

    def kernel(self) -> Tensor:
        """The kernel of the convolution and its adapter in one."""
        product = "ir...,or->io..." if self.transposed else "ri...,or->oi..."
        return self.base.weight + torch.einsum(product, self.down, self.up)

    def forward(self, values: Tensor) -> Tensor:
        """What the convolution gives for ``values`` with that kernel."""
        adapted: Tensor = functional_call(self.base, {"weight": self.kernel()}, (values,))
        return adapted


def add_adapters(model: nn.Module, rank: int, seed: int) -> None:
    """Put an adapter on every convolution of a network, and freeze all else.

    Nothing but convolutions is adapted: normalisation, activations and the learned enlargement of ``fcn-vgg16``, which
    is a kernel for each class, stay as they are.

    Args:
        model: The network; changed in place. What it computes stays the same to the bit.
        rank: See :class:`AdaptedConvolution`.
        seed: Decides the draws.

    Raises:
        UsageError: The network has adapters already, or no convolution.
    """
    if any(_adapted(model)):
        raise UsageError("the network has adapters already", remedy="take them off first, or merge them")
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    convolutions = {id(module): module for module in model.modules() if isinstance(module, _ConvNd)}
    if not convolutions:
        raise UsageError("the network has no convolution to adapt")
    _exchange(model, {key: AdaptedConvolution(module, rank, generator) for key, module in convolutions.items()})


def remove_adapters(model: nn.Module) -> dict[str, Tensor]:
    """Take the adapters off: the network is the one that they were put on again, to the bit, and may learn.

    Args:
        model: A network with adapters; changed in place.

    Returns:
        The adapters as :func:`adapter_tensors` gives them.
    """
    tensors = adapter_tensors(model)
    _exchange(model, {id(layer): layer.base for _, layer in _adapted(model)})
    model.requires_grad_(True)
    return tensors


def merge_adapters(model: nn.Module) -> nn.Module:
    """A copy without adapters that computes the same but for rounding, of the original architecture."""
    merged = copy.deepcopy(model)
    with torch.no_grad():
        for _, layer in _adapted(merged):
            layer.base.weight.copy_(layer.kernel())
    remove_adapters(merged)
    return merged


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The adapters of a network: ``NAME.down`` and ``NAME.up`` for the convolution ``NAME``; empty if it has none."""
    return {
        f"{name}.{part}": getattr(layer, part).detach().clone()
        for name, layer in _adapted(model)
        for part in ("down", "up")
    }


def load_adapters(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put saved adapters on the network that they were made for.

    Args:
        model: The network without adapters; changed in place, and frozen but for the adapters.
        tensors: Those of :func:`adapter_tensors`.

    Raises:
        UsageError: They were made for another network; the network then has no adapters.
    """
    ranks = [tensor.shape[1] for name, tensor in tensors.items() if name.endswith(".up")]
    add_adapters(model, max(ranks, default=1), seed=0)
    own = {name: tensor.shape for name, tensor in adapter_tensors(model).items()}
    differing = sorted(set(own.items()) ^ {(name, tensor.shape) for name, tensor in tensors.items()})
    if differing:
        remove_adapters(model)
        raise UsageError(
            f"the adapters were made for another network: {differing[0][0]} differs",
            remedy="take the network that the run with the adapters was tuned from",
        )
    with torch.no_grad():
        for name, layer in _adapted(model):
            layer.down.copy_(tensors[f"{name}.down"])
            layer.up.copy_(tensors[f"{name}.up"])


def _adapted(model: nn.Module) -> Iterator[tuple[str, AdaptedConvolution]]:
    """The adapted convolutions, each once, by the name that its convolution has without adapters."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, AdaptedConvolution))


def _exchange(model: nn.Module, replacements: Mapping[int, nn.Module]) -> None:
    """Put other modules in the place of some, by their ``id``, under each of their names and in the same sequence."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in replacements:
                setattr(parent, name, replacements[id(child)])
