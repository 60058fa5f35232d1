"""Classifiers by name, from torchvision, timm or the papers: with fresh weights, ImageNet's, or those of a file."""

from __future__ import annotations

import difflib
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torchvision.models
from pydantic import BaseModel
from torch import nn

from metaseg.errors import UsageError
from metaseg.models.card import checkpoint_files, read_card
from metaseg.models.classifier import Classifier, Head, InputStatistics, LauCNN, PlainCNN
from metaseg.models.heads import put_head, validated_head
from metaseg.models.imagenet import check_in_place, download_failed, fetch_torchvision
from metaseg.models.network_options import NoOptions, options_of, validated_options
from metaseg.models.segmenters import count_parameters, seeded
from metaseg.models.weights import WeightReport, load_weights, read_tensors

logger = logging.getLogger(__name__)

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

    @property
    def options(self) -> type[BaseModel]:
        """Options of the network; a library's has none."""
        return NoOptions

    def validated(self, options: Mapping[str, object]) -> dict[str, Any]:
        """Options that are not the network's defaults, as a model card records them.

        Raises:
            UsageError: An option is unknown or has a wrong value.
        """
        return validated_options(self.name, self.options, options).model_dump(mode="json", exclude_defaults=True)

    @abstractmethod
    def build(self, in_channels: int, num_classes: int, image_size: int, **options: Any) -> nn.Module:
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

    @property
    def address(self) -> str:
        """Where the ImageNet weights are offered; empty if there are none."""
        return ""

    def statistics(self) -> InputStatistics | None:
        """Of the images that the ImageNet weights were trained on; None if there are no such weights."""
        return None


class Ours(Library):
    """A network of a paper, made here and never pretrained on ImageNet."""

    @property
    def options(self) -> type[BaseModel]:
        """See :class:`Library`."""
        return options_of(LauCNN, before=3) if self.name == "lau-cnn" else options_of(PlainCNN, before=2)

    def build(self, in_channels: int, num_classes: int, image_size: int, **options: Any) -> nn.Module:
        """See :class:`Library`."""
        if self.name == "lau-cnn":
            return LauCNN(in_channels, num_classes, image_size, **options)
        return PlainCNN(in_channels, num_classes, **options)


class Torchvision(Library):
    """A classifier of torchvision. Its ImageNet weights are the first published, those nearest to the papers."""

    @property
    def fixed_size(self) -> bool:
        """See :class:`Library`."""
        return self.name.partition("_")[0] in FIXED_SIZE

    def build(self, in_channels: int, num_classes: int, image_size: int, **options: Any) -> nn.Module:
        """See :class:`Library`."""
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
        """See :class:`Library`."""
        return fetch_torchvision(self.name, self._weights())

    @property
    def address(self) -> str:
        """See :class:`Library`."""
        return str(self._weights().url)

    def statistics(self) -> InputStatistics | None:
        """See :class:`Library`."""
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
        """See :class:`Library`."""
        return bool(self._config and self._config.fixed_input_size)

    def build(self, in_channels: int, num_classes: int, image_size: int, **options: Any) -> nn.Module:
        """See :class:`Library`."""
        import timm

        size: dict[str, Any] = {"img_size": image_size} if self.fixed_size else {}
        return timm.create_model(self.name, in_chans=in_channels, num_classes=num_classes, **size)

    def fetch(self) -> State:
        """See :class:`Library`."""
        import timm

        if self.statistics() is None:
            return super().fetch()
        check_in_place(self.name, self.address)
        timm.models.set_pretrained_check_hash(True)
        try:
            with _tensors_only():
                return timm.create_model(self.name, pretrained=True).state_dict()
        except Exception as error:  # whatever the network, the hub's client or the reader of the file raises
            raise download_failed(self.name, self.address, error) from error

    @property
    def address(self) -> str:
        """See :class:`Library`; timm prefers the repository of Hugging Face where there is one."""
        hub = self._config.hf_hub_id
        return f"https://huggingface.co/{hub}" if hub else str(self._config.url)

    def statistics(self) -> InputStatistics | None:
        """See :class:`Library`."""
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


