"""The head of a classifier: the library's last linear layer, or dense layers in its place by their options.

Al-Janabi: Deep learning transfer methods for biomedical classification of images (both of its dense heads).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn
from torchvision.models import VGG, AlexNet, EfficientNet, MobileNetV2, ResNet

from metaseg.config.options import BelowOne, Count
from metaseg.errors import UsageError
from metaseg.models.classifier import HEADS, Head, PlainCNN, PoolTo
from metaseg.models.network_options import options_of, validated_options

HIDDEN = 256
"""Width of the dense head's hidden layer; the paper does not give one of its first head."""


def dense_head(
    features: int,
    num_classes: int,
    units: tuple[Count, ...] = (HIDDEN,),
    dropout: BelowOne = 0.1,
    input_dropout: BelowOne | None = None,
    pooling: Literal["auto", "average", "flatten"] = "auto",
) -> nn.Sequential:
    """The heads of Al-Janabi, from ``(batch, ...)`` of as many features to logits ``(batch, class)``.

    Flatten; for each of ``units`` dense, ReLU, batch norm, dropout; dense. That is the paper's first head. The head of
    its fine-tuned VGG-16 has batch norm and dropout before the dense layers as well: units 510, dropout 0.3, input
    dropout 0.23, average pooling. Its single sigmoid is the softmax of two logits, of their difference.

    Args:
        features: Of each image.
        num_classes: Number of classes.
        units: Width of each hidden layer; none for one linear layer.
        dropout: Fraction dropped behind each hidden layer.
        input_dropout: Fraction of the features dropped before the first, behind a batch norm; None for neither.
        pooling: How the base's maps become features, see :func:`put_head`; nothing that this layer does itself.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    if input_dropout is not None:
        layers |= {"input_norm": nn.BatchNorm1d(features), "input_dropout": nn.Dropout(input_dropout)}
    for number, width in enumerate(units, start=1):
        suffix = "" if number == 1 else str(number)
        hidden = nn.Linear(features, width), nn.ReLU(), nn.BatchNorm1d(width), nn.Dropout(dropout)
        names = ("dense", "relu", "norm", "dropout")
        layers |= {f"{name}{suffix}": layer for name, layer in zip(names, hidden, strict=True)}
        features = width
    layers["last"] = nn.Linear(features, num_classes)
    return nn.Sequential(layers)


OPTIONS = options_of(dense_head, 2)


def validated_head(head: str, options: Mapping[str, object]) -> dict[str, Any]:
    """Options of a head that are not its defaults, as a model card records them.

    Raises:
        UsageError: There is no such head, or an option is unknown, has a wrong value, or is of another head.
    """
    if head not in HEADS:
        raise UsageError(f"unknown head '{head}'", expected="one of " + ", ".join(HEADS))
    if head == "linear" and options:
        raise UsageError(
            f"--head-options {dict(options)} with --head linear",
            expected="--head dense, which has options: " + ", ".join(OPTIONS.model_fields),
        )
    return validated_options("dense head", OPTIONS, options).model_dump(mode="json", exclude_defaults=True)


def put_head(
    net: nn.Module, name: str, num_classes: int, head: Head, image_size: int, options: Mapping[str, Any]
) -> tuple[str, str]:
    """Give a library's network its head, in place.

    ``linear`` keeps the library's last linear layer. ``dense`` is :func:`dense_head`. It stands in place of the last
    linear layer; for VGG and AlexNet in place of all their fully connected layers, which is how the paper's library
    leaves VGG without its top. What it stands on is its ``pooling``: the maps averaged over the image (``average``), or
    each of their pixels (``flatten``); ``auto`` is ``flatten`` for VGG and AlexNet, and for others what they do anyway.

    Args:
        net: Built for ``num_classes`` classes.
        name: Its name, for messages.
        num_classes: Number of classes.
        head: One of :data:`~metaseg.models.classifier.HEADS`.
        image_size: Height and width of the images, in pixels, that flattened maps are of.
        options: As :func:`validated_head` gives them.

    Returns:
        The paths of the head and of its last linear layer within the network.

    Raises:
        UsageError: The network does not end in a linear layer, or its maps cannot be pooled otherwise.
    """
    path = last_linear_path(net, name)
    if head == "linear":
        return path, path
    first: Any = net.get_submodule(path)
    if isinstance(net, VGG | AlexNet):
        path = "classifier"
        first = next(layer for layer in net.classifier if isinstance(layer, nn.Linear))
    features = _pool(net, name, first.in_features, options.get("pooling", "auto"), image_size)
    net.set_submodule(path, dense_head(features, num_classes, **options))
    return path, f"{path}.last"


def last_linear_path(net: nn.Module, name: str) -> str:
    """Where a library's network has its last linear layer.

    Raises:
        UsageError: It ends in another layer.
    """
    linear = [path for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    get_classifier = getattr(net, "get_classifier", None)  # timm's own answer
    if get_classifier is not None:
        layer = get_classifier()
        linear = [path for path, module in net.named_modules() if module is layer and path in linear]
    if not linear:
        raise UsageError(
            f"the network '{name}' does not end in a linear layer",
            expected="one linear layer from features to classes",
            remedy="choose another network, such as resnet50",
        )
    return linear[-1]


class PixelsAsChannels(nn.Module):
    """Maps ``(batch, channel, height, width)`` as ``(batch, channel x size x size, 1, 1)``: averaging keeps them all.

    Args:
        size: Height and width that the maps are averaged to before, in pixels.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.pool = PoolTo(size)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """The maps of a batch, a channel for each pixel of each."""
        return self.pool(maps).flatten(1)[:, :, None, None]


def _pool(net: Any, name: str, features: int, pooling: str, image_size: int) -> int:
    """Let a network average or flatten its maps; gives the number of features that come of ``features``."""
    if pooling == "auto":
        return features
    if isinstance(net, VGG | AlexNet):
        if pooling == "average":
            features //= net.avgpool.output_size[0] ** 2
            net.avgpool = nn.AdaptiveAvgPool2d(1)
        return features
    is_xception = type(net).__module__ == "timm.models.xception"
    if not (is_xception or isinstance(net, ResNet | EfficientNet | MobileNetV2 | PlainCNN)):
        raise UsageError(
            f"--head-options pooling: {pooling} with the network '{name}'",
            expected="a VGG, AlexNet, ResNet, MobileNetV2, EfficientNet, xception or 2d-cnn",
            remedy="omit it: the network pools as its library has it",
        )
    if pooling == "average":
        return features
    size = max(1, image_size // (8 if isinstance(net, PlainCNN) else 32))
    if isinstance(net, MobileNetV2):  # it averages by a function, no layer
        net.features[-1].append(PixelsAsChannels(size))
    elif isinstance(net, PlainCNN):
        net.pool[0] = PixelsAsChannels(size)
    elif is_xception:
        net.global_pool = nn.Sequential(PoolTo(size), nn.Flatten())
    else:
        net.avgpool = PixelsAsChannels(size)
    return features * size**2
