"""The metrics of a report: those of ``metaseg compare``, computed anew from the tables for the region asked for.

Which slices a method chose and when: learned and unlearned tasks over time, and the first choices as pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from metaseg.errors import DataError, MetasegError, UsageError
from metaseg.report.inputs import Reopener, ReportInputs, ReportRun, Roles, find_roles
from metaseg.report.panels import Panel, SlicePainter
from metaseg.runs.logs import SELECTION_COLUMNS, read_curves, read_selection
from metaseg.store.stored_case import StoredCase, to_space
from metaseg.studies.pairs import PAIR_COLUMNS, against, at_seconds, both_axes
from metaseg.studies.study_metrics import curves, summary
from metaseg.studies.tables import rows_of_region

THUMBNAILS = 24
"""Chosen slices of a run that are shown."""
THUMBNAIL = 104


@dataclass(frozen=True)
class Choices:
    """The choices of one run.

    Attributes:
        run: The run.
        chosen: ``selection.csv`` with numbers as numbers; empty where nothing was logged.
        tasks: Columns ``step``, ``learned``, ``unlearned``, a row per scoring; empty where slices are not parted.
        filled: Scorings in which one side was empty and was filled from the other.
        thumbnails: The first chosen slices.
        problem: Why there are no thumbnails; empty if there are.
    """

    run: ReportRun
    chosen: pd.DataFrame
    tasks: pd.DataFrame
    filled: int
    thumbnails: tuple[Panel, ...]
    problem: str

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of chosen slices of each task."""
        return {str(task): int(count) for task, count in self.chosen["task"].value_counts(sort=False).items()}


def make_choices(run: ReportRun, reopener: Reopener) -> Choices:
    """Read a run's choices and draw the first of them."""
    chosen = selection_of(run)
    tasks, filled = read_tasks(run)
    thumbnails: tuple[Panel, ...] = ()
    problem = ""
    if chosen.empty:
        problem = f"{run.method} logged no choices."
    else:
        try:
            thumbnails = _thumbnails(chosen.head(THUMBNAILS), run, reopener)
        except MetasegError as error:
            problem = f"No pictures of the chosen slices: {error.found}."
    return Choices(run, chosen, tasks, filled, thumbnails, problem)


def selection_of(run: ReportRun) -> pd.DataFrame:
    """``selection.csv`` of a run; empty if there is none."""
    table = pd.DataFrame(read_selection(run.path), columns=list(SELECTION_COLUMNS))
    whole = table.astype(dict.fromkeys(("step", "slice", "position"), int))
    return whole.assign(**{name: pd.to_numeric(table[name]) for name in ("dice", "threshold")})


def read_tasks(run: ReportRun) -> tuple[pd.DataFrame, int]:
    """Learned and unlearned slices at every scoring of a run, and how often one side had to be filled."""
    curves = read_curves(run.path)
    steps, learned = curves.get("tasks/learned", ([], []))
    _, unlearned = curves.get("tasks/unlearned", ([], []))
    _, filled = curves.get("tasks/filled", ([], []))
    # A run that was cut off may have written one metric of a scoring and not the next.
    count = min(len(learned), len(unlearned))
    frame = {"step": steps[:count], "learned": learned[:count], "unlearned": unlearned[:count]}
    return pd.DataFrame(frame, columns=["step", "learned", "unlearned"]), int(sum(filled))


def _thumbnails(chosen: pd.DataFrame, run: ReportRun, reopener: Reopener) -> tuple[Panel, ...]:
    setting = reopener.setting(run)
    cases: dict[str, StoredCase] = {case.id: case for case in setting.memory}
    cases |= {shot.case.id: shot.case for shot in setting.shots}
    panels = []
    for number, row in enumerate(chosen.itertuples(index=False), start=1):
        case = cases.get(str(row.case))
        if case is None:
            continue
        stored = int(row.slice) - case.native_slice(0)
        if not 0 <= stored < case.num_slices:
            continue
        space = case.space if case.space.num_classes <= setting.space.num_classes else setting.space
        label = to_space(case.labels([stored]), case.space, space, case.id)[0]
        dice = "" if pd.isna(row.dice) else f"Dice {row.dice:.2f}"
        caption = (f"{number}. {row.task}", f"{row.role}, step {row.step}", dice)
        alt = f"Choice {number}: {case.id}, slice {int(row.slice) + 1}, {row.task}, {row.role} {dice}"
        painter = SlicePainter(case, stored, setting.modalities, THUMBNAIL)
        panels.append(painter.panel(label, space, alt.strip(), caption, kind=str(row.task)))
    return tuple(panels)