def check_classifier(
    name: str,
    weights: str = "none",
    *,
    head: str = "linear",
    head_options: Mapping[str, object] | None = None,
    model_options: Mapping[str, object] | None = None,
    download: bool = False,
) -> None:
    """Find out whether a classifier can be built and its weights be read, before any data are.

    Args:
        name: As for :func:`build_classifier`, like all that follow.
        weights: What the training begins with.
        head: The head.
        head_options: Its options.
        model_options: The network's.
        download: Get ImageNet weights that are not in place; otherwise only those in place are looked at.

    Raises:
        UsageError: As from :func:`build_classifier`, or the weights are those of a segmentation network.
        MetasegError: As from :func:`build_classifier`.
    """
    library = find_classifier(name)
    library.validated(model_options or {})
    validated_head(head, head_options or {})
    if weights == "imagenet":
        offered = library.statistics() is not None
        # Of a network without such weights, fetching says which networks have them.
        if not offered or (not check_in_place(library.name, library.address) and download):
            library.fetch()
    elif weights != "none":
        card = checkpoint_files(Path(weights))[1]
        if card.exists() and read_card(card)[0].task != "classification":
            raise UsageError(
                "the weights are those of a segmentation network", where=weights, expected="a classifier's"
            )
        read_tensors(Path(weights))


def build_classifier(
    name: str,
    in_channels: int,
    num_classes: int,
    weights: str | Path | None = None,
    *,
    seed: int | None = None,
    head: Head = "linear",
    image_size: int = 224,
    head_options: Mapping[str, object] | None = None,
    model_options: Mapping[str, object] | None = None,
    on_weights: Callable[[WeightReport], object] | None = None,
) -> Classifier:
    """Build a slice classifier on the CPU, in training mode.

    Args:
        name: One of :func:`~metaseg.models.classifiers.classifier_names`, or any classifier of torchvision or
            timm, with ``torchvision:`` or ``timm:`` before it if need be.
        in_channels: Number of input channels.
        num_classes: Number of classes.
        weights: None or ``"none"``; ``"imagenet"`` for the library's weights; or a file: a metaseg checkpoint of a
            classifier, any ``.safetensors``, or a ``.pth`` such as torchvision's own, read without unpickling objects.
            A first convolution of other channels is spread over ``in_channels``.
        seed: Makes the initialisation reproducible and leaves torch's global generator untouched; None draws from it.
        head: ``"linear"``, or ``"dense"`` for Al-Janabi's, see :func:`~metaseg.models.heads.put_head`.
        image_size: Height and width of the images in pixels. Most networks take others too.
        head_options: Of the dense head, see :func:`~metaseg.models.heads.dense_head`.
        model_options: The network's own options; the papers' small networks have some, see ``docs/models.md``.
        on_weights: Is given the report of what was loaded; without it, the report is logged.

    Returns:
        A module from images ``(batch, channel, height, width)`` to logits ``(batch, class)``.

    Raises:
        UsageError: The network, the head or an option is unknown, or there are no ImageNet weights for it.
        DataError: The weights cannot be read or fit less than half of the network's base.
        MetasegError: The download of the ImageNet weights failed.
    """
    library = find_classifier(name)
    if weights == "imagenet" and library.statistics() is None:
        library.fetch()  # says which networks have them
    with seeded(seed), torch.device("cpu"):
        options = head_options or {}, model_options or {}
        model = _assemble(library, name, in_channels, num_classes, head, image_size, *options)
    if weights is not None and weights != "none":
        report = _load(model, library, weights)
        if on_weights is not None:
            on_weights(report)
        else:
            logger.info("%s", "\n".join(report.lines()))
    return model


