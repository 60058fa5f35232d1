"""From finished cells to the study's tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from metaseg.adapt.watch import read_marks, read_timing
from metaseg.studies.cells import state_of
from metaseg.studies.plan import Plan, Unit
from metaseg.studies.search import best_values
from metaseg.studies.table import TABLE_COLUMNS, TIMING_COLUMNS, write_table

RESULTS, TIMING = "results", "timing"


@dataclass(frozen=True)
class Tables:
    """What a study's finished cells say.

    Attributes:
        results: One row for every evaluation of a case at a mark.
        timing: One row for every mark.
        cells: The finished cells.
    """

    results: pd.DataFrame
    timing: pd.DataFrame
    cells: tuple[Unit, ...]


def is_done(plan: Plan, unit: Unit) -> bool:
    """Whether a unit is finished with the settings that it should have."""
    if unit.kind == "search":
        return best_values(plan, unit.target, unit.label) is not None
    values = {} if unit.kind == "oracle" else best_values(plan, unit.target, unit.label)
    if values is None:
        return False
    return state_of(plan.folder / unit.folder, plan.config(unit, values), plan.folder) == "done"


def collect(plan: Plan) -> Tables:
    """Gather the figures of all finished cells of a plan."""
    done = tuple(unit for unit in plan.cells if is_done(plan, unit))
    return Tables(
        pd.DataFrame([row for unit in done for row in _rows(plan, unit)], columns=list(TABLE_COLUMNS)),
        pd.DataFrame([row for unit in done for row in _times(plan, unit)], columns=list(TIMING_COLUMNS)),
        done,
    )


def write_results(plan: Plan, tables: Tables) -> list[Path]:
    """Write ``results`` and ``timing`` into the study folder."""
    files = write_table(tables.results, plan.folder / RESULTS)
    return [*files, *write_table(tables.timing, plan.folder / TIMING)]


def _rows(plan: Plan, unit: Unit) -> Iterator[dict[str, Any]]:
    family = plan.entries[unit.label].family
    for row in read_marks(plan.folder / unit.folder):
        yield {
            "target": unit.target,
            "method": unit.label,
            "family": family,
            "shots": unit.shots,
            "seed": unit.seed,
            "step": int(row["step"]),
            "domain": row["domain"],
            "case": row["case"],
            "patient": row["patient"],
            "region": row["region"],
            "dice": float(row["dice"]) if row["dice"] else float("nan"),
        }


def _times(plan: Plan, unit: Unit) -> Iterator[dict[str, Any]]:
    for row in read_timing(plan.folder / unit.folder):
        yield {
            "target": unit.target,
            "method": unit.label,
            "shots": unit.shots,
            "seed": unit.seed,
            "step": int(row["step"]),
            "seconds": float(row["seconds"]),
        }
