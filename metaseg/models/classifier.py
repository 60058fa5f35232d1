"""A network from slices to classes: any library's, with its input, its base's blocks and its head named.

:class:`Classifier` wraps a network of torchvision, timm or the papers. Around it: its head (linear or dense), its input
(slices brought to the intensities that a pretrained network knows), the papers' two small networks, the blocks of the
base for freezing and unfreezing, and Monte-Carlo dropout.

Al-Janabi: Deep learning transfer methods for biomedical classification of images (the baseline "2D-CNN").
Gal, Ghahramani: Dropout as a Bayesian approximation. ICML 2016.
Lau: Deep learning brain tumor classifier project. 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd
from torchvision.models import VGG, AlexNet, EfficientNet, MobileNetV2, ResNet

from metaseg.config.options import BelowOne, Count
from metaseg.errors import UsageError
from metaseg.models.parts import Modules, modules_beside

Head = Literal["linear", "dense"]
HEADS: tuple[Head, ...] = get_args(Head)

WINDOW = 2.5
"""Standard deviations around the mean of the foreground that become 0 to 1."""


@dataclass(frozen=True)
class InputStatistics:
    """Mean and standard deviation, for each input channel, of the images that a network was pretrained on.

    Attributes:
        mean: Of intensities from 0 to 1.
        std: Likewise.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def for_channels(self, in_channels: int) -> InputStatistics:
        """The same for another number of channels, each of which then gets the mean over the channels there were."""
        if len(self.mean) == in_channels:
            return self
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return InputStatistics((mean,) * in_channels, (std,) * in_channels)

    def to_json(self) -> dict[str, list[float]]:
        """As a model card records it."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any] | None) -> InputStatistics | None:
        """From what :meth:`to_json` gave; None stays None.

        Raises:
            UsageError: It is something else.
        """
        if raw is None:
            return None
        try:
            return cls(tuple(map(float, raw["mean"])), tuple(map(float, raw["std"])))
        except (TypeError, KeyError, ValueError) as error:
            raise UsageError(
                f"the input statistics {raw} cannot be read ({error!r})", expected="lists of numbers, mean and std"
            ) from error


class PretrainedInput(nn.Module):
    """From z-scores of the foreground, background 0, to what a pretrained network expects.

    Z-scores from -2.5 to 2.5 become 0 to 1, those beyond are cut off, and the background, which is exactly 0, becomes
    0, black, as in a picture; then the statistics' mean is subtracted and their deviation divided by. Without
    statistics images pass unchanged.

    The statistics are no part of the state dict: a model card records them.

    Args:
        statistics: Of the pretraining, for each channel; None for a network that was not pretrained.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, statistics: InputStatistics | None) -> None:
        super().__init__()
        self.statistics = statistics
        if statistics is not None:
            for name in ("mean", "std"):
                values = torch.tensor(getattr(statistics, name), device="cpu").view(1, -1, 1, 1)
                self.register_buffer(name, values, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images ``(batch, channel, height, width)``, brought to the statistics."""
        if self.statistics is None:
            return images
        pictures = ((images + WINDOW) / (2 * WINDOW)).clamp(0, 1)
        pictures = torch.where(images == 0, 0, pictures)
        return (pictures - self.mean) / self.std


class PoolTo(nn.Module):
    """Averages maps to one size, so that a dense layer can follow; maps of that size are handed on as they are.

    Args:
        size: Height and width, in pixels.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps ``(batch, channel, height, width)`` to ``(batch, channel, size, size)``."""
        return maps if maps.shape[2:] == (self.size, self.size) else F.adaptive_avg_pool2d(maps, self.size)


class LauCNN(nn.Module):
    """The four-class network of Lau 2021, layer by layer as in its table.

    Three blocks of a 3 x 3 convolution that keeps the size (16, 32, 64 channels), ReLU and max pooling by 2, dropout
    after the first two; flatten; dense 64, batch norm, dense 16, batch norm, dense classes. One channel of 224 x 224
    pixels and four classes make 3,235,892 parameters and 160 running statistics, the 3,236,052 of the paper.

    Ours, where the paper is silent: ReLU within the two hidden dense layers, hence before their batch norm, since the
    table has no activation layers and Keras then has them inside the dense layer; the dropout's share; and torch's own
    initialisation and batch norm settings. Images of another size are averaged to the maps that ``image_size`` gives.

    Args:
        in_channels: Number of input channels.
        num_classes: Number of classes.
        image_size: Height and width of the images, in pixels, that the dense layer is made for.
        filters1: Filters of the first convolution.
        filters2: Of the second.
        filters3: Of the third.
        units1: Units of the first dense layer.
        units2: Of the second.
        dropout: Fraction of the activations dropped.
        kernel_size: Height and width of the convolutions' kernels, in pixels.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int = 224,
        filters1: Count = 16,
        filters2: Count = 32,
        filters3: Count = 64,
        units1: Count = 64,
        units2: Count = 16,
        dropout: BelowOne = 0.25,
        kernel_size: Literal[1, 3, 5, 7] = 3,
    ) -> None:
        super().__init__()
        cells = max(image_size // 8, 1)
        self.conv1 = _convolution(in_channels, filters1, kernel_size, nn.Dropout(dropout))
        self.conv2 = _convolution(filters1, filters2, kernel_size, nn.Dropout(dropout))
        self.conv3 = _convolution(filters2, filters3, kernel_size)
        self.pool = nn.Sequential(PoolTo(cells), nn.Flatten())
        self.dense1 = _dense(filters3 * cells * cells, units1)
        self.dense2 = _dense(units1, units2)
        self.fc = nn.Linear(units2, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(batch, class)`` of images ``(batch, channel, height, width)`` of at least 8 x 8 pixels."""
        maps = self.conv3(self.conv2(self.conv1(images)))
        return self.fc(self.dense2(self.dense1(self.pool(maps))))


class PlainCNN(nn.Module):
    """The baseline of Al-Janabi, trained from scratch: three blocks of convolution, batch norm and dropout 0.1.

    All else is ours: 3 x 3 convolutions that keep the size, 32, 64 and 128 channels, ReLU after batch norm, max pooling
    by 2 before the dropout, and a head that averages over the image before one dense layer.

    Args:
        in_channels: Number of input channels.
        num_classes: Number of classes.
        filters1: Filters of the first block's convolution.
        filters2: Of the second block's.
        filters3: Of the third block's.
        dropout: Fraction of the activations dropped.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        filters1: Count = 32,
        filters2: Count = 64,
        filters3: Count = 128,
        dropout: BelowOne = 0.1,
    ) -> None:
        super().__init__()
        self.conv1 = _normalised_convolution(in_channels, filters1, dropout)
        self.conv2 = _normalised_convolution(filters1, filters2, dropout)
        self.conv3 = _normalised_convolution(filters2, filters3, dropout)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(filters3, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(batch, class)`` of images ``(batch, channel, height, width)`` of at least 8 x 8 pixels."""
        return self.fc(self.pool(self.conv3(self.conv2(self.conv1(images)))))


def _convolution(channels_in: int, channels_out: int, kernel_size: int, *after: nn.Module) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size, padding=kernel_size // 2)
    return nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2), *after)


def _dense(features_in: int, features_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features_in, features_out), nn.ReLU(), nn.BatchNorm1d(features_out))


def _normalised_convolution(channels_in: int, channels_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
    )


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


class Classifier(nn.Module):
    """Wraps a library's network for slices ``(batch, channel, height, width)``, z-scores with a background of 0.

    The wrapped network is :attr:`net`, so every key of the state dict is ``net.`` and the library's own key.

    Args:
        net: Gives logits ``(batch, class)``.
        name: As in :func:`~metaseg.models.classifiers.build_classifier`.
        in_channels: Number of input channels.
        num_classes: Number of classes.
        head: Kind of its head.
        head_options: Options of the head that are not its defaults.
        head_path: Where the head is within ``net``.
        last_path: Where the head's last linear layer is within ``net``.
        image_size: Height and width that it was built for, in pixels.
        min_size: Least height and width that it takes; equal to ``image_size`` with ``fixed_size``.
        fixed_size: Whether it takes no other height and width.
        model_options: Options of ``net`` that are not its defaults.
        statistics: Of the images it was pretrained on, see :class:`~metaseg.models.classifier.PretrainedInput`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        name: str,
        in_channels: int,
        num_classes: int,
        head: Head,
        head_path: str,
        last_path: str,
        image_size: int,
        min_size: int = 1,
        fixed_size: bool = False,
        head_options: Mapping[str, Any] | None = None,
        model_options: Mapping[str, Any] | None = None,
        statistics: InputStatistics | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.name, self.in_channels, self.num_classes = name, in_channels, num_classes
        self.head, self.head_path, self.last_path = head, head_path, last_path
        self.image_size, self.min_size, self.fixed_size = image_size, min_size, fixed_size
        self.head_options, self.model_options = dict(head_options or {}), dict(model_options or {})
        self.input = PretrainedInput(statistics)

    @property
    def options(self) -> dict[str, Any]:
        """What a model card records under ``options``, so that the network can be built again."""
        statistics = self.input.statistics
        return {
            "head": self.head,
            "image_size": self.image_size,
            "input_statistics": None if statistics is None else statistics.to_json(),
            # Networks as they always were have the cards that they always had.
            **({"head_options": self.head_options} if self.head_options else {}),
            **({"model_options": self.model_options} if self.model_options else {}),
        }

    @property
    def last_linear(self) -> nn.Linear:
        """The layer from the embedding to the logits."""
        layer = self.net.get_submodule(self.last_path)
        assert isinstance(layer, nn.Linear)
        return layer

    @property
    def head_modules(self) -> tuple[nn.Module, ...]:
        """The head: the last linear layer, or the dense head."""
        return (self.net.get_submodule(self.head_path),)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The base's blocks as ``(name, modules)``, from the image to the head: all parameters but the head's, once."""
        return base_blocks(self.net, self.net.get_submodule(self.head_path))

    def pretrained_on(self, statistics: InputStatistics | None) -> None:
        """From now on, bring images to these statistics, of any number of channels; None leaves them as they are."""
        fitted = None if statistics is None else statistics.for_channels(self.in_channels)
        self.input = PretrainedInput(fitted).to(self.last_linear.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(batch, class)`` of images ``(batch, channel, height, width)``.

        Raises:
            UsageError: The images have another number of axes or channels, or a size that the network cannot take.
        """
        self._check(images)
        return self.net(self.input(images))

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """The last linear layer's input ``(batch, feature)`` for images as in :meth:`forward`."""
        return self.forward_with_embedding(images)[1]

    def forward_with_embedding(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``(batch, class)`` and embedding ``(batch, feature)`` from one pass."""
        seen: list[torch.Tensor] = []
        hook = self.last_linear.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
        try:
            logits = self(images)
        finally:
            hook.remove()
        return logits, seen[-1]

    def _check(self, images: torch.Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise UsageError(
                f"the network '{self.name}' was given images of shape {tuple(images.shape)}",
                expected=f"(batch, {self.in_channels} channels, height, width)",
                remedy="give it the modalities that it was built for, in the same order",
            )
        height, width = images.shape[2:]
        if self.fixed_size and (height, width) != (self.image_size, self.image_size):
            raise UsageError(
                f"the network '{self.name}' was given images of {height} x {width} pixels",
                expected=f"{self.image_size} x {self.image_size} pixels: it takes the size that it was built for alone",
                remedy="resize the images, or build the network for another image size",
            )
        if min(height, width) < self.min_size:
            raise UsageError(
                f"the network '{self.name}' was given images of {height} x {width} pixels",
                expected=f"at least {self.min_size} x {self.min_size} pixels",
                remedy="resize the images to at least that",
            )


@contextmanager
def mc_dropout(model: nn.Module) -> Iterator[None]:
    """Let the dropout layers of a model drop inside, whatever its mode; all else, batch norm too, stays as it is.

    Only layers count (``nn.Dropout`` and its kin with a rate above 0), not calls of ``F.dropout`` within a network nor
    stochastic depth. torchvision's networks have layers. timm's Xception calls the function, with a rate of 0.

    Raises:
        UsageError: The model has no dropout layer.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _DropoutNd) and layer.p > 0]
    if not layers:
        raise UsageError(
            f"the network '{getattr(model, 'name', type(model).__name__)}' has no dropout",
            expected="a dropout layer, for Monte-Carlo dropout",
            remedy="build it with the dense head, which has one (--head dense), or choose a network that has one, "
            "such as vgg16 or mobilenetv2",
        )
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.train(mode)
