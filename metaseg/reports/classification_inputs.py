"""Comparisons and runs of slice classifiers as a report reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from metaseg.config.io import load_config
from metaseg.config.studies import ClassifyCompareConfig
from metaseg.errors import MetasegError, RunError, UsageError
from metaseg.files import FileKind, check_shape, read_json
from metaseg.inference.classification_files import FEW_PATIENTS, PREDICTIONS, SUMMARY
from metaseg.inference.evaluation_files import FORMER_NAMES
from metaseg.metrics.classification import patient_probabilities
from metaseg.reports.inputs import (
    STUDY_NAME,
    ReportInputs,
    ReportRun,
    find_study,
    inputs_name,
    is_study,
    read_run,
    read_runs,
    read_settings,
    refuse_runs_without_metrics,
    unfinished,
)
from metaseg.runs.folder import RunFolder, is_run
from metaseg.runs.logs import METRICS_NAME, read_log
from metaseg.runs.networks import PatientRow
from metaseg.studies.classifiers.draws import final_rows, with_validation
from metaseg.studies.classifiers.folds import pool_folds
from metaseg.studies.classifiers.plan import ClassifierWork, make_classifier_plan
from metaseg.studies.classifiers.references import with_references
from metaseg.studies.classifiers.selection import ChoosingRun, choosing_runs
from metaseg.studies.classifiers.tables import (
    Predictions,
    against_baseline,
    curve_rows,
    entry_summary,
    predictions_in,
    summary_notes,
    with_steps,
)
from metaseg.studies.workers import Unit

COMPARE = "classify-compare"
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
    def levels(self) -> tuple[str, ...]:
        """``patient``, where each patient is of one class, and ``slice``."""
        return tuple(level for level in ("patient", "slice") if level in self.content["metrics"])

    def row(self, level: str, class_name: str = "") -> dict[str, float | None]:
        """The metrics of a level, or of one class, as a row with the columns ``NAME``, ``NAME_low``, ``NAME_high``."""
        cells: dict[str, float | None] = {}
        for name, values in self.content["metrics"].get(level, {}).items():
            name, _, of_class = name.partition("/")
            if of_class == class_name:
                cells |= {f"{name}{end}": values.get(part) for end, part in _ENDS}
        return cells


_ENDS = (("", "value"), ("_low", "low"), ("_high", "high"))


@dataclass(frozen=True)
class ClassifierStudy:
    """A comparison, its tables computed anew from the cells that are done.

    Attributes:
        work: Its plan.
        summary: By slice, as from :func:`metaseg.studies.classifiers.tables.entry_summary`, the best first, with what
            :func:`metaseg.studies.classifiers.draws.with_validation` adds.
        patients: The same by patient; empty where patients have slices of several classes.
        curves: As from :func:`metaseg.studies.classifiers.tables.curve_rows`.
        pairwise: As from :func:`metaseg.studies.classifiers.tables.against_baseline`.
        predictions: Of the cells that are done.
        baseline: Entry that the others are compared with.
        finals: As from :func:`metaseg.studies.classifiers.draws.final_rows`.
        choosing: The runs of active learning that are done.
    """

    work: ClassifierWork
    summary: pd.DataFrame
    patients: pd.DataFrame
    curves: pd.DataFrame
    pairwise: pd.DataFrame
    predictions: Mapping[Unit, Predictions]
    baseline: str
    finals: pd.DataFrame
    choosing: Sequence[ChoosingRun]

    @property
    def metric(self) -> str:
        """The metric of the tables."""
        return self.work.study.metric

    @property
    def unit(self) -> str:
        """What is drawn and paired: ``patient``, or ``picture`` where the data name no patients."""
        return str(self.summary["unit"].iloc[0])

    @property
    def entries(self) -> list[str]:
        """Entries with metrics, the best first."""
        return list(self.summary["entry"])

    @property
    def active(self) -> list[str]:
        """Entries with a curve, the best first."""
        curved = set(self.curves["entry"])
        return [label for label in self.entries if label in curved]


@dataclass(frozen=True)
class ClassifierInputs(ReportInputs):
    """Everything that was read of classifiers; the runs of a study are called by their entries' titles.

    Attributes:
        study: The comparison; None for runs.
    """

    study: ClassifierStudy | None


@dataclass(frozen=True)
class _Summary:
    """What a report counts on in ``metrics.json``."""

    metrics: dict[str, dict[str, dict[str, Any]]]


def is_classification(path: Path) -> bool:
    """Whether a folder is a study or a run of ``metaseg classify``; whatever else it may be is for others to say."""
    try:
        if is_study(path):
            return str(read_settings(path / STUDY_NAME).get("verb", "")).startswith("classify-")
        return is_run(path) and RunFolder.open(path).verb.startswith("classify-")
    except MetasegError:
        return False


def read_classification(paths: Sequence[Path], region: str | None = None) -> ClassifierInputs:
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
    study = find_study(paths)
    return _read_study(study) if study else _read_runs(paths)


def _read_study(folder: Path) -> ClassifierInputs:
    settings = read_settings(folder / STUDY_NAME)
    if settings.get("verb") != COMPARE:
        raise UsageError(
            f"this is a study of 'metaseg {str(settings.get('verb')).replace('-', ' ', 1)}'",
            where=folder,
            expected="a study of 'metaseg classify compare', or runs",
            remedy="the results of a search are in its trials.csv; train with its best.yaml, and report that run",
        )
    work = make_classifier_plan(replace(load_config(ClassifyCompareConfig, folder / STUDY_NAME), out=folder))
    places = {label: place for place, label in enumerate(work.entries)}
    runs = {
        cell: _with_test_patients(read_run(folder / cell.folder, work.titles[cell.label]))
        for cell in sorted(work.cells, key=lambda cell: places[cell.label])
        if is_run(folder / cell.folder)
    }
    done = [cell for cell, run in runs.items() if run.status == "finished"]
    read = {cell: one for cell in done if (one := predictions_in(folder / cell.folder / "test")) is not None}
    found = pool_folds(read, work.study.folds)
    if not found:
        raise RunError(
            "the study has no results yet",
            where=folder,
            expected="finished cells with metrics of their test part",
            remedy="let the study run on, and report it then",
        )
    study = _computed(work, found, done)
    notes = (*_few_patients(found.values()), *summary_notes(study.summary, work.titles))
    if len(done) < len(work.cells):
        told = f"{len(done)} of {len(work.cells)} cells are done, and the metrics are of these."
        notes = (f"The study is not finished: {told}", *notes)
    return ClassifierInputs(
        folder=folder,
        name=folder.resolve().name,
        settings=settings,
        runs=tuple(runs.values()),
        notes=notes,
        study=study,
    )


def _computed(work: ClassifierWork, found: dict[Unit, Predictions], done: Sequence[Unit]) -> ClassifierStudy:
    baseline, curves = work.baseline, curve_rows(work, done)
    by_patient = {cell: predictions for cell in found if (predictions := of_patients(found[cell])) is not None}
    patients = entry_summary(work, by_patient, curves.iloc[:0], baseline)
    finals, choosing = final_rows(work, done), choosing_runs(work, done)
    by_slice = with_validation(work, with_steps(work, entry_summary(work, found, curves, baseline)), finals)
    by_slice = with_references(by_slice, work, curves, found, choosing)
    return ClassifierStudy(
        work=work,
        summary=by_slice.sort_values(work.study.metric, ascending=False),
        patients=patients.sort_values(work.study.metric, ascending=False) if len(patients) else patients,
        curves=curves,
        pairwise=against_baseline(work, found, baseline),
        predictions=found,
        baseline=baseline,
        finals=finals,
        choosing=choosing,
    )


def of_patients(found: Predictions) -> Predictions | None:
    """Predictions of patients from those of their slices; None where one has slices of several classes."""
    if pd.Series(found.labels).groupby(found.patients).nunique().max() > 1:
        return None
    probabilities, labels, patients = patient_probabilities(found.probabilities, found.labels, found.patients)
    return Predictions(probabilities, labels, patients, found.classes, found.pictures)


def _few_patients(found: Iterable[Predictions]) -> tuple[str, ...]:
    """A warning where the test part is small."""
    count = min((len(set(predictions.patients)) for predictions in found), default=FEW_PATIENTS)
    if count >= FEW_PATIENTS:
        return ()
    return (
        f"Only {count} test patient{'s' if count > 1 else ''}: metrics, intervals and tests over so few patients say "
        "little about others, however many slices there are.",
    )


def _degenerate(tested: Mapping[str, Predictions]) -> tuple[str, ...]:
    """A warning for each run whose network does not tell the test slices apart."""
    return tuple(
        f"{name} is degenerate: it gave the class '{found.one_class}' to every slice of its test part."
        for name, found in tested.items()
        if found.one_class
    )


def _read_runs(paths: Sequence[Path]) -> ClassifierInputs:
    runs = [_with_test_patients(run) for run in read_runs(paths)]
    tested = {run.method: found.predictions for run in runs if (found := evaluation_of(run, TEST))}
    if not tested and not any((run.path / METRICS_NAME).exists() for run in runs):
        refuse_runs_without_metrics(runs, "a run that was validated at least once")
    notes = (*unfinished(runs), *_unlike(runs), *_few_patients(tested.values()), *_degenerate(tested))
    return ClassifierInputs(paths[0], inputs_name(runs), {}, tuple(runs), notes, None)


def _with_test_patients(run: ReportRun) -> ReportRun:
    """A run that also knows its test patients, whom ``patients.json`` omits."""
    rows = read_log(run.path / TEST / PREDICTIONS, ("patient",))
    return replace(run, patients={**run.patients, "test": [PatientRow(row["patient"]) for row in rows]})


def evaluation_of(run: ReportRun, part: str) -> Evaluation | None:
    """The metrics in a folder of a run; None if it has none, or they cannot be read."""
    folder = run.path / part
    file = next((file for name in (SUMMARY, FORMER_NAMES[0]) if (file := folder / name).exists()), None)
    if file is None:
        return None
    kind = FileKind("the metrics of an evaluation", "evaluate the run again")
    try:
        content = read_json(file, kind)
        check_shape(content, _Summary, partial(kind.refuse, path=file))
        predictions = predictions_in(folder)
        return Evaluation(folder, content, predictions) if predictions is not None and content["metrics"] else None
    except MetasegError:
        return None


def _unlike(runs: Sequence[ReportRun]) -> tuple[str, ...]:
    """A note where the comparison of runs is unfair."""
    tests = [frozenset(row.patient for row in run.patients.get("test", ())) for run in runs]
    return ("The runs were tested on different patients.",) if len(set(filter(None, tests))) > 1 else ()