RESAMPLES = 2000


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
        summary: As from :func:`metaseg.studies.study_metrics.summary`.
        tests: As from :func:`metaseg.studies.pairs.against`; empty where there is one method only.
    """

    summary: pd.DataFrame
    tests: pd.DataFrame

    def row(self, group: Group, method: str) -> pd.Series | None:
        """The summary of a method; None if it has none in the group."""
        rows = group.of(self.summary)
        rows = rows[rows["method"] == method]
        return rows.iloc[0] if len(rows) else None

    def test(self, group: Group, method: str, metric: str) -> pd.Series | None:
        """The test of a method against the reference; None for the reference itself."""
        rows = group.of(self.tests)
        rows = rows[(rows["method_a"] == method) & (rows["metric"] == metric)]
        return rows.iloc[0] if len(rows) else None


@dataclass(frozen=True)
class Analysis:
    """Everything that sections take their metrics from.

    Attributes:
        region: Region whose Dice it is.
        roles: Colours and parts of the methods.
        families: Method to family.
        work: Metrics at equal work.
        seconds: Metrics at equal seconds; None where that cannot be told.
        seconds_table: The table cut at equal seconds, with ``seconds`` and ``reached``; empty where there is none.
        seconds_problem: Why there are none.
        both: As from :func:`metaseg.studies.pairs.both_axes`, against the reference; empty with one method only.
        curves: As from :func:`metaseg.studies.study_metrics.curves`.
        rows: The report's table, of the region, empty cases settled.
    """

    region: str
    roles: Roles
    families: dict[str, str]
    work: Comparison
    seconds: Comparison | None
    seconds_table: pd.DataFrame
    seconds_problem: str
    both: pd.DataFrame
    curves: pd.DataFrame
    rows: pd.DataFrame

    @property
    def groups(self) -> list[Group]:
        """All targets and numbers of shots: of each target the main one first."""
        main = self.main_groups
        return [group for groups in self._by_target() for group in sorted(groups, key=lambda one: one not in main)]

    @property
    def main_groups(self) -> list[Group]:
        """One group of each target: that with the most methods and runs, of equal ones that with the most shots."""
        return [max(groups, key=self._weight) for groups in self._by_target()]

    def methods(self, group: Group) -> list[str]:
        """Methods of a group, the best balanced mean first; those without one last."""
        rows = group.of(self.work.summary).sort_values("balanced_mean", ascending=False, na_position="last")
        return [str(method) for method in rows["method"]]

    def last_dice(self, group: Group, method: str, domain: str, first: bool = False) -> pd.DataFrame:
        """Columns ``seed``, ``patient``, ``dice`` of a method's runs at their last mark, or at their first."""
        rows = group.of(self.rows)
        rows = rows[(rows["method"] == method) & (rows["domain"] == domain)]
        ends = rows.groupby("seed")["step"].transform("min" if first else "max")
        rows = rows[rows["step"] == ends]
        return rows.groupby(["seed", "patient"], as_index=False)["dice"].mean()

    def _by_target(self) -> Iterator[list[Group]]:
        pairs = self.work.summary[["target", "shots"]].drop_duplicates().sort_values(["target", "shots"])
        groups = [Group(str(target), int(shots)) for target, shots in pairs.itertuples(index=False)]
        for target in dict.fromkeys(group.target for group in groups):
            yield [group for group in groups if group.target == target]

    def _weight(self, group: Group) -> tuple[int, int, int]:
        rows = group.of(self.work.summary)
        return len(rows), int(rows["n_seeds"].sum()), group.shots


def analyse(inputs: ReportInputs, region: str | None) -> Analysis:
    """Compute the metrics.

    Args:
        inputs: What was read; with adaptations.
        region: Region asked for; None for that of the study, else ET, else the first there is.

    Raises:
        UsageError: No run was evaluated on that region.
        DataError: The tables are damaged.
    """
    region = choose_region(inputs, region)
    resamples = int(inputs.settings.get("resamples") or RESAMPLES)
    rows = rows_of_region(inputs.table, region)
    overview = summary(inputs.table, region, resamples=resamples)
    methods = [str(method) for method in dict.fromkeys(inputs.table["method"])]
    roles = find_roles(methods, best_method(overview), inputs.runs)
    seconds, cut, problem = _equal_seconds(inputs, region, roles.reference, resamples)
    return Analysis(
        region=region,
        roles=roles,
        families=dict(zip(inputs.table["method"], inputs.table["family"], strict=True)),
        work=Comparison(overview, _tests(inputs.table, region, roles.reference, resamples)),
        seconds=seconds,
        seconds_table=cut,
        seconds_problem=problem,
        both=both_axes(inputs.table, region, [roles.reference], resamples=resamples),
        curves=curves(inputs.table, region, resamples=resamples),
        rows=rows,
    )


def choose_region(inputs: ReportInputs, region: str | None) -> str:
    """The region of the report.

    Raises:
        UsageError: No run was evaluated on the one asked for.
    """
    known = [str(name) for name in dict.fromkeys(inputs.table["region"])]
    wanted = region or inputs.settings.get("region")
    if wanted:
        if wanted not in known:
            raise UsageError(f"no metrics of region '{wanted}'", expected="--region " + ", ".join(known))
        return str(wanted)
    return "ET" if "ET" in known else known[0]


def best_method(overview: pd.DataFrame) -> str | None:
    """The method with the highest balanced mean, averaged over targets and shots; None if none has one."""
    means = overview.groupby("method")["balanced_mean"].mean().dropna()
    return str(means.idxmax()) if len(means) else None


def _tests(table: pd.DataFrame, region: str, reference: str, resamples: int) -> pd.DataFrame:
    if table["method"].nunique() < 2:
        return pd.DataFrame(columns=list(PAIR_COLUMNS))
    return against(table, region, reference, resamples=resamples)


def _equal_seconds(
    inputs: ReportInputs, region: str, reference: str, resamples: int
) -> tuple[Comparison | None, pd.DataFrame, str]:
    """Metrics at equal seconds, the table they are of, and why there are none."""
    nothing = inputs.table.iloc[:0]
    if inputs.table["method"].nunique() < 2:
        return None, nothing, ""
    try:
        cut = at_seconds(inputs.table, inputs.timing)
    except DataError as error:
        return None, nothing, f"No metrics at equal seconds: {error.found}."
    compared = Comparison(summary(cut, region, resamples=resamples), _tests(cut, region, reference, resamples))
    return compared, cut, ""
