"""The segmentation networks by name, built ready for any image size; other people's are plug-ins.

An encoder halves its input a fixed number of times, so most networks take only multiples of their stride, and instance
or batch normalisation cannot train on a bottleneck of a single pixel. :class:`PadToStride` takes both limits away.

Networks of other packages come in three ways: by an entry point of the group ``metaseg.segmenters``, by a reference
``package.module:factory`` to what builds them, or as a module in memory, see :func:`give_network`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import WeightsEnum

from metaseg.errors import UsageError
from metaseg.models.imagenet import check_in_place, fetch_torchvision
from metaseg.models.network_options import NoOptions, options_of, validated_options
from metaseg.models.weights import WeightReport, load_weights, read_tensors
from metaseg.registry import Registry, import_object

logger = logging.getLogger(__name__)
State = Mapping[str, Tensor]
_STRIDE = 32
"""Pixels by which the sides of images for other packages' networks are divisible; most halve at most five times."""


class PadToStride(nn.Module):
    """A network that takes any image size and gives logits of that size.

    The input is padded evenly on both sides by repeating its border pixels, and the logits are cropped back. Repeating
    the border adds no edge, whatever value the background has after normalisation; zeros would draw a frame around a
    scan whose background is not zero, and reflection cannot pad an image by more than its own size. An input that
    already fits is handed on as it is: the result is the bare network's, bit for bit.

    The wrapped network is :attr:`net`, so every key of the state dict is ``net.`` and the network's own key.

    Args:
        net: Takes ``(batch, modality, height, width)``, gives logits ``(batch, class, height, width)``.
        stride: By what the height and width that ``net`` takes must be divisible, in pixels.
        in_channels: Number of modalities that ``net`` takes.
        min_cells: Least height and width of the bottleneck, in cells of ``stride`` pixels; 2 lets normalisation over
            the image train on any input.
    """

    def __init__(self, net: nn.Module, stride: int, in_channels: int, min_cells: int = 2) -> None:
        super().__init__()
        self.net = net
        self.stride = stride
        self.in_channels = in_channels
        self.min_cells = min_cells

    def padded(self, size: int) -> int:
        """Height or width, in pixels, that ``net`` sees for an image of height or width ``size``."""
        return max(-(-size // self.stride), self.min_cells) * self.stride

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, class, height, width)`` of images ``(batch, modality, height, width)``.

        Raises:
            UsageError: The images have another number of axes or modalities, or no pixels.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels or 0 in images.shape[2:]:
            raise UsageError(
                f"the network was given images of shape {tuple(images.shape)}",
                expected=f"(batch, {self.in_channels} modalities, height, width)",
                remedy="choose the modalities that the network was built for with --modalities",
            )
        height, width = images.shape[2:]
        rows, columns = self.padded(height) - height, self.padded(width) - width
        if rows == 0 and columns == 0:
            return self.net(images)
        top, left = rows // 2, columns // 2
        padded = F.pad(images, (left, columns - left, top, rows - top), mode="replicate")
        return self.net(padded)[..., top : top + height, left : left + width]


class GroupedInstanceNorm2d(nn.InstanceNorm2d):
    """As :class:`torch.nn.InstanceNorm2d` without running statistics, weights and names of weights included."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise every channel of every image of ``(batch, channel, height, width)`` by itself."""
        if input.dim() != 4 or input.shape[2] * input.shape[3] < 2:
            # Single images; and single pixels, of which torch says that they have no deviation.
            return super().forward(input)
        return F.group_norm(input, self.num_features, self.weight, self.bias, self.eps)


def use_grouped_kernels(model: nn.Module) -> None:
    """Change the instance normalisations of a network; in place, weights stay."""
    for module in model.modules():
        if type(module) is nn.InstanceNorm2d and not module.track_running_stats:
            module.__class__ = GroupedInstanceNorm2d


@dataclass(frozen=True)
class ImageNetWeights:
    """Where a network's encoder finds torchvision's ImageNet weights.

    Attributes:
        title: The encoder's name, for messages.
        weights: torchvision's entry, with address and checksum.
        marker: A key of torchvision's file starts with this, one of ours never does.
        translate: Brings torchvision's state dict to the keys of the bare network, its second argument.
    """

    title: str
    weights: WeightsEnum
    marker: str
    translate: Callable[[State, nn.Module], dict[str, Tensor]]


@dataclass(frozen=True)
class Segmenter:
    """A network that segments, by its name.

    Attributes:
        name: As in ``--model``.
        build: Takes the numbers of modalities and classes and the options, gives a network from
            ``(batch, modality, height, width)`` to logits ``(batch, class, height, width)``.
        options: Names, types and defaults of the options.
        help: One line for the user.
        citation: The papers to cite.
        imagenet: ImageNet weights of its encoder, where there are any.
    """

    name: str
    build: Callable[..., nn.Module]
    options: type[BaseModel]
    help: str = ""
    citation: str = ""
    imagenet: ImageNetWeights | None = None

    @classmethod
    def of(cls, name: str, build: Callable[..., nn.Module], **described: Any) -> Self:
        """The network that a function or class builds.

        Args:
            name: Its name.
            build: Takes the numbers of modalities and classes, then options with a default that JSON can hold; their
                annotations are enforced.
            **described: What else is known of it: ``help``, ``citation``, ``imagenet``.
        """
        return cls(name, build, options_of(build, before=2), **described)

    def validated(self, options: Mapping[str, object]) -> BaseModel:
        """All options with defaults filled in.

        Raises:
            UsageError: An option is unknown or has a wrong value.
        """
        return validated_options(self.name, self.options, options)


SEGMENTERS: Registry[Segmenter] = Registry("network", "metaseg.segmenters", Segmenter)
"""The networks; the default first."""


def segmenter(
    name: str, *, help: str, citation: str = "", imagenet: ImageNetWeights | None = None
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Register the decorated builder as a network, see :meth:`Segmenter.of`."""

    def register(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        SEGMENTERS.add(name, Segmenter.of(name, build, help=help, citation=citation, imagenet=imagenet))
        return build

    return register


_GIVEN: dict[str, nn.Module] = {}
"""Networks in memory by their name, see :func:`give_network`."""


def give_network(model: nn.Module) -> str:
    """A name under which this process finds a network in memory, wherever a network is named.

    The weights as they stand are those that a training begins with. The name says where the class of the network is
    (``package.module:Class``): a process to which it was not given builds it by that class.

    Args:
        model: Takes ``(batch, modality, height, width)``, gives logits ``(batch, class, height, width)``. It is copied
            when it is used, and never changed.
    """
    kind = type(model)
    name = f"{kind.__module__}:{kind.__qualname__}"
    _GIVEN[name] = model
    return name


def is_given(name: str) -> bool:
    """Whether a name is one that :func:`give_network` gave."""
    return name in _GIVEN


def find_segmenter(name: str, plugin: str | None = None) -> Segmenter:
    """Look a network up.

    Args:
        name: A name of :data:`SEGMENTERS`, a reference ``package.module:factory``, or one of :func:`give_network`.
        plugin: The plug-in that the name is known to be from, for the message.

    Raises:
        UsageError: There is no such network; the message says what to install where that is known.
    """
    if name in _GIVEN:
        given = _GIVEN[name]
        return Segmenter(name, lambda in_channels, num_classes: copy.deepcopy(given), NoOptions)
    if ":" not in name:
        return SEGMENTERS.get(name, plugin=plugin)
    try:
        return Segmenter.of(name, import_object(name, "network"))
    except UsageError as error:
        needed = "install its package" if plugin is None else f"install {plugin}"
        remedy = f"{needed}, or in Python give the network itself (give_network)"
        raise UsageError(error.found, expected=error.expected, remedy=remedy) from error


def network_package(name: str) -> str | None:
    """The package that a network is from, such as ``"my-package 1.2"``; None for metaseg's own, or where unknown."""
    if ":" not in name:
        return SEGMENTERS.origin(name)
    from importlib.metadata import packages_distributions, version

    found = packages_distributions().get(name.partition(":")[0].partition(".")[0], [])
    return f"{found[0]} {version(found[0])}" if found else None


def resolve_options(name: str, options: Mapping[str, object] | None = None) -> dict[str, Any]:
    """All options of a network, defaults filled in, as JSON holds them: what a model card records.

    Raises:
        UsageError: There is no such network, or an option is unknown or has a wrong value.
    """
    return find_segmenter(name).validated(options or {}).model_dump(mode="json")


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from a generator of this seed inside, and leave torch's global generator as it was."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the accelerators' generators as well.
        torch.default_generator.manual_seed(seed)
        yield


def check_segmenter(name: str, options: Mapping[str, object], weights: str = "none", *, download: bool = False) -> None:
    """Find out whether a network can be built and its weights be read, before any data are.

    Args:
        name: As for :func:`build_segmenter`.
        options: Its options.
        weights: As for :func:`build_segmenter`.
        download: Get ImageNet weights that are not in place; otherwise only those in place are looked at.

    Raises:
        MetasegError: As from :func:`build_segmenter`.
    """
    entry = find_segmenter(name)
    entry.validated(options)
    if weights == "imagenet":
        imagenet = _imagenet_of(entry)
        if not check_in_place(imagenet.title, imagenet.weights.url) and download:
            fetch_torchvision(imagenet.title, imagenet.weights)
    elif weights != "none":
        read_tensors(Path(weights))


def _imagenet_of(entry: Segmenter) -> ImageNetWeights:
    if entry.imagenet is None:
        raise UsageError(
            f"there are no ImageNet weights for network '{entry.name}'",
            expected="one of " + ", ".join(other for other, it in SEGMENTERS.entries().items() if it.imagenet),
            remedy="choose such a network, or start without (--weights none)",
        )
    return entry.imagenet


def build_segmenter(
    name: str,
    in_channels: int,
    num_classes: int,
    weights: str | Path = "none",
    *,
    seed: int | None = None,
    adapt_input: bool = False,
    on_weights: Callable[[WeightReport], object] | None = None,
    **options: object,
) -> PadToStride:
    """Build a segmentation network on the CPU, in training mode.

    Args:
        name: See :func:`find_segmenter`.
        in_channels: Number of modalities.
        num_classes: Number of classes with the background.
        weights: ``"none"``; ``"imagenet"`` for torchvision's weights of the encoder; or a file: a metaseg checkpoint,
            any ``.safetensors``, or a ``.pth`` such as torchvision's own, which is read without unpickling objects.
        seed: Makes the initialisation reproducible and leaves torch's global generator untouched; None draws from it.
        adapt_input: Spread a file's first convolution over another number of modalities instead of skipping it. For
            torchvision's files this is always done.
        on_weights: Is given the report of what was loaded; without it, the report is logged.
        **options: The network's own, see :func:`resolve_options` and ``docs/models.md``.

    Returns:
        A module from ``(batch, modality, height, width)`` of any size to logits ``(batch, class, height, width)``.

    Raises:
        UsageError: The network or an option is unknown, or the network has no ImageNet weights.
        DataError: The weights cannot be read or fit less than half of the network.
        MetasegError: The download of the ImageNet weights failed.
    """
    entry = find_segmenter(name)
    if in_channels < 1 or num_classes < 1:
        raise UsageError(
            f"a network of {in_channels} modalities and {num_classes} classes", expected="at least one of each"
        )
    if weights == "imagenet":
        _imagenet_of(entry)
    chosen = entry.validated(options)
    with seeded(seed), torch.device("cpu"):
        # The fields themselves, not model_dump, which would bring nested values to plain dictionaries.
        built = entry.build(
            in_channels, num_classes, **{key: getattr(chosen, key) for key in entry.options.model_fields}
        )
    model = built if isinstance(built, PadToStride) else _padded(built, name, in_channels, num_classes)
    use_grouped_kernels(model)
    if weights != "none":
        report = _load(model, entry, weights, adapt_input)
        if on_weights is not None:
            on_weights(report)
        else:
            logger.info("%s", "\n".join(report.lines()))
    return model


def _padded(net: nn.Module, name: str, in_channels: int, num_classes: int) -> PadToStride:
    """Another package's network for images of any size.

    Raises:
        UsageError: It does not give logits of the images.
    """
    side, training = 2 * _STRIDE, net.training
    try:
        with torch.no_grad():
            found: Any = tuple(net.eval()(torch.zeros(1, in_channels, side, side)).shape)
    except Exception as error:
        # Whatever another package raises.
        found = f"{type(error).__name__}: {error}"
    if found != (1, num_classes, side, side):
        raise UsageError(
            f"the network '{name}' gives {found} for an image of {in_channels} modalities and {side} x {side} pixels",
            expected=f"logits of shape (1, {num_classes}, {side}, {side})",
        )
    return PadToStride(net.train(training), _STRIDE, in_channels)


def _load(model: PadToStride, entry: Segmenter, weights: str | Path, adapt_input: bool) -> WeightReport:
    """Load ImageNet weights or a file into a fresh network."""
    imagenet = entry.imagenet
    if weights == "imagenet" and imagenet is not None:
        state, origin = fetch_torchvision(imagenet.title, imagenet.weights), f"ImageNet weights of {imagenet.title}"
    else:
        state, origin = read_tensors(Path(weights)), str(weights)
    if imagenet is not None and any(key.startswith(imagenet.marker) for key in state):
        state, adapt_input = imagenet.translate(state, model.net), True
    return load_weights(model, state, adapt_input=adapt_input, origin=origin)


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones counted once; buffers such as running statistics are not parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
