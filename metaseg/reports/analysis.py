"""Segmentation runs and studies read into the same tables, and their metrics as ``metaseg compare`` computes them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from metaseg.adapt.folds import cross_validated_marks, cross_validated_timing, read_cross_validation
from metaseg.adapt.watch import read_marks, read_timing
from metaseg.config.options import ALL
from metaseg.errors import DataError, RunError, UsageError
from metaseg.reports.inputs import (
    STUDY_NAME,
    ReportInputs,
    ReportRun,
    find_study,
    inputs_name,
    read_run,
    read_runs,
    read_settings,
    refuse_runs_without_metrics,
    unfinished,
)
from metaseg.runs.folder import is_run
from metaseg.studies.first_steps import first_steps
from metaseg.studies.pairs import against, at_seconds, both_axes, equal_work, up_to_work
from metaseg.studies.study_metrics import curves, method_summary
from metaseg.studies.tables import (
    BOTH_AXES_COLUMNS,
    PAIR_COLUMNS,
    TABLE_COLUMNS,
    TIMING_COLUMNS,
    Columns,
    check_table,
    read_study_table,
    rows_of_region,
)
from metaseg.studies.told import DECISION_COLUMNS, told_summary, watched_decisions

RESAMPLES = 2000
FREE = ("best", "extra", "active", "passive", "naive")
"""Colours for methods without a role, where there are few enough to give each one."""


@dataclass(frozen=True)
class SegmentationInputs(ReportInputs):
    """Everything that was read of adaptations and pretrainings.

    Attributes:
        table: One row per evaluated case, region and mark, with ``TABLE_COLUMNS``; empty without an adaptation. Of a
            run that watched no target patient but has folds, their cross-validated marks.
        timing: One row per mark, with ``TIMING_COLUMNS``.
        own: As ``table``, but of the runs' own networks throughout.
        folds: By method, the cross-validation of each run that has one, with the columns of ``cross_validation.csv``.
        judged_by_folds: The runs whose rows in ``table`` and ``timing`` are those of their folds.
    """

    table: pd.DataFrame
    timing: pd.DataFrame
    own: pd.DataFrame
    folds: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    judged_by_folds: frozenset[Path] = frozenset()

    @property
    def tuned(self) -> tuple[ReportRun, ...]:
        """The adaptations."""
        return tuple(run for run in self.runs if run.tuned)

    @property
    def decisions(self) -> pd.DataFrame:
        """What the gates of the adaptations decided on watched cases, with ``DECISION_COLUMNS``."""
        rows = [_head(run) | decision for run in self.tuned for decision in watched_decisions(run.path)]
        return pd.DataFrame(rows, columns=list(DECISION_COLUMNS))


def read_segmentation(paths: Sequence[Path]) -> SegmentationInputs:
    """Read one study, or one or more runs.

    Args:
        paths: As on the command line.

    Raises:
        UsageError: A study is named together with something else.
        RunError: A folder is neither a run nor a study, is damaged, or holds no results yet.
    """
    study = find_study(paths)
    return _read_study(study) if study else _read_runs(paths)


def _read_study(folder: Path) -> SegmentationInputs:
    results = folder / "results.csv"
    table = read_study_table(results) if results.exists() else pd.DataFrame()
    if table.empty:
        raise RunError(
            "the study has no results yet",
            where=folder,
            expected="results.csv, which 'metaseg compare' writes as cells end",
            remedy="let the study run on, and report it then",
        )
    settings = read_settings(folder / STUDY_NAME)
    runs = []
    for path in sorted((folder / "cells").glob("*/*/shots-*/seed-*")):
        if is_run(path):
            target, method, shots, seed = path.parts[-4:]
            run = replace(read_run(path, method), target=target, seed=int(seed.removeprefix("seed-")))
            # Of all shots there are, the run itself knows the number.
            asked = shots.removeprefix("shots-")
            runs.append(run if asked == ALL else replace(run, shots=int(asked)))
    timing = folder / "timing.csv"
    return SegmentationInputs(
        folder=folder,
        name=folder.resolve().name,
        settings=settings,
        runs=tuple(runs),
        notes=_missing_cells(settings, table, runs),
        table=table,
        own=table,
        timing=read_study_table(timing, TIMING_COLUMNS)
        if timing.exists()
        else pd.DataFrame(columns=list(TIMING_COLUMNS)),
    )


def _read_runs(paths: Sequence[Path]) -> SegmentationInputs:
    runs = read_runs(paths)
    tuned = [run for run in runs if run.tuned]
    folds = {run.method: found for run in tuned if (found := read_cross_validation(run.path)) is not None}
    validated = [run for run in tuned if run.method in folds and not run.patients.get("target")]
    judged = frozenset(run.path for run in validated)
    own = _rows(tuned, read_marks, TABLE_COLUMNS)
    table = _rows(tuned, lambda run: (cross_validated_marks if run in judged else read_marks)(run), TABLE_COLUMNS)
    timing = _rows(tuned, lambda run: (cross_validated_timing if run in judged else read_timing)(run), TIMING_COLUMNS)
    if table.empty and not any((run.path / "metrics.csv").exists() for run in runs):
        refuse_runs_without_metrics(runs, "a run that was evaluated at least once")
    return SegmentationInputs(
        folder=paths[0],
        name=inputs_name(runs),
        settings={},
        runs=tuple(runs),
        notes=(*unfinished(runs), *_unlike(tuned), *_cross_validated(validated, folds)),
        table=check_table(table, where=paths[0]),
        timing=check_table(timing, TIMING_COLUMNS, paths[0]),
        own=check_table(own, where=paths[0]),
        folds=folds,
        judged_by_folds=judged,
    )


def _rows(
    runs: Sequence[ReportRun], read: Callable[[Path], Sequence[Mapping[str, Any]]], columns: Columns
) -> pd.DataFrame:
    """A table of a study, made from the logs of runs."""
    return pd.DataFrame(
        [{**_head(run), **row, "work": row["step"]} for run in runs for row in read(run.path)], columns=list(columns)
    )


def _cross_validated(runs: Sequence[ReportRun], folds: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    """A note on runs whose figures are those of their folds."""
    if not runs:
        return ()
    named = ", ".join(f"{run.method} ({folds[run.method]['fold'].nunique()} folds)" for run in runs)
    return (
        f"Cross-validated: {named}. No target patient was left to watch, so that target Dice is of each labelled "
        "patient by the network of its fold, which was not tuned on it, and source Dice the mean of these networks. "
        "The network of the run itself is tuned on all of them.",
    )


def _head(run: ReportRun) -> dict[str, Any]:
    """What the tables of a study say of a run."""
    return {name: getattr(run, name) for name in ("target", "method", "family", "shots", "seed")}


def _missing_cells(settings: Mapping[str, Any], table: pd.DataFrame, runs: Sequence[ReportRun]) -> tuple[str, ...]:
    """A note where a study is not finished: its tables hold finished cells alone."""
    done = len(table[["target", "method", "shots", "seed"]].drop_duplicates())
    parts = (settings.get(name) for name in ("targets", "methods", "shots", "seeds"))
    planned = math.prod(len(part) if isinstance(part, Mapping | list) else 1 for part in parts)
    if done >= planned:
        return ()
    states = Counter(run.status for run in runs if run.status != "finished")
    stopped = f" ({', '.join(f'{count} {status}' for status, count in sorted(states.items()))})" if states else ""
    return (f"The study is not finished: {done} of {planned} cells are done{stopped}, and the metrics are of these.",)


def _unlike(runs: Sequence[ReportRun]) -> tuple[str, ...]:
    """Notes on what makes the comparison of runs unfair."""
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


@dataclass(frozen=True)
class Roles:
    """The parts that methods play.

    Attributes:
        colours: Method to role of :data:`~metaseg.pictures.charts.COLOURS`; ``other`` is grey.
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
    coloured = (method for method in methods if colours[method] != "other")
    first = dict.fromkeys([reference, *paper.values(), *([best] if best else []), *coloured])
    floors = {run.method for run in runs if run.settings.get("method") == "scratch"} | {"scratch"}
    return Roles(colours, reference, tuple(first)[:5], paper, frozenset(floors & set(methods)))


