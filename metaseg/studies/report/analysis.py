"""The figures of a report: those of ``metaseg compare``, computed anew from the tables for the region asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from metaseg.errors import DataError, UsageError
from metaseg.studies.both_axes import both_axes
from metaseg.studies.equal_seconds import at_seconds
from metaseg.studies.figures import curves, summary
from metaseg.studies.pairs import PAIR_COLUMNS, against
from metaseg.studies.report.inputs import ReportInputs
from metaseg.studies.report.roles import Roles, find_roles
from metaseg.studies.table import rows_of_region

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
    """Figures of all methods, and their tests against the reference.

    Attributes:
        summary: As from :func:`metaseg.studies.figures.summary`.
        tests: As from :func:`metaseg.studies.pairs.against`; empty where there is one method only.
    """

    summary: pd.DataFrame
    tests: pd.DataFrame

    def row(self, group: Group, method: str) -> pd.Series | None:
        """The summary of a method; None if it has none in the group."""
        rows = group.of(self.summary)
        rows = rows[rows["method"] == method]
        return rows.iloc[0] if len(rows) else None

    def test(self, group: Group, method: str, figure: str) -> pd.Series | None:
        """The test of a method against the reference; None for the reference itself."""
        rows = group.of(self.tests)
        rows = rows[(rows["method_a"] == method) & (rows["figure"] == figure)]
        return rows.iloc[0] if len(rows) else None


@dataclass(frozen=True)
class Analysis:
    """Everything that sections take their figures from.

    Attributes:
        region: Region whose Dice it is.
        roles: Colours and parts of the methods.
        families: Method to family.
        work: Figures at equal work.
        seconds: Figures at equal seconds; None where that cannot be told.
        seconds_table: The table cut at equal seconds, with ``seconds`` and ``reached``; empty where there is none.
        seconds_problem: Why there are none.
        both: As from :func:`metaseg.studies.both_axes.both_axes`, against the reference; empty with one method only.
        curves: As from :func:`metaseg.studies.figures.curves`.
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
    """Compute the figures.

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
            raise UsageError(f"no figures of region '{wanted}'", expected="--region " + ", ".join(known))
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
    """Figures at equal seconds, the table they are of, and why there are none."""
    nothing = inputs.table.iloc[:0]
    if inputs.table["method"].nunique() < 2:
        return None, nothing, ""
    try:
        cut = at_seconds(inputs.table, inputs.timing)
    except DataError as error:
        return None, nothing, f"No figures at equal seconds: {error.found}."
    compared = Comparison(summary(cut, region, resamples=resamples), _tests(cut, region, reference, resamples))
    return compared, cut, ""
