"""The model card: what a checkpoint's weights are, as JSON beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from metaseg.cases.labels import LABEL_SPACES
from metaseg.errors import RunError, UsageError
from metaseg.files import FileKind, read_json
from metaseg.version import __version__

Task = Literal["segmentation", "classification"]

CARD_KIND = FileKind(
    "the card of a checkpoint", "take the one that was written with the weights; --weights loads weights without one"
)

LARGEST_SIZE = 1 << 16
"""Pixels along the side of an image, more than any scanner gives."""

FORMAT_VERSION = 1
"""Raised when a card of before could no longer be read as one of now."""


@dataclass(frozen=True)
class ModelCard:
    """What a checkpoint's weights are, and all that is needed to use them.

    Attributes:
        name: The network's registered name.
        in_channels: Number of modalities.
        num_classes: Number of classes with the background.
        modalities: Names of the modalities in the order in which the network takes them.
        label_space: Name of the label space of its classes; ``"classes"`` where they are named in ``classes``.
        options: The network's options; JSON values. See :func:`~metaseg.models.segmenters.resolve_options` for networks
            that segment, and :attr:`~metaseg.models.classifier.Classifier.options` for those that classify.
        normalisation: How intensities are prepared for it; JSON values.
        trained_on: Names of the cohorts, in the order of training.
        synthetic: True if any of them was made of phantoms.
        step: Optimiser steps of the training that made it.
        metrics: Its metrics, such as ``{"Dice/ET": 0.62}``; those not finite are kept as None.
        parent: The checkpoint from which the training started, if any.
        task: ``"segmentation"`` or ``"classification"``.
        classes: Names of the classes in the order of the logits, of a classifier; empty where ``label_space`` says it.
        plugin: The package that the network is from, such as ``"my-package 1.2"``; None for metaseg's own.
        metaseg_version: The release that wrote it.
        format_version: Of this card, :data:`FORMAT_VERSION`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    in_channels: int
    num_classes: int
    modalities: tuple[str, ...]
    label_space: str
    options: Mapping[str, Any] = field(default_factory=dict)
    normalisation: Mapping[str, Any] = field(default_factory=dict)
    trained_on: tuple[str, ...] = ()
    synthetic: bool = False
    step: int = 0
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    parent: str | None = None
    task: Task = "segmentation"
    classes: tuple[str, ...] = ()
    plugin: str | None = None
    metaseg_version: str = __version__
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        # Brought to what JSON gives back, so that a card read from its file equals the one written.
        metrics = {
            key: value if value is not None and math.isfinite(value) else None for key, value in self.metrics.items()
        }
        object.__setattr__(self, "metrics", metrics)
        for key in ("options", "normalisation"):
            try:
                plain = json.loads(json.dumps(getattr(self, key), allow_nan=False))
            except (TypeError, ValueError) as error:
                raise UsageError(f"a model card cannot record these {key} ({error})", expected="JSON values") from error
            object.__setattr__(self, key, plain)
        self._check_classes()
        names = ", ".join(self.modalities) or "(none)"
        if not len({*self.modalities}) == len(self.modalities) == self.in_channels:
            raise UsageError(
                f"a model card of {self.in_channels} modalities names {names}", expected="each modality once, in order"
            )
        for key in ("image_size", "input_size"):
            size = self.normalisation.get(key)
            if size is not None and (type(size) is not int or not 1 <= size <= LARGEST_SIZE):
                raise UsageError(f"a model card's {key} is {size}", expected=f"1 to {LARGEST_SIZE} pixels, or none")

    def _check_classes(self) -> None:
        if self.task == "segmentation":
            space = LABEL_SPACES.get(self.label_space)
            if space is None or space.num_classes != self.num_classes:
                raise UsageError(
                    f"a model card has {self.num_classes} classes in the label space '{self.label_space}'",
                    expected=" or ".join(f"{known.num_classes} in '{name}'" for name, known in LABEL_SPACES.items()),
                )
        elif not 2 <= len({*self.classes}) == len(self.classes) == self.num_classes:
            raise UsageError(
                f"a model card of {self.num_classes} classes names {', '.join(self.classes) or '(none)'}",
                expected="two classes at least, and each name once",
                remedy="give the names in the order of the logits",
            )


def checkpoint_files(path: str | Path) -> tuple[Path, Path]:
    """The weights' and the card's file of a checkpoint named with or without one of their suffixes."""
    named = Path(path)
    stem = named.stem if named.suffix in (".safetensors", ".json") else named.name
    return named.with_name(stem + ".safetensors"), named.with_name(stem + ".json")


def upgrade_card(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a card of an older release to today's format.

    A key that is added to :class:`ModelCard` gets a default that says what held before there was a choice; a card of an
    older release then reads as if it had been written with it.
    """
    # An unnamed release is not this one.
    return {"metaseg_version": "unknown", **raw, "format_version": FORMAT_VERSION}


def read_card(file: Path) -> tuple[ModelCard, str]:
    """Read a card's file: the card, and the checksum of the weights that it was written with.

    Raises:
        RunError: The file is missing or damaged, of a newer format, or describes nothing that there could be.
    """
    raw = read_json(file, CARD_KIND)
    version = raw.get("format_version", FORMAT_VERSION)
    if not isinstance(version, int):
        raise CARD_KIND.refuse("the card does not say its format", file)
    if version > FORMAT_VERSION:
        raise RunError(
            f"the card is of format {version}",
            where=file,
            expected=f"format {FORMAT_VERSION} or older",
            remedy=f"update metaseg: the card was written by {raw.get('metaseg_version', 'a newer release')}",
        )
    complete = upgrade_card(raw)
    checksum = str(complete.pop("weights_blake2b", "none"))
    try:
        return TypeAdapter(ModelCard).validate_python(complete), checksum
    except (ValidationError, UsageError) as error:
        problems = (
            [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
            if isinstance(error, ValidationError)
            else [error.found]
        )
        raise RunError(
            "the card cannot be used: " + "; ".join(problems),
            where=file,
            expected="the keys " + ", ".join(item.name for item in fields(ModelCard)),
            remedy="take the card that was written with the weights",
        ) from error


def read_file(file: Path) -> bytes:
    """The bytes of one of a checkpoint's files.

    Raises:
        RunError: It cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise RunError(
            f"cannot read the checkpoint ({error.strerror})",
            where=file,
            expected="NAME.safetensors with the weights and NAME.json with their card, in one folder",
            remedy="check the path; weights without a card can be loaded into a network with --weights",
        ) from error
