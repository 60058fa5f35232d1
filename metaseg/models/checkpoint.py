"""Checkpoints: weights as ``NAME.safetensors`` and, beside them, what they are as ``NAME.json``.

Nothing is pickled or unpickled, so a checkpoint from a stranger can be read safely, and what is loaded is what was
saved, bit for bit.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from metaseg import __version__
from metaseg.errors import RunError, UsageError
from metaseg.models.padding import PadToStride
from metaseg.models.registry import build_segmenter
from metaseg.models.weights import unique_state

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
        label_space: Name of the label space of its classes.
        options: The network's options, see :func:`~metaseg.models.registry.resolve_options`; JSON values.
        normalisation: How intensities are prepared for it; JSON values.
        trained_on: Names of the cohorts, in the order in which they were learned.
        synthetic: True if any of them was made of phantoms.
        step: Optimiser steps of the training that made it.
        figures: Its figures, such as ``{"Dice/ET": 0.62}``; those not finite are kept as None.
        parent: The checkpoint from which the training started, if any.
        task: ``"segmentation"`` or ``"classification"``.
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
    figures: Mapping[str, float | None] = field(default_factory=dict)
    parent: str | None = None
    task: Literal["segmentation", "classification"] = "segmentation"
    metaseg_version: str = __version__
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        # Brought to what JSON gives back, so that a card read from its file equals the one written.
        figures = {
            key: value if value is not None and math.isfinite(value) else None for key, value in self.figures.items()
        }
        object.__setattr__(self, "figures", figures)
        for key in ("options", "normalisation"):
            try:
                plain = json.loads(json.dumps(getattr(self, key), allow_nan=False))
            except (TypeError, ValueError) as error:
                raise UsageError(f"a model card cannot record these {key} ({error})", expected="JSON values") from error
            object.__setattr__(self, key, plain)


def checkpoint_files(path: str | Path) -> tuple[Path, Path]:
    """The weights' and the card's file of a checkpoint named with or without one of their suffixes."""
    named = Path(path)
    stem = named.stem if named.suffix in (".safetensors", ".json") else named.name
    return named.with_name(stem + ".safetensors"), named.with_name(stem + ".json")


def save_checkpoint(path: str | Path, model: nn.Module, card: ModelCard) -> Path:
    """Write a model's parameters and buffers with its card.

    Each file is written under a temporary name and then renamed, the card last; it holds the weights' checksum, so
    that a pair of two different savings is noticed when it is read.

    Args:
        path: The checkpoint's name, with or without ``.safetensors``; its folder is made if need be.
        model: The model; not changed.
        card: What it is.

    Returns:
        The weights' file.

    Raises:
        UsageError: The card describes another network than this one, which could not be loaded again.
        RunError: The files cannot be written.
    """
    weights_file, card_file = checkpoint_files(path)
    if card.task == "segmentation":
        _require_description(model, card)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in unique_state(model).items()}
    weights = save_safetensors(tensors)
    written = {**asdict(card), "weights_blake2b": _checksum(weights)}
    try:
        weights_file.parent.mkdir(parents=True, exist_ok=True)
        _write(weights_file, weights)
        _write(card_file, (json.dumps(written, indent=2, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise RunError(
            f"cannot write the checkpoint ({error.strerror})",
            where=weights_file,
            remedy="make room, or choose a folder that can be written",
        ) from error
    return weights_file


def _require_description(model: nn.Module, card: ModelCard) -> None:
    described = _described_shapes(card.name, card.in_channels, card.num_classes, json.dumps(card.options))
    differing = set(described.items()) ^ {(name, tuple(tensor.shape)) for name, tensor in unique_state(model).items()}
    if differing:
        raise UsageError(
            f"the card describes another network than the model: {sorted(differing)[0][0]} differs",
            expected=f"{card.name} of {card.in_channels} modalities and {card.num_classes} classes, {card.options}",
            remedy="give the card the name and options with which the model was built",
        )


@lru_cache(maxsize=8)
def _described_shapes(name: str, in_channels: int, num_classes: int, options: str) -> dict[str, tuple[int, ...]]:
    model = build_segmenter(name, in_channels, num_classes, seed=0, **json.loads(options))
    return {key: tuple(tensor.shape) for key, tensor in unique_state(model).items()}


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> tuple[PadToStride, ModelCard]:
    """Rebuild a segmentation network from its checkpoint.

    Args:
        path: The checkpoint's name, with or without ``.safetensors``.
        device: Where the model is put.

    Returns:
        The model in training mode, its numbers of the saved type and value; and its card.

    Raises:
        RunError: A file is missing or damaged, the two do not belong together, or the card is of a newer format.
    """
    tensors, card = read_checkpoint(path)
    where = checkpoint_files(path)[0]
    if card.task != "segmentation":
        raise RunError(f"the checkpoint is for {card.task}", where=where, expected="a segmentation network")
    # A seed of any value: all weights are replaced, and the global generator stays as it was.
    model = build_segmenter(card.name, card.in_channels, card.num_classes, seed=0, **card.options)
    restore(model, tensors, where)
    return model.to(device), card


def read_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], ModelCard]:
    """Read and check both files of a checkpoint of any task, without building the model.

    Raises:
        RunError: As for :func:`load_checkpoint`.
    """
    weights_file, card_file = checkpoint_files(path)
    raw = _read(weights_file)
    card, checksum = _read_card(card_file)
    if checksum != _checksum(raw):
        raise RunError(
            "weights and card do not belong together, or the weights are damaged",
            where=weights_file,
            expected=f"the file whose checksum (blake2b) is {checksum}",
            remedy="copy both files again, or use another checkpoint of the run ('best', 'last')",
        )
    try:
        return load_safetensors(raw), card
    except SafetensorError as error:
        raise RunError(f"the weights are damaged ({error})", where=weights_file) from error


def restore(model: nn.Module, tensors: Mapping[str, torch.Tensor], where: str | Path) -> None:
    """Put every tensor in its place, bit for bit, number type included.

    Args:
        model: Changed in place; on the CPU.
        tensors: Exactly those of :func:`~metaseg.models.weights.unique_state`.
        where: The file, for the message.

    Raises:
        RunError: Names or shapes differ; the model is then as it was.
    """
    own = unique_state(model)
    differing = [name for name in {**own, **tensors} if name not in own or name not in tensors]
    differing += [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    if differing:
        raise RunError(
            f"the card describes another network than the weights: {len(differing)} tensors differ, "
            f"such as {', '.join(differing[:3])}",
            where=where,
            remedy="load what fits into a network that you build yourself, with --weights",
        )
    for name, tensor in own.items():
        tensor.data = tensors[name].clone()


def upgrade_card(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what a card of an older release lacks with the value that was implied then.

    A key that is added to :class:`ModelCard` gets a default that says what held before there was a choice; a card of an
    older release then reads as if it had been written with it.
    """
    implied = {
        item.name: item.default_factory() if item.default_factory is not MISSING else item.default
        for item in fields(ModelCard)
        if item.default is not MISSING or item.default_factory is not MISSING
    }
    # An unnamed release is not this one.
    return {**implied, "metaseg_version": "unknown", **raw, "format_version": FORMAT_VERSION}


def _read_card(file: Path) -> tuple[ModelCard, str]:
    try:
        raw = json.loads(_read(file))
        version = int(raw.get("format_version", FORMAT_VERSION))
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"the card is damaged ({error})", where=file, expected="a JSON object") from error
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


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RunError(
            f"cannot read the checkpoint ({error.strerror})",
            where=file,
            expected="NAME.safetensors with the weights and NAME.json with their card, in one folder",
            remedy="check the path; weights without a card can be loaded into a network with --weights",
        ) from error


def _write(file: Path, content: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _checksum(content: bytes) -> str:
    return blake2b(content, digest_size=20).hexdigest()