def rebuild_classifier(name: str, in_channels: int, num_classes: int, options: Mapping[str, Any]) -> Classifier:
    """The network that a model card describes, with weights of no meaning; torch's generator stays as it was.

    It is made on the device that is current, so that one on torch's ``meta`` device takes neither time nor memory.

    Raises:
        UsageError: The card's name or options are none of a classifier.
    """
    known = {"head": "linear", "image_size": 224, "input_statistics": None, "head_options": {}, "model_options": {}}
    given = {**known, **options}
    own = given["head_options"], given["model_options"]
    readable = isinstance(given["image_size"], int) and all(isinstance(values, Mapping) for values in own)
    if given.keys() != known.keys() or not readable:
        raise UsageError(
            f"the options {dict(options)} are none of a classifier",
            expected="head, image_size (a whole number), input_statistics, head_options and model_options (mappings)",
            remedy="record the options of the classifier itself, its attribute 'options'",
        )
    statistics = InputStatistics.from_json(given["input_statistics"])
    with seeded(0):
        shape = given["head"], given["image_size"]
        model = _assemble(find_classifier(name), name, in_channels, num_classes, *shape, *own)
    model.pretrained_on(statistics)
    return model


def _assemble(
    library: Library,
    name: str,
    in_channels: int,
    num_classes: int,
    head: Head,
    image_size: int,
    head_options: Mapping[str, object],
    model_options: Mapping[str, object],
) -> Classifier:
    least = library.min_size
    if in_channels < 1 or num_classes < 1:
        raise UsageError(
            f"a classifier of {in_channels} channels and {num_classes} classes", expected="at least one of each"
        )
    if image_size < least:
        raise UsageError(
            f"the classifier '{name}' for images of {image_size} x {image_size} pixels",
            expected=f"at least {least} x {least} pixels",
        )
    of_head, chosen = validated_head(head, head_options), library.validated(model_options)
    net = library.build(in_channels, num_classes, image_size, **chosen)
    head_path, last_path = put_head(net, name, num_classes, head, image_size, of_head)
    return Classifier(
        net,
        name=name,
        in_channels=in_channels,
        num_classes=num_classes,
        head=head,
        head_path=head_path,
        last_path=last_path,
        image_size=image_size,
        min_size=least,
        fixed_size=library.fixed_size,
        head_options=of_head,
        model_options=chosen,
    )


def _load(model: Classifier, library: Library, weights: str | Path) -> WeightReport:
    """Load ImageNet weights or a file into a fresh network, and set its input to match."""
    if weights == "imagenet":
        state, origin = library.fetch(), f"ImageNet weights of {library.name}"
        statistics = library.statistics()
    else:
        state, origin = read_tensors(Path(weights)), str(weights)
        statistics = _statistics_of_file(Path(weights), state, library)
    # The dense head is never in a library's file, and must not count against it.
    head = sum(count_parameters(module) for module in model.head_modules)
    base = 1 - head / count_parameters(model)
    report = load_weights(model, state, 0.5 * base, adapt_input=True, origin=origin)
    if statistics is None:
        return report
    model.pretrained_on(statistics)
    return replace(report, notes=("inputs are brought to the intensities of the images it was pretrained on",))


IMAGENET_CLASSES = 1000
"""A linear layer of so many outputs shows that a file without a card was pretrained on ImageNet."""


def _statistics_of_file(path: Path, state: Mapping[str, torch.Tensor], library: Library) -> InputStatistics | None:
    """What a file's card says; without a card, ImageNet's if it has ImageNet's head."""
    card_file = checkpoint_files(path)[1]
    if card_file.is_file():
        card, _ = read_card(card_file)
        return InputStatistics.from_json(card.options.get("input_statistics"))
    is_imagenet = any(tensor.ndim == 2 and tensor.shape[0] == IMAGENET_CLASSES for tensor in state.values())
    return library.statistics() if is_imagenet else None
