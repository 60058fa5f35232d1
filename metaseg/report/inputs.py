"""What a report on segmentation is made from: one study, or one or more runs, read into the same tables.

Which methods stand out in the charts, and in which colour: naive, the paper's two, and the best.

From a finished run back to what it was made from: its cases, the network before and the network after.

Run folders as a report reads them, whatever they are runs of.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from metaseg import files as checked_files
from metaseg.adapt.setup import Setting, prepare_setting
from metaseg.adapt.watch import read_marks, read_timing
from metaseg.config.segmentation import AdaptOptions, MetatuneConfig, NaivetuneConfig, TuneConfig
from metaseg.errors import MetasegError, RunError, UsageError
from metaseg.files import FileKind, check_shape
from metaseg.runs.folder import RunFolder, is_run, run_status, settings_file
from metaseg.runs.logs import read_selection
from metaseg.runs.manifest import read_manifest
from metaseg.runs.networks import LoadedNetwork, PatientRow, load_network, read_patients
from metaseg.studies.tables import TABLE_COLUMNS, TIMING_COLUMNS, check_table, read_table

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


FREE = ("best", "extra", "active", "passive", "naive")
"""Colours for methods without a role, where there are few enough to give each one."""


@dataclass(frozen=True)
class Roles:
    """The parts that methods play.

    Attributes:
        colours: Method to role of :data:`~metaseg.report.chart_style.COLOURS`; ``other`` is grey.
        reference: The method that the others are measured against: naive where there is one.
        shown: Methods whose cases and choices are shown, at most five, the reference first.
        paper: Name in the paper (``naive``, ``passive``, ``active``) to method.
        floors: Trainings from random weights, which know nothing of the source.
    """

    colours: Mapping[str, str]
    reference: str
    shown: tuple[str, ...]
    paper: Mapping[str, str]
    floors: frozenset[str]

    @property
    def highlighted(self) -> tuple[str, ...]:
        """Methods that are not grey."""
        return tuple(method for method, role in self.colours.items() if role != "other")


def find_roles(methods: Sequence[str], best: str | None, runs: Sequence[ReportRun]) -> Roles:
    """Give each method its part.

    A method is the paper's if it is called so, or else if its runs have the paper's settings.

    Args:
        methods: All methods.
        best: The one with the highest balanced mean.
        runs: Their runs, where they are still there.
    """
    paper = {name: method for name in ("naive", "passive", "active") if (method := _paper_method(name, methods, runs))}
    colours = dict.fromkeys(methods, "other") | {method: name for name, method in paper.items()}
    if best is not None and colours[best] == "other":
        colours[best] = "best"
    left = [method for method in methods if colours[method] == "other"]
    free = [role for role in FREE if role not in colours.values()]
    if len(left) <= len(free):
        colours |= dict(zip(left, free, strict=False))
    reference = paper.get("naive", methods[0])
    first = [
        reference,
        *paper.values(),
        *([best] if best else []),
        *(one for one in methods if colours[one] != "other"),
    ]
    floors = {run.method for run in runs if run.settings.get("method") == "scratch"} | {"scratch"}
    return Roles(colours, reference, tuple(dict.fromkeys(first))[:5], paper, frozenset(floors & set(methods)))


def _paper_method(name: str, methods: Sequence[str], runs: Sequence[ReportRun]) -> str | None:
    if name in methods:
        return name
    fitting = [run.method for run in runs if run.method in methods and _is_papers(name, run)]
    return min(fitting, key=lambda method: (len(method), method)) if fitting else None


def _is_papers(name: str, run: ReportRun) -> bool:
    settings = run.settings
    if name == "naive":
        return run.verb in ("naivetune", "tune") and settings.get("method") == "naive"
    orders = {"passive": ("passive", "random"), "active": ("active",)}[name]
    plain_maml = settings.get("method") == "maml" and settings.get("replay", "none") == "none"
    return run.verb == "metatune" and plain_maml and settings.get("order") in orders


CONFIGS: dict[str, type[AdaptOptions]] = {
    "metatune": MetatuneConfig,
    "naivetune": NaivetuneConfig,
    "tune": TuneConfig,
}
DECIDING = (
    "from_run", "data", "format", "label_scheme", "labels", "modalities", "classes", "split", "image_size", "source",
    "source_classes", "train_part", "test_part", "shots", "slices", "watch_cases", "seed", "phantom_cases", "cache",
)  # fmt: skip
"""Settings that decide which cases and slices a run sees: runs that share them share what is opened."""


class Reopener:
    """Opens the cases of runs again, once for all runs that share them."""

    def __init__(self) -> None:
        self._settings: dict[str, Setting | MetasegError] = {}

    def setting(self, run: ReportRun) -> Setting:
        """The setting of an adaptation, as it was when the run began.

        Raises:
            MetasegError: The data or the network before are gone, or are others than those of the run.
        """
        config = _config(run)
        memory = any(row["task"] == "source" for row in read_selection(run.path))
        key = repr((memory, [asdict(config)[name] for name in DECIDING]))
        if key not in self._settings:
            try:
                # What a verb would print here belongs to the run, not to its report.
                with contextlib.redirect_stdout(io.StringIO()):
                    self._settings[key] = prepare_setting(config, memory)
            except MetasegError as error:
                self._settings[key] = error
        setting = self._settings[key]
        if isinstance(setting, MetasegError):
            raise setting
        _check_same_cases(run, setting)
        return setting

    @staticmethod
    def network(run: ReportRun) -> LoadedNetwork:
        """The network that a run ended with.

        Raises:
            RunError: It has none.
        """
        return load_network(run.path, "last")


def _config(run: ReportRun) -> AdaptOptions:
    config = RunFolder.open(run.path).config(CONFIGS[run.verb])
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


def _check_same_cases(run: ReportRun, setting: Setting) -> None:
    def ids(part: Sequence[PatientRow]) -> list[str]:
        return sorted(row.case for row in part)

    for domain, store in (("target", setting.target), ("source", setting.source)):
        if ids(run.patients.get(domain, ())) != sorted(case.id for case in store):
            raise RunError(
                f"the {domain} cases are no longer those of the run",
                where=run.path,
                remedy="report it where its data and its pretraining lie unchanged",
            )


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
            "the run holds no metrics yet" if len(runs) == 1 else "the runs hold no metrics yet",
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
    return (f"The study is not finished: {done} of {planned} cells are done{stopped}, and the metrics are of these.",)


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
