"""The runs under a folder, for ``metaseg runs``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metaseg.checked_files import FileKind, read_yaml
from metaseg.errors import MetasegError
from metaseg.runs.folder import CONFIG_NAME, RunFolder, is_run, run_status
from metaseg.runs.manifest import read_manifest


@dataclass(frozen=True)
class RunRow:
    """One run in a list.

    Attributes:
        path: Its folder.
        verb: What made it.
        status: ``running``, ``finished``, ``stopped``, ``failed``, ``killed``, or ``damaged`` if it cannot be read.
        reason: Why it stopped, failed or cannot be read.
        started: When it was first started, ISO 8601 in UTC; empty if unknown.
        figures: Its best figures.
        data: Folders that it read; empty for phantoms.
        synthetic: Whether its data are phantoms; None if unknown.
    """

    path: Path
    verb: str
    status: str
    reason: str | None
    started: str
    figures: dict[str, float | None]
    data: tuple[str, ...]
    synthetic: bool | None


def list_runs(root: Path) -> list[RunRow]:
    """All runs in ``root`` and its subfolders, oldest first; runs inside of runs are left out.

    A damaged run is listed as such: one broken folder must not hide the others.
    """
    return sorted((_row(path) for path in _find(root)), key=lambda row: (row.started, str(row.path)))


def _find(folder: Path, depth: int = 4) -> list[Path]:
    if is_run(folder):
        return [folder]
    if depth == 0 or not folder.is_dir():
        return []
    children = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [run for child in children for run in _find(child, depth - 1)]


def _row(path: Path) -> RunRow:
    try:
        run = RunFolder.open(path)
        manifest = read_manifest(path)
        sessions = manifest.get("sessions") or [{}]
        return RunRow(
            path=path,
            verb=run.verb,
            status=run_status(run),
            reason=run.state.reason,
            started=str(sessions[0].get("started", "")),
            figures=run.state.figures,
            data=_data(path),
            synthetic=manifest.get("synthetic"),
        )
    except MetasegError as error:
        return RunRow(path, "", "damaged", error.found, "", {}, (), None)


def _data(path: Path) -> tuple[str, ...]:
    """``data`` of the run's settings, read without their class, which a later version may have changed."""
    settings = read_yaml(path / CONFIG_NAME, FileKind("the settings of a metaseg run"))
    data = (settings.get("data") or ()) if isinstance(settings, dict) else ()
    return tuple(map(str, data)) if isinstance(data, list) else (str(data),)
