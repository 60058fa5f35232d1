"""What a report on classification is made from: a comparison of classifiers, or one or more runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from metaseg.config.io import load_config
from metaseg.config.studies import ClassifyCompareConfig
from metaseg.errors import MetasegError, RunError, UsageError
from metaseg.files import FileKind, check_shape, read_json
from metaseg.inference.classification_files import PREDICTIONS, SUMMARY
from metaseg.report.inputs import STUDY_NAME, ReportRun, read_run, read_yaml, run_names, unfinished
from metaseg.runs.folder import RunFolder, is_run
from metaseg.runs.logs import METRICS_NAME, read_log
from metaseg.runs.networks import PatientRow
from metaseg.studies.classifiers.plan import ClassifierWork, make_classifier_plan
from metaseg.studies.classifiers.tables import (
    Predictions,
    against_baseline,
    curve_rows,
    predictions_in,
    read_predictions,
    summary,
)
from metaseg.studies.work import Unit

COMPARE, SEARCH = "classify-compare", "classify-search"
TEST, EVALUATION = "test", "evaluation"
"""Folders of a run with metrics: of its own test part, and those of ``metaseg classify evaluate``."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a classifier on one part.

    Attributes:
        folder: Where they lie.
        content: ``metrics.json``.
        predictions: Of the slices.
    """

    folder: Path
    content: Mapping[str, Any]
    predictions: Predictions

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.predictions.classes

    def metric(self, level: str, name: str) -> Mapping[str, float | None]:
        """``value``, ``low`` and ``high`` of a metric; empty where it is not known."""
        found: Mapping[str, float | None] = self.content["metrics"].get(level, {}).get(name, {})
        return found


@dataclass(frozen=True)
class ClassifierStudy:
    """A comparison, its tables computed anew from the cells that are done.

    Attributes:
        work: Its plan.
        summary: As from :func:`metaseg.studies.classifiers.tables.summary`.
        curves: As from :func:`metaseg.studies.classifiers.tables.curve_rows`.
        pairwise: As from :func:`metaseg.studies.classifiers.tables.against_baseline`.
        predictions: Of the cells that are done.
        baseline: Entry that the others are compared with.
    """

    work: ClassifierWork
    summary: pd.DataFrame
    curves: pd.DataFrame
    pairwise: pd.DataFrame
    predictions: Mapping[Unit, Predictions]
    baseline: str

    @property
    def metric(self) -> str:
        """The metric of the tables."""
        return self.work.study.metric

    @property
    def entries(self) -> list[str]:
        """Entries with metrics, the best first."""
        return [str(label) for label in self.summary.sort_values(self.metric, ascending=False)["entry"]]

    @property
    def active(self) -> list[str]:
        """Entries with a curve, the best first."""
        curved = set(self.curves["entry"])
        return [label for label in self.entries if label in curved]

    def row(self, label: str) -> Mapping[str, Any]:
        """The summary of an entry."""
        rows = self.summary[self.summary["entry"] == label].to_dict("records")
        return {str(name): value for name, value in rows[0].items()}


@dataclass(frozen=True)
class ClassifierInputs:
    """Everything that was read.

    Attributes:
        folder: Where the report goes by default.
        name: What is reported, for the title.
        study: The comparison; None for runs.
        settings: Its settings; empty for runs.
        runs: The runs, those of a study by entry and seed, called by the entry's title.
        notes: What a reader must know.
    """

    folder: Path
    name: str
    study: ClassifierStudy | None
    settings: Mapping[str, Any]
    runs: tuple[ReportRun, ...]
    notes: tuple[str, ...]

    @property
    def synthetic(self) -> bool:
        """Whether phantoms were among the data of any run."""
        return any(run.synthetic for run in self.runs)


@dataclass(frozen=True)
class _Summary:
    """What a report counts on in ``metrics.json``."""

    metrics: dict[str, dict[str, dict[str, Any]]]


def is_classification(path: Path) -> bool:
    """Whether a folder is a study or a run of ``metaseg classify``; whatever else it may be is for others to say."""
    try:
        if (path / STUDY_NAME).is_file():
            return str(read_yaml(path / STUDY_NAME).get("verb", "")).startswith("classify-")
        return is_run(path) and RunFolder.open(path).verb.startswith("classify-")
    except MetasegError:
        return False


def read_classifier_inputs(paths: Sequence[Path], region: str | None = None) -> ClassifierInputs:
    """Read one comparison, or one or more runs.

    Args:
        paths: As on the command line; all of ``metaseg classify``.
        region: As on the command line; there must be none.

    Raises:
        UsageError: A study together with something else, or a region.
        RunError: A folder is damaged, or holds no results yet.
    """
    if region is not None:
        raise UsageError(f"--region {region}", expected="no region: slices are classified, not segmented")
    studies = [path for path in paths if (path / STUDY_NAME).is_file()]
    if studies and len(paths) > 1:
        raise UsageError(
            "a study is reported by itself",
            where=studies[0],
            expected="one study, or one or more runs",
            remedy="make a report of each study, or name the runs under cells/ that you want side by side",
        )
    return _read_study(studies[0]) if studies else _read_runs(paths)


def _read_study(folder: Path) -> ClassifierInputs:
    settings = read_yaml(folder / STUDY_NAME)
    if settings.get("verb") != COMPARE:
        raise UsageError(
            f"this is a study of 'metaseg {str(settings.get('verb')).replace('-', ' ', 1)}'",
            where=folder,
            expected="a study of 'metaseg classify compare', or runs",
            remedy="a search is told by its trials.csv; train with its best.yaml, and report that run",
        )
    study = replace(load_config(ClassifyCompareConfig, folder / STUDY_NAME), out=folder)
    work = make_classifier_plan(study)
    runs = {cell: _cell_run(work, cell) for cell in _by_entry(work) if is_run(folder / cell.folder)}
    done = [cell for cell, run in runs.items() if run.status == "finished"]
    found = {cell: read for cell in done if (read := read_predictions(work, cell)) is not None}
    if not found:
        raise RunError(
            "the study has no results yet",
            where=folder,
            expected="finished cells with metrics of their test part",
            remedy="let the study run on, and report it then",
        )
    baseline, curves = work.baseline, curve_rows(work, done)
    tables = ClassifierStudy(
        work, summary(work, found, curves, baseline), curves, against_baseline(work, found, baseline), found, baseline
    )
    missing = len(work.units) - len(done)
    told = f"The study is not finished: {len(done)} of {len(work.units)} cells are done, and the metrics are of these."
    return ClassifierInputs(
        folder, folder.resolve().name, tables, settings, tuple(runs.values()), (told,) if missing else ()
    )


def _by_entry(work: ClassifierWork) -> list[Unit]:
    return [Unit("cell", "", label, seed=seed) for label in work.entries for seed in work.study.seeds]


def _cell_run(work: ClassifierWork, cell: Unit) -> ReportRun:
    return with_test_patients(read_run(work.folder / cell.folder, work.titles[cell.label]))


def _read_runs(paths: Sequence[Path]) -> ClassifierInputs:
    runs = [with_test_patients(read_run(path, name)) for path, name in zip(paths, run_names(paths), strict=True)]
    if not any((run.path / METRICS_NAME).exists() or evaluation_of(run, TEST) for run in runs):
        raise RunError(
            "the run holds no metrics yet" if len(runs) == 1 else "the runs hold no metrics yet",
            where=paths[0],
            expected="a run that was validated at least once",
            remedy="let it run on with --resume, and report it then",
        )
    name = runs[0].method if len(runs) == 1 else " against ".join(run.method for run in runs[:4])
    return ClassifierInputs(paths[0], name, None, {}, tuple(runs), (*unfinished(runs), *_unlike(runs)))


def with_test_patients(run: ReportRun) -> ReportRun:
    """A run that also knows its test patients, whom ``patients.json`` leaves out."""
    rows = read_log(run.path / TEST / PREDICTIONS, ("patient",))
    return replace(run, patients={**run.patients, "test": [PatientRow(row["patient"]) for row in rows]})


def evaluation_of(run: ReportRun, part: str) -> Evaluation | None:
    """The metrics in a folder of a run; None if it has none, or they cannot be read."""
    folder = run.path / part
    kind = FileKind("the metrics of an evaluation", "evaluate the run again")
    try:
        content = read_json(folder / SUMMARY, kind)
        check_shape(content, _Summary, partial(kind.refuse, path=folder / SUMMARY))
        predictions = predictions_in(folder)
        return Evaluation(folder, content, predictions) if predictions is not None and content["metrics"] else None
    except MetasegError:
        return None


def _unlike(runs: Sequence[ReportRun]) -> tuple[str, ...]:
    """What makes runs side by side no fair comparison."""
    tests = [frozenset(row.patient for row in run.patients.get("test", ())) for run in runs]
    known = [one for one in tests if one]
    return ("The runs were tested on different patients.",) if len(set(known)) > 1 else ()
