"""The work of a comparison of adaptation methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaseg.studies.cells import last_step, pace_of, run_unit
from metaseg.studies.plan import Plan, Unit
from metaseg.studies.search import best_values, run_search
from metaseg.studies.tables import is_done
from metaseg.studies.work import Work


@dataclass(frozen=True)
class PlanWork:
    """A plan as :class:`~metaseg.studies.work.Work`; amounts are slice gradient evaluations.

    Attributes:
        plan: The comparison.
    """

    plan: Plan

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.plan.folder

    @property
    def units(self) -> Sequence[Unit]:
        """All work."""
        return self.plan.units

    @property
    def jobs(self) -> int:
        """Processes that work side by side."""
        return self.plan.study.jobs

    @property
    def threads(self) -> int:
        """Threads of each process."""
        return self.plan.study.threads

    def needs(self, unit: Unit) -> tuple[Unit, ...]:
        """The units that must be done before this one."""
        return self.plan.needs(unit)

    def is_done(self, unit: Unit) -> bool:
        """Whether a unit is finished."""
        return is_done(self.plan, unit)

    def do(self, unit: Unit) -> None:
        """Do what is missing of a unit."""
        do_unit(self.plan, unit)

    def amount(self, unit: Unit) -> float:
        """Slice gradient evaluations of a unit."""
        return self.plan.study.budget * (max(1, self.plan.study.trials) if unit.kind == "search" else 1)

    def spent(self, unit: Unit) -> float:
        """Slice gradient evaluations that a unit at work has done, from its logs; 0 if it has none yet."""
        folder = self.plan.folder / unit.folder
        if unit.kind != "search":
            return last_step(folder / "metrics.csv")
        trials = sorted((folder / "trials").glob("*")) if (folder / "trials").is_dir() else []
        done = max(0, len(trials) - 1) * self.plan.study.budget
        return done + (last_step(trials[-1] / "metrics.csv") if trials else 0)

    def pace(self, unit: Unit) -> float | None:
        """Seconds of a finished adaptation for each slice gradient evaluation."""
        return None if unit.kind == "search" else pace_of(self.plan.folder / unit.folder)


def do_unit(plan: Plan, unit: Unit) -> None:
    """Do what is missing of a unit.

    Raises:
        BusyError: Another process is at it.
        MetasegError: It cannot be done.
    """
    if unit.kind == "search":
        return run_search(plan, unit)
    values = {} if unit.kind == "oracle" else best_values(plan, unit.target, unit.label)
    run_unit(plan.folder / unit.folder, plan.config(unit, values), plan.folder)


def as_work(plan: Any) -> Work:
    """A plan's work; what is work already as it is."""
    return PlanWork(plan) if isinstance(plan, Plan) else plan