def _paper_method(name: str, methods: Sequence[str], runs: Sequence[ReportRun]) -> str | None:
    if name in methods:
        return name
    fitting = [run.method for run in runs if run.method in methods and _is_papers(name, run)]
    return min(fitting, key=lambda method: (len(method), method)) if fitting else None


def _is_papers(name: str, run: ReportRun) -> bool:
    settings = run.settings
    if name == "naive":
        return run.family == "plain" and settings.get("method") == "naive"
    orders = {"passive": ("passive", "random"), "active": ("active",)}[name]
    plain_maml = settings.get("method") == "maml" and settings.get("replay", "none") == "none"
    return run.family == "meta" and plain_maml and settings.get("order") in orders


@dataclass(frozen=True)
class Group:
    """One target at one number of shots: what is compared with each other."""

    target: str
    shots: int

    @property
    def title(self) -> str:
        """For headings."""
        return f"{self.target}, {self.shots} labelled {'patient' if self.shots == 1 else 'patients'}"

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table that belong to it."""
        return frame[(frame["target"] == self.target) & (frame["shots"] == self.shots)]


@dataclass(frozen=True)
class Comparison:
    """Metrics of all methods, and their tests against the reference.

    Attributes:
        summary: As from :func:`metaseg.studies.study_metrics.method_summary`.
        tests: As from :func:`metaseg.studies.pairs.against`; empty where there is one method only.
    """

    summary: pd.DataFrame
    tests: pd.DataFrame

    def rows(self, group: Group) -> pd.DataFrame:
        """The summary of a group by method, the best balanced mean first; methods without one come last."""
        rows = group.of(self.summary).sort_values("balanced_mean", ascending=False, na_position="last")
        return rows.set_index("method", drop=False)

    def test(self, group: Group, method: str, metric: str) -> pd.Series | None:
        """The test of a method against the reference; None for the reference itself."""
        tests = self.tests_of(group, metric)
        return tests.loc[method] if method in tests.index else None

    def tests_of(self, group: Group, metric: str) -> pd.DataFrame:
        """The tests of a group, by method."""
        rows = group.of(self.tests)
        return rows[rows["metric"] == metric].set_index("method_a")


@dataclass(frozen=True)
class UnequalBudgets:
    """How methods whose runs have different budgets are compared.

    Attributes:
        budgets: Method to the budgets of its runs.
        work: The work at which they are compared; 0 where none was evaluated at the same work as the reference.
        methods: The methods that were evaluated there.
    """

    budgets: Mapping[str, tuple[int, ...]]
    work: float
    methods: frozenset[str]

    @property
    def text(self) -> str:
        """The budgets in words: ``naive 600, tune 1,200``."""
        return ", ".join(f"{name} {' or '.join(f'{n:,}' for n in numbers)}" for name, numbers in self.budgets.items())


@dataclass(frozen=True)
class Analysis:
    """Everything that sections take their metrics from.

    Attributes:
        region: Region whose Dice it is.
        roles: Colours and parts of the methods.
        families: Method to family.
        work: Metrics at equal work: at the end of the runs, or where budgets differ as ``unequal`` says.
        ends: Metrics at the end of the runs, whatever their budgets; without tests.
        unequal: The groups whose runs have different budgets.
        cross_validated: Methods whose figures are those of the networks of folds.
        seconds: Metrics at equal seconds; None where that cannot be told.
        seconds_table: The table cut at equal seconds, with ``seconds`` and ``reached``; empty where there is none.
        seconds_problem: Why there are none.
        both: As from :func:`metaseg.studies.pairs.both_axes`, against the reference; empty with one method only.
        curves: As from :func:`metaseg.studies.study_metrics.curves`.
        steps: As from :func:`metaseg.studies.first_steps.first_steps`, against the reference.
        rows: The report's table up to that work, of the region, empty cases settled.
        own: The same of what the runs' own networks did at every mark.
        told: As from :func:`metaseg.studies.told.told_summary`.
    """

    region: str
    roles: Roles
    families: dict[str, str]
    work: Comparison
    ends: Comparison
    unequal: Mapping[Group, UnequalBudgets]
    cross_validated: frozenset[str]
    seconds: Comparison | None
    seconds_table: pd.DataFrame
    seconds_problem: str
    both: pd.DataFrame
    curves: pd.DataFrame
    steps: pd.DataFrame
    rows: pd.DataFrame
    own: pd.DataFrame
    told: pd.DataFrame

    @property
    def groups(self) -> list[Group]:
        """All targets and numbers of shots: of each target the main one first."""
        main = self.main_groups
        return [group for groups in self._by_target() for group in sorted(groups, key=lambda group: group not in main)]

    @property
    def main_groups(self) -> list[Group]:
        """One group of each target: that with the most methods and runs, of equal ones that with the most shots."""
        return [max(groups, key=self._weight) for groups in self._by_target()]

    def last_dice(self, group: Group, method: str, domain: str, first: bool = False) -> pd.DataFrame:
        """Columns ``seed``, ``patient``, ``dice`` of a method's runs at their last mark, or at their first."""
        rows = group.of(self.rows)
        rows = rows[(rows["method"] == method) & (rows["domain"] == domain)]
        ends = rows.groupby("seed")["work"].transform("min" if first else "max")
        return rows[rows["work"] == ends].groupby(["seed", "patient"], as_index=False)["dice"].mean()

    def _by_target(self) -> Iterator[list[Group]]:
        pairs = self.work.summary[["target", "shots"]].drop_duplicates().sort_values(["target", "shots"])
        for target, rows in pairs.groupby("target"):
            yield [Group(str(target), int(shots)) for shots in rows["shots"]]

    def _weight(self, group: Group) -> tuple[int, int, int]:
        rows = group.of(self.work.summary)
        return len(rows), int(rows["n_seeds"].sum()), group.shots


