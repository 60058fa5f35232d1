"""How far a run has come: ``state.json``, by which runs are listed, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from metaseg.errors import RunError
from metaseg.files import FileKind, check_shape, read_json, write_json

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
