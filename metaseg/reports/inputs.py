"""Runs and studies as a report reads them, whatever they are of, and the way back to what a run was made from."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from metaseg.adapt.setup import AdaptationSetup, prepare_setup
from metaseg.config.options import ALL, DataOptions, PreparationOptions
from metaseg.config.segmentation import AdaptOptions
from metaseg.errors import MetasegError, RunError, UsageError
from metaseg.files import FileKind, check_shape, read_yaml
from metaseg.runs.folder import RunFolder, is_run, run_status, settings_file
from metaseg.runs.logs import read_selection
from metaseg.runs.manifest import read_manifest
from metaseg.runs.networks import PatientRow, read_patients
from metaseg.verbs import ADAPTATION, family_of, verbs_of

T = TypeVar("T")

STUDY_NAME = "study.yaml"
DECIDING = ("from_run", "source", "source_classes", "train_part", "test_part", "shots", "slices", "watch_cases", "seed")
"""What decides, beside the settings of data, which cases and slices an adaptation sees."""


@dataclass(frozen=True)
class ReportRun:
    """One run folder as the report needs it.

    Attributes:
        path: The folder.
        verb: What made it.
        status: As ``metaseg runs`` shows it.
        target: Name of the disease or data that it was adapted to; empty for other runs.
        method: Its name in tables and charts.
        shots: Labelled target patients.
        seed: Its seed.
        settings: ``config.yaml`` as plain values.
        manifest: ``manifest.json``; empty if there is none.
        patients: ``patients.json``; empty if there is none.
    """

    path: Path
    verb: str
    status: str
    target: str
    method: str
    shots: int
    seed: int
    settings: Mapping[str, Any] = field(repr=False)
    manifest: Mapping[str, Any] = field(repr=False)
    patients: Mapping[str, Sequence[PatientRow]] = field(repr=False)

    @property
    def tuned(self) -> bool:
        """Whether it is an adaptation."""
        return self.verb in verbs_of(ADAPTATION)

    @property
    def family(self) -> str:
        """``plain`` or ``meta``; empty where it is no adaptation."""
        return family_of(self.verb)


@dataclass(frozen=True)
class ReportInputs:
    """Everything that was read.

    Attributes:
        folder: Where the report goes by default.
        name: What is reported, for the title.
        settings: The study's settings; empty for runs.
        runs: The runs, those of a study in its order.
        notes: What a reader must know: runs that did not end, parts that cannot be read.
    """

    folder: Path
    name: str
    settings: Mapping[str, Any]
    runs: tuple[ReportRun, ...]
    notes: tuple[str, ...]

    @property
    def synthetic(self) -> bool:
        """Whether phantoms were among the data of any run, or of any target of the study."""
        targets = self.settings.get("targets") or {}
        phantoms = any("phantoms" in target for target in targets.values() if isinstance(target, Mapping))
        return phantoms or any(run.manifest.get("synthetic") for run in self.runs)


@dataclass(frozen=True)
class _Settings:
    """What a report counts on in the settings of a run or a study."""

    verb: str | None = None
    seed: int | None = None
    shots: int | str | list[int | str] | None = None
    targets: dict[str, Any] | None = None
    resamples: int | None = None


def read_settings(path: Path) -> Mapping[str, Any]:
    """Settings without their class, which another version may have changed."""
    kind = FileKind("the settings of a metaseg run or study")
    content = read_yaml(path, kind)
    check_shape(content, _Settings, partial(kind.refuse, path=path))
    return dict(content)


def is_study(path: Path) -> bool:
    """Whether a folder is that of a study."""
    return (path / STUDY_NAME).is_file()


def find_study(paths: Sequence[Path]) -> Path | None:
    """The study to report; None where runs are.

    Raises:
        UsageError: A study is named together with something else.
    """
    studies = [path for path in paths if is_study(path)]
    if studies and len(paths) > 1:
        raise UsageError(
            "a study is reported by itself",
            where=studies[0],
            expected="one study, or one or more runs",
            remedy="make a report of each study, or name the runs under cells/ that you want side by side",
        )
    return studies[0] if studies else None


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
    settings = read_settings(settings_file(path))
    patients = read_patients(path)
    tuned = run.verb in verbs_of(ADAPTATION)
    return ReportRun(
        path=path,
        verb=run.verb,
        status=run_status(run),
        target="+".join(sorted({row.cohort for row in patients.get("target") or patients.get("train", [])}))
        if tuned
        else "",
        method=method,
        shots=_shots(settings, patients) if tuned else 0,
        seed=int(settings.get("seed") or 0),
        settings=settings,
        manifest=read_manifest(path),
        patients=patients,
    )


def _shots(settings: Mapping[str, Any], patients: Mapping[str, Sequence[PatientRow]]) -> int:
    """Labelled patients of an adaptation: as asked for, or all that there were."""
    asked = settings.get("shots") or 0
    return len({row.patient for row in patients.get("train", ())}) if asked == ALL else int(asked)


def read_runs(paths: Sequence[Path]) -> list[ReportRun]:
    """Read run folders, each called by its folder's name with as many parents as it takes to tell them apart.

    Raises:
        UsageError: One is named twice.
        RunError: One is no run, or damaged.
    """
    parts = [path.resolve().parts for path in paths]
    if len(set(parts)) < len(parts):
        twice = next(path for path, own in zip(paths, parts, strict=True) if parts.count(own) > 1)
        raise UsageError("a run is named twice", where=twice, remedy="name each run once")
    deepest = max(map(len, parts))
    depth = next(depth for depth in range(1, deepest + 1) if len({own[-depth:] for own in parts}) == len(parts))
    return [read_run(path, "/".join(own[-depth:])) for path, own in zip(paths, parts, strict=True)]


def inputs_name(runs: Sequence[ReportRun]) -> str:
    """What a report on runs is called."""
    return (" against " if len(runs) == 2 else ", ").join(run.method for run in runs[:4])


def refuse_runs_without_metrics(runs: Sequence[ReportRun], expected: str) -> None:
    """Say that nothing can be reported yet.

    Raises:
        RunError: Always.
    """
    raise RunError(
        f"the run{'s hold' if len(runs) > 1 else ' holds'} no metrics yet",
        where=runs[0].path,
        expected=expected,
        remedy="let it run on with --resume, and report it then",
    )


def unfinished(runs: Sequence[ReportRun]) -> tuple[str, ...]:
    """A note where runs are not finished."""
    open_runs = [run for run in runs if run.status != "finished"]
    if not open_runs:
        return ()
    named = [f"{run.method}{f', seed {run.seed}' if len(runs) > 1 else ''} ({run.status})" for run in open_runs]
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    return (f"Not finished, reported as far as it came: {'; '.join(named[:8])}{more}.",)


class Reopener:
    """Opens what runs were made from again, once for all runs that share it."""

    def __init__(self) -> None:
        self._opened: dict[Hashable, Any] = {}

    def once(self, key: Hashable, opened: Callable[[], T]) -> T:
        """What a function gives, or raises, without what it prints; for each key it is called once.

        Raises:
            MetasegError: As the function.
        """
        if key not in self._opened:
            try:
                # What a verb would print here belongs to the run, not to its report.
                with contextlib.redirect_stdout(io.StringIO()):
                    self._opened[key] = opened()
            except MetasegError as error:
                self._opened[key] = error
        found = self._opened[key]
        if isinstance(found, MetasegError):
            raise found
        return found

    def setup(self, run: ReportRun) -> AdaptationSetup:
        """The setup of an adaptation, as it was when the run began.

        Raises:
            MetasegError: The data or the network before are gone, or are others than those of the run.
        """
        config = _config(run)
        rehearsed = any(row["task"] == "source" for row in read_selection(run.path))
        data = [field.name for options in (DataOptions, PreparationOptions) for field in fields(options)]
        key = repr((rehearsed, [getattr(config, name) for name in (*data, *DECIDING)]))
        setup = self.once(key, partial(prepare_setup, config, rehearsed))
        for domain, store in (("target", setup.target), ("source", setup.source)):
            if sorted(row.case for row in run.patients.get(domain, ())) != sorted(case.id for case in store):
                raise RunError(
                    f"the {domain} cases are no longer those of the run",
                    where=run.path,
                    remedy="report it where its data and its pretraining lie unchanged",
                )
        return setup


def _config(run: ReportRun) -> AdaptOptions:
    config: Any = RunFolder.open(run.path).config(verbs_of(ADAPTATION)[run.verb].config)
    parent = config.from_run or run.manifest.get("parent")
    if not parent:
        raise RunError("the run does not say which network it began from", where=run.path)
    return replace(config, from_run=str(_found(Path(parent), run.path)))


def _found(path: Path, run: Path) -> Path:
    """A path of a run that may have been moved, or started elsewhere: it is looked for beside all that is above."""
    path = path.expanduser()
    if path.exists():
        return path
    # The end of the path counts alone where a study was moved as a whole.
    ends = [Path(*path.parts[number:]) for number in range(len(path.parts))]
    others = (folder / end for end in ends for folder in run.resolve().parents)
    return next((other for other in others if other.exists()), path)
