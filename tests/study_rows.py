"""Rows of a study's tidy table, written by hand."""

from __future__ import annotations

from typing import Any


def study_row(
    method: str,
    seed: int,
    work: float,
    domain: str,
    patient: str,
    dice: float,
    *,
    target: str = "met",
    family: str = "gradient",
    shots: int = 5,
    update: float | None = None,
    case: str | None = None,
    region: str = "WT",
) -> tuple[Any, ...]:
    """A row in the order of ``TABLE_COLUMNS``; an update is ten units of work, and a patient one case of its name."""
    update = work / 10 if update is None else update
    return target, method, family, shots, seed, work, update, domain, case or patient, patient, region, dice
