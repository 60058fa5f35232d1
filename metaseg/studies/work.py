"""What a study has to do, as its processes and its display see it: units, and how to do one.

Comparisons of adaptation methods and of classifiers share processes, restarts and display through this.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class WorkUnit(Protocol):
    """One piece of work, done by one process; hashable and picklable."""

    @property
    def name(self) -> str:
        """As in messages."""
        ...

    @property
    def label(self) -> str:
        """The entry that it belongs to; units of one label take about as long."""
        ...

    @property
    def folder(self) -> Path:
        """Its folder within the study."""
        ...


class Work(Protocol):
    """All units of a study; picklable."""

    @property
    def folder(self) -> Path:
        """The study's folder."""
        ...

    @property
    def units(self) -> Sequence[Any]:
        """All work, each unit behind what it needs."""
        ...

    @property
    def jobs(self) -> int:
        """Processes that work side by side."""
        ...

    @property
    def threads(self) -> int:
        """Threads of each process; 0 divides the cores."""
        ...

    def needs(self, unit: Any) -> Sequence[Any]:
        """The units that must be done before this one."""
        ...

    def is_done(self, unit: Any) -> bool:
        """Whether a unit is finished with the settings that it should have."""
        ...

    def do(self, unit: Any) -> None:
        """Do what is missing of a unit.

        Raises:
            BusyError: Another process is at it.
            MetasegError: It cannot be done.
        """
        ...

    def amount(self, unit: Any) -> float:
        """How much work a unit is, in any measure that all units share."""
        ...

    def spent(self, unit: Any) -> float:
        """How much of it is done, by the unit's own files."""
        ...

    def pace(self, unit: Any) -> float | None:
        """Seconds for each piece of that amount, of a unit that is done; None if it does not tell."""
        ...