def analyse(inputs: SegmentationInputs, region: str | None) -> Analysis:
    """Compute the metrics.

    Args:
        inputs: What was read; with adaptations.
        region: Region asked for; None for that of the study, else ET, else the first there is.

    Raises:
        UsageError: No run was evaluated on that region.
        DataError: The tables are damaged.
    """
    region = _choose_region(inputs, region)
    resamples = int(inputs.settings.get("resamples") or RESAMPLES)
    methods = [str(method) for method in dict.fromkeys(inputs.table["method"])]
    reference = find_roles(methods, None, inputs.runs).reference
    unequal = _unequal_budgets(inputs, reference)
    compared = _at_equal_work(inputs.table, unequal)
    summary = method_summary(compared, region, resamples=resamples)
    means = summary.groupby("method")["balanced_mean"].mean().dropna()
    roles = find_roles(methods, str(means.idxmax()) if len(means) else None, inputs.runs)
    tests, both = pd.DataFrame(columns=list(PAIR_COLUMNS)), pd.DataFrame(columns=list(BOTH_AXES_COLUMNS))
    # Where no work is equal, nothing is tested.
    tested = compared
    for group in (group for group, budgets in unequal.items() if not budgets.work):
        tested = tested.drop(group.of(tested).index)
    if tested["method"].nunique() > 1 and (tested["method"] == reference).any():
        tests = against(tested, region, reference, resamples=resamples)
        both = both_axes(tested, region, [reference], resamples=resamples)
    seconds, cut, problem = None, inputs.table.iloc[:0], ""
    if len(methods) > 1:
        try:
            cut = at_seconds(inputs.table, inputs.timing)
            seconds = Comparison(
                method_summary(cut, region, resamples=resamples),
                against(cut, region, reference, resamples=resamples),
            )
        except DataError as error:
            problem = f"No metrics at equal seconds: {error.found}."
    ends = method_summary(inputs.table, region, resamples=resamples) if unequal else summary
    return Analysis(
        region=region,
        roles=roles,
        families=dict(zip(inputs.table["method"], inputs.table["family"], strict=True)),
        work=Comparison(summary, tests),
        ends=Comparison(ends, tests.iloc[:0]),
        unequal=unequal,
        cross_validated=frozenset(run.method for run in inputs.tuned if run.path in inputs.judged_by_folds),
        seconds=seconds,
        seconds_table=cut,
        seconds_problem=problem,
        both=both,
        curves=curves(inputs.table, region, resamples=resamples),
        steps=first_steps(inputs.table, region, reference, resamples=resamples),
        rows=rows_of_region(compared, region),
        own=rows_of_region(inputs.own, region),
        told=told_summary(inputs.table, inputs.decisions, region, resamples=resamples),
    )


