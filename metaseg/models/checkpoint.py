"""Checkpoints: weights as ``NAME.safetensors`` and, beside them, what they are as ``NAME.json``.

Nothing is pickled or unpickled, so a checkpoint from a stranger can be read safely, and what is loaded is what was
saved, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from metaseg.errors import RunError, TrainingError, UsageError
from metaseg.files import link_or_copy, replacing, write_text
from metaseg.models.card import ModelCard, Task, checkpoint_files, read_card, read_file
from metaseg.models.classifier import Classifier
from metaseg.models.classifiers import rebuild_classifier
from metaseg.models.segmenters import PadToStride, build_segmenter, find_segmenter, is_given
from metaseg.models.weights import non_finite, require_finite, unique_state

__all__ = [
    "ModelCard",
    "checkpoint_files",
    "keep_checkpoint",
    "load_checkpoint",
    "load_classifier",
    "read_checkpoint",
    "restore",
    "save_checkpoint",
]

KINDS: dict[Task, tuple[str, str]] = {
    "segmentation": ("a network that segments", "name one that 'metaseg pretrain', 'tune' or 'metatune' made"),
    "classification": ("a slice classifier", "name one that a training of a classifier made"),
}
"""Of each task, the network that is expected, and what to do where it is not."""


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
        TrainingError: A weight is not finite.
        WriteError: The files cannot be written.
    """
    weights_file, card_file = checkpoint_files(path)
    _require_description(model, card)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in unique_state(model).items()}
    name = non_finite(tensors)
    if name is not None:
        raise TrainingError(
            f"the weights are not saved: {name} holds values that are not finite",
            where=weights_file,
            expected="finite numbers",
            remedy="lower the learning rate and start again",
        )
    weights = save_safetensors(tensors)
    written = {**asdict(card), "weights_blake2b": _checksum(weights)}
    if card.plugin is None:
        del written["plugin"]
    with replacing(weights_file) as stream:
        stream.write(weights)
    write_text(card_file, json.dumps(written, indent=2, ensure_ascii=False) + "\n")
    return weights_file


def keep_checkpoint(source: str | Path, path: str | Path) -> None:
    """Keep weights and card of a checkpoint under another name too; they are then there if the first are deleted.

    Args:
        source: The checkpoint.
        path: The other name; a checkpoint of that name is replaced.

    Raises:
        WriteError: The files cannot be written.
    """
    for old, new in zip(checkpoint_files(source), checkpoint_files(path), strict=True):
        link_or_copy(old, new)


def _require_description(model: nn.Module, card: ModelCard) -> None:
    described = _described(card)
    differing = sorted(described.items() ^ _description(model).items())
    if differing:
        raise UsageError(
            f"the card describes another network than the model: {differing[0][0]} differs",
            expected=f"{card.name} of {card.in_channels} modalities and {card.num_classes} classes, {card.options}",
            remedy="give the card the name and options with which the model was built",
        )


def _description(model: nn.Module) -> dict[str, str]:
    """Shapes of all tensors by name, and of a classifier what else its card must say."""
    described = {name: str(tuple(tensor.shape)) for name, tensor in unique_state(model).items()}
    return {**described, "options": json.dumps(model.options)} if isinstance(model, Classifier) else described


def _described(card: ModelCard) -> dict[str, str]:
    """:func:`_description` of the network that a card describes."""
    describe = _describe_cached.__wrapped__ if is_given(card.name) else _describe_cached
    return describe(card.task, card.name, card.in_channels, card.num_classes, json.dumps(card.options))


@lru_cache(maxsize=8)
def _describe_cached(*network: Any) -> dict[str, str]:
    try:
        # Without memory: a card may describe a network of any size.
        with torch.device("meta"):
            return _description(_build(*network))
    except NotImplementedError:  # a network whose making reads its own numbers, such as torchvision's regnets
        return _description(_build(*network))


