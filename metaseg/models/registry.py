"""The segmentation networks by name, built ready for any image size.

Instance normalisation by the kernel of group normalisation, which takes a fraction of the time on a CPU.

torch computes instance normalisation by batch normalisation of a reshaped input with repeated weights. A group for
every channel is the same function, to rounding.

Networks for images of any size: padding to what a network can divide, and cropping back.

An encoder halves its input a fixed number of times, so most networks take only multiples of their stride, and instance
or batch normalisation cannot train on a bottleneck of a single pixel. :class:`PadToStride` takes both limits away.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import WeightsEnum

from metaseg.errors import MetasegError, UsageError, unknown_name
from metaseg.models.weights import WeightReport, load_weights, read_tensors


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

    def forward(self, images: torch.Tensor) -> torch.Tensor:
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


logger = logging.getLogger(__name__)


def fetch_torchvision(title: str, weights: WeightsEnum) -> Mapping[str, torch.Tensor]:
    """Download torchvision's weights, or take them from torch's cache.

    Args:
        title: The network's name, for messages.
        weights: torchvision's entry, with address and checksum.

    Raises:
        MetasegError: The download failed or its checksum is wrong.
    """
    try:
        return weights.get_state_dict(check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError) as error:
        raise download_failed(title, weights.url, error) from error


def download_failed(title: str, url: str, error: Exception) -> MetasegError:
    """The error for ImageNet weights that could not be had, whichever library offers them."""
    return MetasegError(
        f"could not get the ImageNet weights of {title} ({error})",
        where=url,
        expected="a connection to that address, or the file in the library's cache",
        remedy="download it where there is a connection and give the file's path as the weights "
        "(--weights FILE), or start without (--weights none)",
    )


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
    translate: Callable[[Mapping[str, torch.Tensor], nn.Module], dict[str, torch.Tensor]]

    def fetch(self) -> Mapping[str, torch.Tensor]:
        """Download the weights, or take them from torch's cache.

        Raises:
            MetasegError: The download failed or its checksum is wrong.
        """
        return fetch_torchvision(self.title, self.weights)


@dataclass(frozen=True)
class SegmenterEntry:
    """One registered network.

    Attributes:
        name: As in ``--model``.
        help: One line for the user.
        citation: The papers to cite.
        build: Takes the numbers of modalities and classes and the options.
        options: Names, types and defaults of the options.
        imagenet: ImageNet weights of its encoder, where there are any.
    """

    name: str
    help: str
    citation: str
    build: Callable[..., PadToStride]
    options: type[BaseModel]
    imagenet: ImageNetWeights | None

    def validated(self, options: Mapping[str, object]) -> BaseModel:
        """All options with defaults filled in.

        Raises:
            UsageError: An option is unknown or has a wrong value.
        """
        try:
            return self.options(**options)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
            fields = self.options.model_fields
            raise UsageError(
                f"wrong option of network '{self.name}': " + "; ".join(problems),
                expected=", ".join(f"{name} (default {field.default})" for name, field in fields.items()),
            ) from error


_ENTRIES: dict[str, SegmenterEntry] = {}


def segmenter(
    name: str, *, help: str, citation: str, imagenet: ImageNetWeights | None = None
) -> Callable[[Callable[..., PadToStride]], Callable[..., PadToStride]]:
    """Register the decorated builder as a network.

    The builder takes ``in_channels``, ``num_classes`` and options with a default that JSON can hold; their annotations
    are enforced. It gives a :class:`PadToStride`.
    """

    def register(build: Callable[..., PadToStride]) -> Callable[..., PadToStride]:
        hints = get_type_hints(build, include_extras=True)
        parameters = list(inspect.signature(build).parameters.values())[2:]
        fields: dict[str, Any] = {
            parameter.name: (hints[parameter.name], parameter.default) for parameter in parameters
        }
        options = create_model(f"{build.__name__}_options", __config__=ConfigDict(extra="forbid"), **fields)
        _ENTRIES[name] = SegmenterEntry(name, help, citation, build, options, imagenet)
        return build

    return register


def segmenter_names() -> tuple[str, ...]:
    """Names of all networks, the default first."""
    return tuple(sorted(_ENTRIES, key=lambda name: (name != "unet", name)))


def segmenter_entry(name: str) -> SegmenterEntry:
    """Look a network up by name.

    Raises:
        UsageError: There is no such network.
    """
    if name not in _ENTRIES:
        raise unknown_name("network", name, segmenter_names())
    return _ENTRIES[name]


def resolve_options(name: str, options: Mapping[str, object] | None = None) -> dict[str, Any]:
    """All options of a network, defaults filled in, as JSON holds them: what a model card records.

    Raises:
        UsageError: There is no such network, or an option is unknown or has a wrong value.
    """
    return segmenter_entry(name).validated(options or {}).model_dump(mode="json")


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
        name: One of :func:`segmenter_names`.
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
    entry = segmenter_entry(name)
    if in_channels < 1 or num_classes < 1:
        raise UsageError(
            f"a network of {in_channels} modalities and {num_classes} classes", expected="at least one of each"
        )
    if weights == "imagenet" and entry.imagenet is None:
        raise UsageError(
            f"there are no ImageNet weights for network '{name}'",
            expected="one of " + ", ".join(other for other in segmenter_names() if _ENTRIES[other].imagenet),
            remedy="choose such a network, or start without (--weights none)",
        )
    chosen = entry.validated(options)
    with seeded(seed), torch.device("cpu"):
        # The fields themselves, not model_dump, which would bring nested values to plain dictionaries.
        model = entry.build(
            in_channels, num_classes, **{key: getattr(chosen, key) for key in entry.options.model_fields}
        )
    use_grouped_kernels(model)
    if weights != "none":
        report = _load(model, entry, weights, adapt_input)
        if on_weights is not None:
            on_weights(report)
        else:
            logger.info("%s", "\n".join(report.lines()))
    return model


def _load(model: PadToStride, entry: SegmenterEntry, weights: str | Path, adapt_input: bool) -> WeightReport:
    """Load ImageNet weights or a file into a fresh network."""
    imagenet = entry.imagenet
    if weights == "imagenet" and imagenet is not None:
        state, origin = imagenet.fetch(), f"ImageNet weights of {imagenet.title}"
    else:
        state, origin = read_tensors(Path(weights)), str(weights)
    if imagenet is not None and any(key.startswith(imagenet.marker) for key in state):
        state, adapt_input = imagenet.translate(state, model.net), True
    return load_weights(model, state, adapt_input=adapt_input, origin=origin)


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones counted once; buffers such as running statistics are not parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
