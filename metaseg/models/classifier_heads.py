"""The head of a classifier: the last linear layer, or the dense head that stands in its place."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal, get_args

from torch import nn
from torchvision.models import VGG, AlexNet

from metaseg.errors import UsageError

Head = Literal["linear", "dense"]
HEADS: tuple[Head, ...] = get_args(Head)

HIDDEN = 256
"""Width of the dense head's hidden layer; the paper does not give one."""


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


def put_head(net: nn.Module, name: str, num_classes: int, head: Head) -> tuple[str, str]:
    """Give a library's network its head, in place.

    ``linear`` keeps the library's last linear layer. ``dense`` is the head of Al-Janabi: flatten, dense, ReLU, batch
    norm, dropout 0.1, dense. It stands in place of the last linear layer, on the features averaged over the image;
    for VGG and AlexNet in place of all their fully connected layers, on the flattened maps, which is how the paper's
    library leaves VGG without its top.

    Args:
        net: Built for ``num_classes`` classes.
        name: Its name, for messages.
        num_classes: Number of classes.
        head: One of :data:`HEADS`.

    Returns:
        The paths of the head and of its last linear layer within the network.

    Raises:
        UsageError: There is no such head, or the network does not end in a linear layer.
    """
    if head not in HEADS:
        raise UsageError(f"unknown head '{head}'", expected="one of " + ", ".join(HEADS))
    path = last_linear_path(net, name)
    if head == "linear":
        return path, path
    first: Any = net.get_submodule(path)
    if isinstance(net, VGG | AlexNet):
        path = "classifier"
        first = next(layer for layer in net.classifier if isinstance(layer, nn.Linear))
    net.set_submodule(path, dense_head(first.in_features, num_classes))
    return path, f"{path}.last"


def dense_head(features: int, num_classes: int) -> nn.Sequential:
    """The head of Al-Janabi, from ``(batch, ...)`` of as many features to logits ``(batch, class)``."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        flatten=nn.Flatten(),
        dense=nn.Linear(features, HIDDEN),
        relu=nn.ReLU(),
        norm=nn.BatchNorm1d(HIDDEN),
        dropout=nn.Dropout(0.1),
        last=nn.Linear(HIDDEN, num_classes),
    )
    return nn.Sequential(layers)
