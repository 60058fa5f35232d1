"""Run folders as a report reads them, whatever they are runs of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from metaseg import checked_files
from metaseg.checked_files import FileKind, check_shape
from metaseg.errors import RunError, UsageError
from metaseg.runs.folder import RunFolder, is_run, run_status, settings_file
from metaseg.runs.manifest import read_manifest
from metaseg.runs.networks import PatientRow, read_patients

STUDY_NAME = "study.yaml"
TUNED = ("metatune", "naivetune", "tune")


@dataclass(frozen=True)
class ReportRun:
    """One run folder as the report needs it.

    Attributes:
        path: The folder.
        verb: What made it.
        status: As ``metaseg runs`` shows it.
        reason: Why it stopped or failed.
        target: Name of the disease or data that it was adapted to; empty for a pretraining.
        method: Its name in tables and charts.
        family: ``plain`` or ``meta``; empty for a pretraining.
        shots: Labelled target patients.
        seed: Its seed.
        settings: ``config.yaml`` as plain values.
        manifest: ``manifest.json``; empty if there is none.
        patients: ``patients.json``; empty if there is none.
    """

    path: Path
    verb: str
    status: str
    reason: str | None
    target: str
    method: str
    family: str
    shots: int
    seed: int
    settings: Mapping[str, Any] = field(repr=False)
    manifest: Mapping[str, Any] = field(repr=False)
    patients: Mapping[str, Sequence[PatientRow]] = field(repr=False)

    @property
    def tuned(self) -> bool:
        """Whether it is an adaptation."""
        return self.verb in TUNED

    @property
    def synthetic(self) -> bool:
        """Whether phantoms were among its data."""
        return bool(self.manifest.get("synthetic"))


@dataclass(frozen=True)
class _Settings:
    """What a report counts on in the settings of a run or a study."""

    verb: str | None = None
    seed: int | None = None
    shots: int | list[int] | None = None
    targets: dict[str, Any] | None = None
    resamples: int | None = None


def read_run(path: Path, method: str) -> ReportRun:
    """Read a run folder.

    Args:
        path: The folder.
        method: Its name in tables and charts.

    Raises:
        RunError: It is no run, or damaged.
    """
    if not is_run(path):
        raise RunError(
            "this is neither a run nor a study" if path.exists() else "there is no such run or study",
            where=path,
            expected=f"a run folder with state.json, or a study folder with {STUDY_NAME}",
            remedy="'metaseg runs' lists the runs there are",
        )
    run = RunFolder.open(path)
    settings = read_yaml(settings_file(path))
    patients = read_patients(path)
    cohorts = sorted({row.cohort for row in patients.get("target", []) or patients.get("train", [])})
    tuned = run.verb in TUNED
    return ReportRun(
        path=path,
        verb=run.verb,
        status=run_status(run),
        reason=run.state.reason,
        target="+".join(cohorts) if tuned else "",
        method=method,
        family={"naivetune": "plain", "tune": "plain", "metatune": "meta"}.get(run.verb, ""),
        shots=int(settings.get("shots") or 0) if tuned else 0,
        seed=int(settings.get("seed") or 0),
        settings=settings,
        manifest=read_manifest(path),
        patients=patients,
    )


def run_names(paths: Sequence[Path]) -> list[str]:
    """Folder names, with as many parents as it takes to tell them apart."""
    parts = [path.resolve().parts for path in paths]
    if len(set(parts)) < len(parts):
        twice = next(path for path, own in zip(paths, parts, strict=True) if parts.count(own) > 1)
        raise UsageError("a run is named twice", where=twice, remedy="name each run once")
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return ["/".join(own) for own in parts]


def unfinished(runs: Sequence[ReportRun]) -> tuple[str, ...]:
    """Says so where runs did not come to their end."""
    open_runs = [run for run in runs if run.status != "finished"]
    if not open_runs:
        return ()
    named = [f"{run.method}{f', seed {run.seed}' if len(runs) > 1 else ''} ({run.status})" for run in open_runs]
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    return (f"Not finished, reported as far as it came: {'; '.join(named[:8])}{more}.",)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Settings without their class, which another version may have changed."""
    kind = FileKind("the settings of a metaseg run or study")
    content = checked_files.read_yaml(path, kind)
    check_shape(content, _Settings, partial(kind.refuse, path=path))
    return dict(content)
