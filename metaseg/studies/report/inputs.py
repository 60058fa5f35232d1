"""What a report on segmentation is made from: one study, or one or more runs, read into the same tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from metaseg.adapt.watch import read_marks, read_timing
from metaseg.errors import RunError, UsageError
from metaseg.runs.folder import is_run
from metaseg.studies.report.runs import STUDY_NAME, ReportRun, read_run, read_yaml, run_names, unfinished
from metaseg.studies.table import TABLE_COLUMNS, TIMING_COLUMNS, check_table, read_table

MARKS, TIMING = "marks.csv", "timing.csv"


@dataclass(frozen=True)
class ReportInputs:
    """Everything that was read.

    Attributes:
        folder: Where the report goes by default.
        name: What is reported, for the title.
        study: The study folder; None for runs.
        settings: The study's settings; empty for runs.
        runs: The runs, those of a study in the order of its table.
        table: One row per evaluated case, region and mark, with ``TABLE_COLUMNS``; empty without an adaptation.
        timing: One row per mark, with ``TIMING_COLUMNS``.
        notes: What a reader must know: runs that did not end, parts that cannot be read.
    """

    folder: Path
    name: str
    study: Path | None
    settings: Mapping[str, Any]
    runs: tuple[ReportRun, ...]
    table: pd.DataFrame
    timing: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def synthetic(self) -> bool:
        """Whether phantoms were among the data of any run, or of any target of the study."""
        targets = self.settings.get("targets") or {}
        phantoms = any("phantoms" in one for one in targets.values() if isinstance(one, Mapping))
        return phantoms or any(run.synthetic for run in self.runs)

    @property
    def tuned(self) -> tuple[ReportRun, ...]:
        """The adaptations."""
        return tuple(run for run in self.runs if run.tuned)


def read_inputs(paths: Sequence[Path]) -> ReportInputs:
    """Read one study, or one or more runs.

    Args:
        paths: As on the command line.

    Raises:
        UsageError: Nothing is named, or a study together with something else.
        RunError: A folder is neither a run nor a study, is damaged, or holds no results yet.
    """
    if not paths:
        raise UsageError("nothing to report on", expected="run folders, or the folder of a study")
    studies = [path for path in paths if is_study(path)]
    if studies and len(paths) > 1:
        raise UsageError(
            "a study is reported by itself",
            where=studies[0],
            expected="one study, or one or more runs",
            remedy="make a report of each study, or name the runs under cells/ that you want side by side",
        )
    return _read_study(studies[0]) if studies else _read_runs(paths)


def is_study(path: Path) -> bool:
    """Whether a folder is one of ``metaseg compare``."""
    return (path / STUDY_NAME).is_file()


def _read_study(folder: Path) -> ReportInputs:
    results = folder / "results.csv"
    if not results.exists():
        raise RunError(
            "the study has no results yet",
            where=folder,
            expected="results.csv, which 'metaseg compare' writes as cells end",
            remedy="let the study run on, and report it then",
        )
    table = read_table(results)
    if table.empty:
        raise RunError("the study has no results yet", where=results, remedy="let it run on, and report it then")
    settings = read_yaml(folder / STUDY_NAME)
    runs = []
    for path in sorted((folder / "cells").glob("*/*/shots-*/seed-*")):
        if is_run(path):
            target, method, shots, seed = path.parts[-4:]
            run = read_run(path, method)
            runs.append(_moved(run, target, int(shots.removeprefix("shots-")), int(seed.removeprefix("seed-"))))
    timed = (folder / TIMING).exists()
    timing = read_table(folder / TIMING, TIMING_COLUMNS) if timed else pd.DataFrame(columns=list(TIMING_COLUMNS))
    return ReportInputs(
        folder=folder,
        name=folder.resolve().name,
        study=folder,
        settings=settings,
        runs=tuple(runs),
        table=table,
        timing=timing,
        notes=_missing_cells(settings, table, runs),
    )


def _moved(run: ReportRun, target: str, shots: int, seed: int) -> ReportRun:
    return replace(run, target=target, shots=shots, seed=seed)


def _read_runs(paths: Sequence[Path]) -> ReportInputs:
    runs = [read_run(path, name) for path, name in zip(paths, run_names(paths), strict=True)]
    tuned = [run for run in runs if run.tuned]
    rows = [row for run in tuned for row in marks_of(run)]
    table = check_table(pd.DataFrame(rows, columns=list(TABLE_COLUMNS)), where=paths[0])
    if table.empty and not any((run.path / "metrics.csv").exists() for run in runs):
        raise RunError(
            "the run holds no figures yet" if len(runs) == 1 else "the runs hold no figures yet",
            where=paths[0],
            expected="a run that was evaluated at least once",
            remedy="let it run on with --resume, and report it then",
        )
    timing = pd.DataFrame([row for run in tuned for row in _timing_of(run)], columns=list(TIMING_COLUMNS))
    return ReportInputs(
        folder=paths[0],
        name=runs[0].method if len(runs) == 1 else " against ".join(run.method for run in runs[:4]),
        study=None,
        settings={},
        runs=tuple(runs),
        table=table,
        timing=check_table(timing, TIMING_COLUMNS, paths[0]),
        notes=(*unfinished(runs), *_unlike(tuned)),
    )


def marks_of(run: ReportRun) -> list[dict[str, Any]]:
    """The rows of a run's ``marks.csv`` with ``TABLE_COLUMNS``."""
    head = {
        "target": run.target, "method": run.method, "family": run.family, "shots": run.shots, "seed": run.seed,
    }  # fmt: skip
    return [head | row for row in read_marks(run.path)]


def _timing_of(run: ReportRun) -> list[dict[str, Any]]:
    head = {"target": run.target, "method": run.method, "shots": run.shots, "seed": run.seed}
    return [head | row for row in read_timing(run.path)]


def _missing_cells(settings: Mapping[str, Any], table: pd.DataFrame, runs: Sequence[ReportRun]) -> tuple[str, ...]:
    """Says so where a study is not done: its tables hold finished cells alone."""
    done = len(table[["target", "method", "shots", "seed"]].drop_duplicates())
    parts = (settings.get(name) for name in ("targets", "methods", "shots", "seeds"))
    planned = math.prod(len(part) if isinstance(part, Mapping | list) else 1 for part in parts)
    if done >= planned:
        return ()
    states = Counter(run.status for run in runs if run.status != "finished")
    stopped = f" ({', '.join(f'{count} {status}' for status, count in sorted(states.items()))})" if states else ""
    return (f"The study is not finished: {done} of {planned} cells are done{stopped}, and the figures are of these.",)


def _unlike(runs: Sequence[ReportRun]) -> tuple[str, ...]:
    """What makes runs side by side no fair comparison."""
    notes = []
    for name, text in (
        ("budget", "budgets"),
        ("shots", "numbers of shots"),
        ("seed", "seeds, so that their labelled patients differ"),
        ("slices", "numbers of slices a patient"),
    ):
        if len({str(run.settings.get(name)) for run in runs}) > 1:
            notes.append(f"The runs have different {text}.")
    if len({str(run.manifest.get("parent")) for run in runs}) > 1:
        notes.append("The runs start from different networks.")
    return tuple(notes)
