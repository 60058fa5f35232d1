"""Building a classifier by name, from fresh weights, ImageNet's, or a file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metaseg.errors import UsageError
from metaseg.models.card import checkpoint_files, read_card
from metaseg.models.classifier import Classifier
from metaseg.models.classifier_heads import Head, put_head
from metaseg.models.classifier_libraries import Library, find_classifier
from metaseg.models.pretrained_input import InputStatistics
from metaseg.models.registry import count_parameters, seeded
from metaseg.models.weights import WeightReport, load_weights, read_tensors

logger = logging.getLogger(__name__)

IMAGENET_CLASSES = 1000
"""A linear layer of so many outputs shows that a file without a card was pretrained on ImageNet."""


def build_classifier(
    name: str,
    in_channels: int,
    num_classes: int,
    weights: str | Path | None = None,
    *,
    seed: int | None = None,
    head: Head = "linear",
    image_size: int = 224,
    on_weights: Callable[[WeightReport], object] | None = None,
) -> Classifier:
    """Build a slice classifier on the CPU, in training mode.

    Args:
        name: One of :func:`~metaseg.models.classifier_libraries.classifier_names`, or any classifier of torchvision or
            timm, with ``torchvision:`` or ``timm:`` before it if need be.
        in_channels: Number of input channels.
        num_classes: Number of classes.
        weights: None or ``"none"``; ``"imagenet"`` for the library's weights; or a file: a metaseg checkpoint of a
            classifier, any ``.safetensors``, or a ``.pth`` such as torchvision's own, read without unpickling objects.
            A first convolution of other channels is spread over ``in_channels``.
        seed: Makes the initialisation reproducible and leaves torch's global generator untouched; None draws from it.
        head: ``"linear"``, or ``"dense"`` for Al-Janabi's, see :func:`~metaseg.models.classifier_heads.put_head`.
        image_size: Height and width of the images in pixels. Most networks take others too.
        on_weights: Is given the report of what was loaded; without it, the report is logged.

    Returns:
        A module from images ``(batch, channel, height, width)`` to logits ``(batch, class)``.

    Raises:
        UsageError: The network or head is unknown, or there are no ImageNet weights for it.
        DataError: The weights cannot be read or fit less than half of the network's base.
        MetasegError: The download of the ImageNet weights failed.
    """
    library = find_classifier(name)
    if weights == "imagenet" and library.statistics() is None:
        library.fetch()  # says which networks have them
    with seeded(seed), torch.device("cpu"):
        model = _assemble(library, name, in_channels, num_classes, head, image_size)
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
    known = {"head": "linear", "image_size": 224, "input_statistics": None}
    given = {**known, **options}
    if given.keys() != known.keys() or not isinstance(given["image_size"], int):
        raise UsageError(
            f"the options {dict(options)} are none of a classifier",
            expected="head, image_size (a whole number), input_statistics",
            remedy="record the options of the classifier itself, its attribute 'options'",
        )
    statistics = InputStatistics.from_json(given["input_statistics"])
    with seeded(0):
        model = _assemble(find_classifier(name), name, in_channels, num_classes, given["head"], given["image_size"])
    model.pretrained_on(statistics)
    return model


def _assemble(
    library: Library, name: str, in_channels: int, num_classes: int, head: Head, image_size: int
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
    net = library.build(in_channels, num_classes, image_size)
    head_path, last_path = put_head(net, name, num_classes, head)
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


def _statistics_of_file(path: Path, state: Mapping[str, torch.Tensor], library: Library) -> InputStatistics | None:
    """What a file's card says; without a card, ImageNet's if it has ImageNet's head."""
    card_file = checkpoint_files(path)[1]
    if card_file.is_file():
        card, _ = read_card(card_file)
        return InputStatistics.from_json(card.options.get("input_statistics"))
    is_imagenet = any(tensor.ndim == 2 and tensor.shape[0] == IMAGENET_CLASSES for tensor in state.values())
    return library.statistics() if is_imagenet else None
