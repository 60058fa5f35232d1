"""What a study has to do: units of work, how each is done, and which are left.

Comparisons of adaptation methods and of classifiers, and searches of hyper-parameters, share processes, restarts and
display through this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

CELLS, SEARCHES = "cells", "searches"
ORACLE = "oracle"
"""Name of the order that needs to know the target, and of the run of each target that does."""


@dataclass(frozen=True)
class Unit:
    """One piece of work, done by one process: a cell, the search of an entry, or a target's oracle run.

    Attributes:
        kind: Which of them.
        target: Target domain; empty where a study has none.
        label: The entry that it belongs to; units of one label take about as long.
        shots: Labelled patients of a cell; None where a study does not vary them.
        seed: Seed of a cell.
    """

    kind: Literal["oracle", "search", "cell"]
    target: str
    label: str = ORACLE
    shots: int | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """As in messages: ``met/naive/shots-5/seed-0``."""
        parts = [self.target, self.label]
        if self.kind == "search":
            parts.append("search")
        elif self.kind == "cell":
            parts += ["" if self.shots is None else f"shots-{self.shots}", f"seed-{self.seed}"]
        return "/".join(filter(None, parts))

    @property
    def folder(self) -> Path:
        """Its folder within the study."""
        if self.kind == "search":
            return Path(SEARCHES, self.target, self.label)
        return Path(CELLS, self.name)


class Work(ABC):
    """All units of a study; picklable, since every process has its own.

    A unit is hashable and picklable, and has a ``name`` for messages, a ``label`` and a ``folder`` within the study.

    Attributes:
        study: Its settings.
        folder: Its folder.
    """

    study: Any
    folder: Path

    @property
    def jobs(self) -> int:
        """Processes that work side by side."""
        return int(self.study.jobs)

    @property
    def threads(self) -> int:
        """Threads of each process; 0 divides the cores."""
        return int(self.study.threads)

    @property
    @abstractmethod
    def units(self) -> Sequence[Any]:
        """All work, each unit behind what it needs."""

    @abstractmethod
    def is_done(self, unit: Any) -> bool:
        """Whether a unit is finished with the settings that it should have."""

    @abstractmethod
    def do(self, unit: Any) -> None:
        """Do what is missing of a unit.

        Raises:
            BusyError: Another process is at it.
            MetasegError: It cannot be done.
        """

    def needs(self, unit: Any) -> Sequence[Any]:
        """The units that must be done before this one."""
        return ()

    def amount(self, unit: Any) -> float:
        """How much work a unit is, in any measure that all units share."""
        return 1.0

    def spent(self, unit: Any) -> float:
        """How much of it is done, by the unit's own files; 0 where nothing of a unit is counted before its end."""
        return 0.0

    @abstractmethod
    def pace(self, unit: Any) -> float | None:
        """Seconds for each piece of that amount, of a unit that is done; None if it does not tell."""

    def left_to_do(self) -> list[Any]:
        """The units that are not done, and those that need them anew."""
        todo: list[Any] = []
        for unit in self.units:
            if any(need in todo for need in self.needs(unit)) or not self.is_done(unit):
                todo.append(unit)
        return todo
