"""How far a run has come: ``state.json``, by which it is listed, and the state from which its training continues.

The training state (weights, optimiser, counters and random generators) continues a training to the same bits.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from metaseg.errors import RunError, TrainingError, warn_user
from metaseg.files import FORMER_KEYS, FileKind, check_shape, read_json, replacing, write_json
from metaseg.models.weights import non_finite

Status = Literal["running", "finished", "stopped", "failed"]
STATE_NAME = "state.json"
FORMAT = 1
STATE_KIND = FileKind("the state.json of a metaseg run", "start the run again with --overwrite")


@dataclass
class RunState:
    """What stages and steps of a run are done, its status and its best metrics; what ``state.json`` holds.

    Every change is on the disk when the call returns. Marking a step that is marked changes nothing, so that a stage
    may be gone through again after an interruption.

    Attributes:
        verb: What made the run, such as ``"pretrain"``.
        status: ``running``, ``finished``, ``stopped`` (by the user or a signal) or ``failed``.
        reason: Why it stopped or failed, or None.
        metrics: Best metrics by name, such as ``{"val/dice/ET": 0.71}``.
        stages: The done steps of each stage, in the order in which they were marked.
        settings: Digest of the settings in ``config.yaml``; None if it is not known, as of an earlier version.
        path: The file.
    """

    verb: str
    status: Status
    reason: str | None
    metrics: dict[str, float | None]
    stages: dict[str, list[str]]
    settings: str | None = None
    path: Path = Path()

    @classmethod
    def create(cls, path: Path, verb: str, settings: str | None = None) -> RunState:
        """Write the state of a run that begins."""
        state = cls(verb, "running", None, {}, {}, settings, path)
        state._save()
        return state

    @classmethod
    def open(cls, path: Path) -> RunState:
        """Read a state.

        Raises:
            RunError: The file is missing, damaged or of a later version.
        """
        content = read_json(path, STATE_KIND)
        if isinstance(content.get("format"), int) and content["format"] > FORMAT:
            raise RunError(
                f"the run was made by a later metaseg (format {content['format']})",
                where=path,
                expected=f"format {FORMAT} or earlier",
                remedy="upgrade metaseg",
            )
        return replace(check_shape(content, cls, partial(STATE_KIND.refuse, path=path)), path=path)

    @property
    def is_empty(self) -> bool:
        """Whether no step is done and no metric known."""
        return not self.stages and not self.metrics

    def is_done(self, stage: str, step: str | int) -> bool:
        """Whether a step of a stage was marked as done."""
        return str(step) in self.stages.get(stage, ())

    def done(self, stage: str) -> tuple[str, ...]:
        """The done steps of a stage, in the order in which they were marked."""
        return tuple(self.stages.get(stage, ()))

    def mark(self, stage: str, step: str | int) -> None:
        """Mark a step of a stage as done."""
        steps = self.stages.setdefault(stage, [])
        if str(step) not in steps:
            steps.append(str(step))
            self._save()

    def set_status(self, status: Status, reason: str | None = None) -> None:
        """Set the status and, for a run that stopped or failed, why."""
        self.status, self.reason = status, reason
        self._save()

    def set_metrics(self, metrics: Mapping[str, float]) -> None:
        """Record the best metrics, replacing those of the same name; NaN becomes None."""
        self.metrics.update({name: float(value) if value == value else None for name, value in metrics.items()})
        self._save()

    def _save(self) -> None:
        content = {name: value for name, value in vars(self).items() if name != "path"}
        write_json(self.path, {"format": FORMAT, **content})


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
