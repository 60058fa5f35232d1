"""Where classifiers come from: torchvision, timm and our own, behind one interface, by name."""

from __future__ import annotations

import difflib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torchvision.models
from torch import nn

from metaseg.errors import UsageError
from metaseg.models.pretrained_input import InputStatistics
from metaseg.models.registry import download_failed, fetch_torchvision
from metaseg.models.small_classifiers import LauCNN, PlainCNN

State = Mapping[str, torch.Tensor]

NAMES = {
    "alexnet": "torchvision:alexnet",
    "vgg16": "torchvision:vgg16",
    "resnet50": "torchvision:resnet50",
    "resnet101": "torchvision:resnet101",
    "mobilenetv2": "torchvision:mobilenet_v2",
    "efficientnet-b0": "torchvision:efficientnet_b0",
    "xception": "timm:legacy_xception",
    "lau-cnn": "metaseg:lau-cnn",
    "2d-cnn": "metaseg:2d-cnn",
}
"""The papers' classifiers and where they are found."""

LEAST_SIZES = {"alexnet": 63, "inception_v3": 75, "lau-cnn": 8, "2d-cnn": 8}
"""Least height and width, in pixels; of all others 32, one cell of their deepest maps."""

OF_TENSORFLOW = ("googlenet", "inception_v3")
"""torchvision's networks with TensorFlow's weights: they bring colours to TensorFlow's statistics by themselves, which
works for three channels only, and is left to the input statistics here."""

FIXED_SIZE = {"vit": "image_size", "maxvit": "input_size"}
"""torchvision's families that take one image size, and the argument that sets it."""


@dataclass(frozen=True)
class Library(ABC):
    """A network of a library.

    Attributes:
        name: Within the library.
    """

    name: str

    @property
    def min_size(self) -> int:
        """Least height and width of images, in pixels."""
        return LEAST_SIZES.get(self.name, 32)

    @property
    def fixed_size(self) -> bool:
        """Whether the size it is built for is the only one it takes."""
        return False

    @abstractmethod
    def build(self, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
        """The bare network with fresh weights, ending in the library's own head."""

    def fetch(self) -> State:
        """Download the library's ImageNet weights, or take them from its cache.

        Raises:
            UsageError: There are no such weights.
            MetasegError: They cannot be had.
        """
        raise UsageError(
            f"there are no ImageNet weights for the classifier '{self.name}'",
            expected="one that has them, such as " + ", ".join(key for key in NAMES if "metaseg:" not in NAMES[key]),
            remedy="choose such a network, or start without (--weights none)",
        )

    def statistics(self) -> InputStatistics | None:
        """Of the images that the ImageNet weights were trained on; None if there are no such weights."""
        return None


class Ours(Library):
    """A network of a paper, made here and never pretrained on ImageNet."""

    def build(self, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
        """As in :class:`Library`."""
        if self.name == "lau-cnn":
            return LauCNN(in_channels, num_classes, image_size)
        return PlainCNN(in_channels, num_classes)


class Torchvision(Library):
    """A classifier of torchvision. Its ImageNet weights are the first published, those nearest to the papers."""

    @property
    def fixed_size(self) -> bool:
        """As in :class:`Library`."""
        return self.name.partition("_")[0] in FIXED_SIZE

    def build(self, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
        """As in :class:`Library`."""
        options: dict[str, Any] = {}
        if self.name in OF_TENSORFLOW:
            options = {"aux_logits": False, "init_weights": True}
        elif self.fixed_size:
            argument = FIXED_SIZE[self.name.partition("_")[0]]
            options = {argument: image_size if argument == "image_size" else (image_size, image_size)}
        net = torchvision.models.get_model(self.name, weights=None, num_classes=num_classes, **options)
        if in_channels != 3:
            replace_input(net, in_channels)
        return net

    def fetch(self) -> State:
        """As in :class:`Library`."""
        return fetch_torchvision(self.name, self._weights())

    def statistics(self) -> InputStatistics | None:
        """As in :class:`Library`."""
        if self.name in OF_TENSORFLOW:
            return InputStatistics((0.5,) * 3, (0.5,) * 3)
        preset = self._weights().transforms()
        return InputStatistics(tuple(preset.mean), tuple(preset.std))

    def _weights(self) -> Any:
        members = torchvision.models.get_model_weights(self.name)
        return getattr(members, "IMAGENET1K_V1", members.DEFAULT)


class Timm(Library):
    """A network of timm, which is imported only when one is used: it takes seconds."""

    @property
    def fixed_size(self) -> bool:
        """As in :class:`Library`."""
        return bool(self._config and self._config.fixed_input_size)

    def build(self, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
        """As in :class:`Library`."""
        import timm

        size: dict[str, Any] = {"img_size": image_size} if self.fixed_size else {}
        return timm.create_model(self.name, in_chans=in_channels, num_classes=num_classes, **size)

    def fetch(self) -> State:
        """As in :class:`Library`."""
        import timm

        if self.statistics() is None:
            return super().fetch()
        timm.models.set_pretrained_check_hash(True)
        try:
            with _tensors_only():
                return timm.create_model(self.name, pretrained=True).state_dict()
        except Exception as error:  # whatever the network, the hub's client or the reader of the file raises
            where = self._config.url or f"https://huggingface.co/{self._config.hf_hub_id}"
            raise download_failed(self.name, where, error) from error

    def statistics(self) -> InputStatistics | None:
        """As in :class:`Library`."""
        config = self._config
        return InputStatistics(tuple(config.mean), tuple(config.std)) if config and config.has_weights else None

    @property
    def _config(self) -> Any:
        import timm

        return timm.models.get_pretrained_cfg(self.name)


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Have every ``torch.load`` inside read tensors alone, whatever the library's release asks for."""
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def replace_input(net: nn.Module, in_channels: int) -> None:
    """Give a network's first convolution another number of input channels, in place.

    The new kernel is drawn with the deviation of the old one, times the root of old / new channels, so that the
    response varies as much as before.
    """
    path, old = next((path, layer) for path, layer in net.named_modules() if isinstance(layer, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    with torch.no_grad():
        new.weight.normal_().mul_(old.weight.std() * (old.in_channels / in_channels) ** 0.5)
        if new.bias is not None and old.bias is not None:
            new.bias.copy_(old.bias)
    net.set_submodule(path, new)


def classifier_names() -> tuple[str, ...]:
    """The papers' classifiers; every other name of torchvision or timm will do as well."""
    return tuple(NAMES)


def find_classifier(name: str) -> Library:
    """Look a classifier up: one of :func:`classifier_names`, or a name of torchvision or timm.

    ``torchvision:`` or ``timm:`` before a name says where to look; without, torchvision comes first.

    Raises:
        UsageError: There is no such classifier.
    """
    library, _, inner = NAMES.get(name, name).rpartition(":")
    if library == "metaseg":
        return Ours(inner)
    theirs = torchvision.models.list_models(module=torchvision.models)
    if library in ("", "torchvision") and inner in theirs:
        return Torchvision(inner)
    if library in ("", "timm"):
        import timm

        if timm.is_model(inner):
            return Timm(inner)
        theirs = theirs * (library == "") + timm.list_models()
    near = difflib.get_close_matches(inner, [*NAMES, *theirs], n=1, cutoff=0.5)
    raise UsageError(
        f"unknown classifier '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""),
        expected="one of " + ", ".join(NAMES) + ", torchvision:NAME or timm:NAME",
        remedy="see 'timm.list_models()' and 'torchvision.models.list_models()' for the names there are",
    )
