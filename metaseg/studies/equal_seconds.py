"""Methods at equal seconds instead of equal work: the tidy table, cut where all have computed as long."""

from __future__ import annotations

import numpy as np
import pandas as pd

from metaseg.errors import DataError
from metaseg.studies.table import TABLE_COLUMNS, TIMING_COLUMNS, check_table, count_empty_cases

_RUN = ["target", "method", "shots", "seed"]
_CELL = ["target", "shots"]


def at_seconds(table: pd.DataFrame, timing: pd.DataFrame, seconds: float | None = None) -> pd.DataFrame:
    """Dice of every case when its run had computed for a number of seconds.

    Args:
        table: The tidy table of a study.
        timing: Its timing table: seconds of tuning up to every mark of ``table``; none are needed at step 0.
        seconds: Where to cut, above 0. By default, for each target and shots, the smallest of the methods' totals (a
            method's total being the median over seeds), so that each reaches it in at least half of its runs; methods
            that take no time at all are left out of this.

    Returns:
        A tidy table of two marks for each run: its first one, and the cut. Dice and step at the cut lie on straight
        lines between the marks around it. Two columns more: ``seconds`` of the mark, and ``reached``. A run that ended
        before the cut is there with its last mark and False.

    Raises:
        DataError: A table is not one, marks have no seconds, or seconds fall.
        ValueError: ``seconds`` is not above 0.
    """
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds is {seconds}: expected more than 0")
    table = check_table(table)
    parts = [count_empty_cases(rows) for _, rows in table.groupby("region", sort=False)]
    rows = pd.concat(parts) if parts else table
    marks = _timed_marks(rows, check_table(timing, TIMING_COLUMNS))
    marks["cut"] = _cuts(marks) if seconds is None else float(seconds)
    around = _marks_around(marks)
    first = marks.groupby([*_RUN, "domain"], as_index=False)[["step", "seconds"]].first()
    reached = around[[*_RUN, "domain", "reached"]]
    begin = rows.merge(first, on=[*_RUN, "domain", "step"]).merge(reached, on=[*_RUN, "domain"])
    end = _interpolate(rows, around)
    end = end[end["step"] > end["first"]]
    columns = [*TABLE_COLUMNS, "seconds", "reached"]
    frame = pd.concat([begin[columns], end[columns]], ignore_index=True)
    return frame.sort_values(list(TABLE_COLUMNS), ignore_index=True)


def _timed_marks(table: pd.DataFrame, timing: pd.DataFrame) -> pd.DataFrame:
    """Every mark of every run on every domain with its seconds, in ascending order."""
    marks = table[[*_RUN, "domain", "step"]].drop_duplicates()
    marks = marks.merge(timing[list(TIMING_COLUMNS)], on=[*_RUN, "step"], how="left")
    marks = marks.sort_values([*_RUN, "domain", "step"], ignore_index=True)
    marks.loc[marks["seconds"].isna() & (marks["step"] == 0), "seconds"] = 0.0
    if (untimed := marks["seconds"].isna()).any():
        raise DataError(
            f"{int(untimed.sum())} of {len(marks)} marks have no seconds, such as {_name(marks[untimed].iloc[0])}",
            expected="a row of the timing table for each mark",
        )
    falls = marks.groupby([*_RUN, "domain"])["seconds"].diff() < 0
    if falls.any():
        raise DataError(
            f"the seconds fall before {_name(marks[falls].iloc[0])}", expected="seconds since the start of the run"
        )
    return marks


def _cuts(marks: pd.DataFrame) -> np.ndarray:
    """For each mark, the smallest median total of the methods with the same target and shots."""
    totals = marks.groupby(_RUN, as_index=False)["seconds"].max()
    medians = totals.groupby([*_CELL, "method"], as_index=False)["seconds"].median()
    cuts = medians[medians["seconds"] > 0].groupby(_CELL, as_index=False)["seconds"].min()
    return marks[_CELL].merge(cuts, on=_CELL, how="left")["seconds"].fillna(0.0).to_numpy()


def _marks_around(marks: pd.DataFrame) -> pd.DataFrame:
    """For each run and domain: steps and seconds of the marks around the cut, and the weight of the later one."""
    by = [*_RUN, "domain"]
    late = marks["seconds"] > marks["cut"]
    ends = marks.groupby(by, as_index=False).agg(
        first=("step", "first"), cut=("cut", "first"), total=("seconds", "max")
    )
    lower = marks[~late].groupby(by, as_index=False)[["step", "seconds"]].last()
    upper = marks[late].groupby(by, as_index=False)[["step", "seconds"]].first()
    around = ends.merge(lower.rename(columns={"step": "lower", "seconds": "lower_seconds"}), on=by, how="left")
    around = around.merge(upper.rename(columns={"step": "upper", "seconds": "upper_seconds"}), on=by, how="left")
    # A run whose first mark is later than the cut has no mark before it, and one that ended earlier none after it.
    for name, other in (("lower", "upper"), ("upper", "lower")):
        for column in (name, f"{name}_seconds"):
            around[column] = around[column].fillna(around[column.replace(name, other)])
    width = around["upper_seconds"] - around["lower_seconds"]
    share = (around["cut"] - around["lower_seconds"]) / width.where(width > 0, 1.0)
    return around.assign(weight=share.where(width > 0, 0.0), reached=around["total"] >= around["cut"])


def _interpolate(rows: pd.DataFrame, around: pd.DataFrame) -> pd.DataFrame:
    by = [*_RUN, "domain"]
    lower = rows.merge(around, left_on=[*by, "step"], right_on=[*by, "lower"])
    upper = rows.merge(around[[*by, "upper"]], left_on=[*by, "step"], right_on=[*by, "upper"])
    case = [*by, "case", "patient", "region"]
    end = lower.merge(upper[[*case, "dice"]], on=case, suffixes=("", "_upper"))
    weight = end["weight"]
    return end.assign(
        dice=end["dice"] + weight * (end["dice_upper"] - end["dice"]),
        step=end["lower"] + weight * (end["upper"] - end["lower"]),
        seconds=end["lower_seconds"] + weight * (end["upper_seconds"] - end["lower_seconds"]),
    )


def _name(mark: pd.Series) -> str:
    return ", ".join(f"{name} {mark[name]}" for name in [*_RUN, "step"])