def _build(task: Task, name: str, in_channels: int, num_classes: int, options: str) -> nn.Module:
    """The network that a card describes; its weights mean nothing, and the global generator stays as it was."""
    if task == "segmentation":
        return build_segmenter(name, in_channels, num_classes, seed=0, **json.loads(options))
    return rebuild_classifier(name, in_channels, num_classes, json.loads(options))


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> tuple[PadToStride, ModelCard]:
    """Rebuild a segmentation network from its checkpoint.

    Args:
        path: The checkpoint's name, with or without ``.safetensors``.
        device: Where the model is put.

    Returns:
        The model in training mode, its numbers of the saved type and value; and its card.

    Raises:
        RunError: A file is missing or damaged, the two do not belong together, the card is of a newer format, or the
            network classifies slices.
    """
    tensors, card = _read_for("segmentation", path)
    # A seed of any value: all weights are replaced, and the global generator stays as it was.
    model = build_segmenter(card.name, card.in_channels, card.num_classes, seed=0, **card.options)
    restore(model, tensors, checkpoint_files(path)[0])
    return model.to(device), card


def load_classifier(path: str | Path, device: str | torch.device = "cpu") -> tuple[Classifier, ModelCard]:
    """Rebuild a slice classifier from its checkpoint, its head and its input statistics included.

    Args and returns are those of :func:`load_checkpoint`.

    Raises:
        RunError: As for :func:`load_checkpoint`, or the network is one for segmentation.
    """
    tensors, card = _read_for("classification", path)
    with torch.device("cpu"):
        model = rebuild_classifier(card.name, card.in_channels, card.num_classes, card.options)
    restore(model, tensors, checkpoint_files(path)[0])
    model.pretrained_on(model.input.statistics)  # in the number type of the weights
    return model.to(device), card


def _read_for(task: Task, path: str | Path) -> tuple[dict[str, torch.Tensor], ModelCard]:
    """Both files of a checkpoint of one task."""
    tensors, card = read_checkpoint(path)
    if card.task != task:
        wanted, remedy = KINDS[task]
        raise RunError(
            f"the checkpoint is for {card.task}", where=checkpoint_files(path)[0], expected=wanted, remedy=remedy
        )
    card_file = checkpoint_files(path)[1]
    try:
        if card.task == "segmentation":
            find_segmenter(card.name, card.plugin)
        described = _described(card)
    except (UsageError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        found, expected = (error.found, error.expected) if isinstance(error, UsageError) else (str(error), None)
        foreign = card.plugin is not None or (":" in card.name and card.task == "segmentation")
        told = error.remedy if foreign and isinstance(error, UsageError) else None
        raise RunError(
            f"the card describes a network that cannot be built: {found.splitlines()[0]}",
            where=card_file,
            expected=expected,
            remedy=told or "take the card that was written with the weights",
        ) from error
    _require_same({name: shape for name, shape in described.items() if name != "options"}, tensors, card_file)
    return tensors, card


def read_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], ModelCard]:
    """Read and check both files of a checkpoint of any task, without building the model.

    Raises:
        RunError: As for :func:`load_checkpoint`.
    """
    weights_file, card_file = checkpoint_files(path)
    raw = read_file(weights_file)
    card, checksum = read_card(card_file)
    if checksum != _checksum(raw):
        raise RunError(
            "weights and card do not belong together, or the weights are damaged",
            where=weights_file,
            expected=f"the file whose checksum (blake2b) is {checksum}",
            remedy="copy both files again, or use another checkpoint of the run ('best', 'last')",
        )
    try:
        tensors = load_safetensors(raw)
    except SafetensorError as error:
        raise RunError(f"the weights are damaged ({error})", where=weights_file) from error
    require_finite(tensors, RunError, weights_file)
    return tensors, card


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
    _require_same({name: str(tuple(tensor.shape)) for name, tensor in own.items()}, tensors, where)
    for name, tensor in own.items():
        tensor.data = tensors[name].clone()


def _require_same(own: Mapping[str, str], tensors: Mapping[str, torch.Tensor], where: str | Path) -> None:
    """Raise unless tensors have the names and shapes of a network."""
    given = {name: str(tuple(tensor.shape)) for name, tensor in tensors.items()}
    differing = list(dict.fromkeys(name for name in (*own, *given) if own.get(name) != given.get(name)))
    if differing:
        raise RunError(
            f"the card describes another network than the weights: {len(differing)} tensors differ, "
            f"such as {', '.join(differing[:3])}",
            where=where,
            remedy="load what fits into a network that you build yourself, with --weights",
        )


def _checksum(content: bytes) -> str:
    return blake2b(content, digest_size=20).hexdigest()