def _unequal_budgets(inputs: SegmentationInputs, reference: str) -> dict[Group, UnequalBudgets]:
    """The groups whose methods have runs of different budgets, with the work at which they can be compared."""
    budgets: dict[Group, dict[str, tuple[int, ...]]] = {}
    for run in inputs.tuned:
        of_group = budgets.setdefault(Group(run.target, run.shots), {})
        numbers = {*of_group.get(run.method, ()), int(run.settings.get("budget") or 0)} - {0}
        of_group[run.method] = tuple(sorted(numbers))
    unequal = {}
    for group, of_group in budgets.items():
        rows = group.of(inputs.table)
        if len({number for numbers in of_group.values() for number in numbers}) > 1 and rows["method"].nunique() > 1:
            first = reference if reference in of_group else next(iter(of_group))
            unequal[group] = UnequalBudgets(of_group, *equal_work(rows, first))
    return unequal


def _at_equal_work(table: pd.DataFrame, unequal: Mapping[Group, UnequalBudgets]) -> pd.DataFrame:
    """The table up to the work at which each group is compared, with the methods that were evaluated there."""
    for group, budgets in unequal.items():
        if budgets.work:
            rows = group.of(table)
            kept = up_to_work(rows[rows["method"].isin(budgets.methods)], budgets.work)
            table = table.drop(rows.index.difference(kept.index))
    return table


def _choose_region(inputs: SegmentationInputs, region: str | None) -> str:
    known = [str(name) for name in dict.fromkeys(inputs.table["region"])]
    wanted = region or inputs.settings.get("region")
    if wanted:
        if wanted not in known:
            raise UsageError(f"no metrics of region '{wanted}'", expected="--region " + ", ".join(known))
        return str(wanted)
    return "ET" if "ET" in known else known[0]
