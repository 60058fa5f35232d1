"""``state.json``: how far a run has come, so that it can be continued and listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from metaseg.checked_files import FileKind, check_shape, read_json
from metaseg.errors import RunError
from metaseg.written_files import write_json

Status = Literal["running", "finished", "stopped", "failed"]
STATE_NAME = "state.json"
FORMAT = 1
STATE_KIND = FileKind("the state.json of a metaseg run", "start the run again with --overwrite")


@dataclass(frozen=True)
class StateContent:
    """What ``state.json`` holds, beside its format; a run of an earlier version has no digest of its settings."""

    verb: str
    status: Status
    reason: str | None
    figures: dict[str, float | None]
    stages: dict[str, list[str]]
    settings: str | None = None


class RunState:
    """What stages and steps of a run are done, its status and its best figures.

    Every change is on the disk when the call returns. Marking a step that is marked changes nothing, so that a stage
    may be gone through again after an interruption.

    Attributes:
        path: The file.
        verb: What made the run, such as ``"pretrain"``.
        status: ``running``, ``finished``, ``stopped`` (by the user or a signal) or ``failed``.
        reason: Why it stopped or failed, or None.
        figures: Best figures by name, such as ``{"val/dice/ET": 0.71}``.
        settings: Digest of the settings in ``config.yaml``; None if it is not known.
    """

    def __init__(self, path: Path, content: StateContent) -> None:
        self.path = path
        self.verb, self.status, self.reason = content.verb, content.status, content.reason
        self.figures, self._stages, self.settings = content.figures, content.stages, content.settings

    @classmethod
    def create(cls, path: Path, verb: str, settings: str | None = None) -> RunState:
        """Write the state of a run that begins."""
        state = cls(path, StateContent(verb, "running", None, {}, {}, settings))
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
        return cls(path, check_shape(content, StateContent, partial(STATE_KIND.refuse, path=path)))

    @property
    def is_empty(self) -> bool:
        """Whether no step is done and no figure known."""
        return not self._stages and not self.figures

    def is_done(self, stage: str, step: str | int) -> bool:
        """Whether a step of a stage was marked as done."""
        return str(step) in self._stages.get(stage, ())

    def done(self, stage: str) -> tuple[str, ...]:
        """The done steps of a stage, in the order in which they were marked."""
        return tuple(self._stages.get(stage, ()))

    def mark(self, stage: str, step: str | int) -> None:
        """Mark a step of a stage as done."""
        steps = self._stages.setdefault(stage, [])
        if str(step) not in steps:
            steps.append(str(step))
            self._save()

    def set_status(self, status: Status, reason: str | None = None) -> None:
        """Set the status and, for a run that stopped or failed, why."""
        self.status, self.reason = status, reason
        self._save()

    def set_figures(self, figures: Mapping[str, float]) -> None:
        """Record the best figures, replacing those of the same name; NaN becomes None."""
        self.figures.update({name: float(value) if value == value else None for name, value in figures.items()})
        self._save()

    def _save(self) -> None:
        content = StateContent(self.verb, self.status, self.reason, self.figures, self._stages, self.settings)
        write_json(self.path, {"format": FORMAT, **asdict(content)})
