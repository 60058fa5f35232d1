"""The state from which a training continues to the same bits: weights, optimiser, counters and random generators."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from metaseg.errors import RunError, TrainingError, warn_user
from metaseg.files import FORMER_KEYS, replacing
from metaseg.models.weights import non_finite

MAGIC = b"metaseg training state 1\n"


def save_training_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training state, replacing the file at once and only when the new one is complete on the disk.

    Args:
        path: The file.
        state: Nested mappings, lists and tuples of tensors, numbers, texts, ``bytes`` and None: state dicts of network
            and optimiser, counters, ``torch.get_rng_state()``, ``generator.bit_generator.state``.

    Raises:
        TypeError: Something else is in it, which could not be read back without unpickling code.
        TrainingError: A tensor in it is not finite.
    """
    _check_plain(state, "state")
    name = non_finite(_tensors(state, "state"))
    if name is not None:
        raise TrainingError(
            f"the training diverged: {name} holds values that are not finite",
            where=path,
            expected="finite numbers; the file still holds the state before",
            remedy="lower the learning rate and start again",
        )
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getbuffer()
    with replacing(path) as stream:
        stream.write(MAGIC + hashlib.sha256(content).digest())
        stream.write(content)


def can_go_on(path: Path, resume: bool) -> bool:
    """Whether there is a training state to continue from; says so where weights are there without one."""
    if resume and not path.exists() and any(path.parent.glob("*.safetensors")):
        warn_user(
            "there is no training state beside the weights: the training begins again at step 0",
            where=path,
            remedy="copy the file back and resume again, if it was deleted",
        )
    return resume and path.exists()


def load_training_state(path: Path) -> dict[str, Any]:
    """Read a training state onto the CPU; nothing in the file is run.

    Raises:
        RunError: The file is missing, cut off, damaged or no training state.
    """
    remedy = "start the run again with --overwrite"
    expected = "a training state that metaseg wrote"
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"cannot read the training state: {reason}", where=path, remedy=remedy) from error
    if not content.startswith(MAGIC):
        raise RunError("this is no training state", where=path, expected=expected, remedy=remedy)
    body = memoryview(content)[len(MAGIC) + hashlib.sha256().digest_size :]
    if hashlib.sha256(body).digest() != content[len(MAGIC) : len(content) - len(body)]:
        raise RunError("the training state is cut off or damaged", where=path, expected=expected, remedy=remedy)
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:
        raise RunError(f"the training state cannot be read: {error}", where=path, remedy=remedy) from error
    name = non_finite(_tensors(state, "state"))
    if name is not None:
        raise RunError(f"the training state is of a training that diverged: {name}", where=path, remedy=remedy)
    return _by_todays_names(state)


def _by_todays_names(value: Any) -> Any:
    """Dictionaries with the keys of today, where metaseg called them otherwise."""
    if not isinstance(value, dict):
        return value
    return {FORMER_KEYS.get(key, key): _by_todays_names(item) for key, item in value.items()}


def _tensors(value: Any, where: str) -> dict[str, torch.Tensor]:
    """All tensors by the way to them, such as ``state['model']['head.weight']``."""
    if isinstance(value, torch.Tensor):
        return {where: value}
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {name: tensor for key, item in items for name, tensor in _tensors(item, f"{where}[{key!r}]").items()}


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if type(key) not in (str, int):
                raise TypeError(f"{where} has a key of type {type(key).__name__}; use texts or whole numbers")
            _check_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            _check_plain(item, f"{where}[{position}]")
    elif type(value) not in (int, float, bool, str, bytes, type(None)) and not isinstance(value, torch.Tensor):
        # numpy scalars and arrays are among these: weights_only refuses them, but only when the run is continued.
        raise TypeError(f"{where} is a {type(value).__name__}; a training state holds tensors and plain values only")
