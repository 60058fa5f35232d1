"""Which slices of a case are outlined, where somebody outlined some of them only.

The unit of metaseg is the slice: one is outlined as a whole, or it is not, and then nothing is known about it. Two
things tell: voxels of the label that hold the value ``ignore`` (see :mod:`metaseg.cases.labels`), and a list: the table
of ``--outlined-slices``, or the column of that name in a table of cases. Lists count slices from 0, in the order of the
file, as its voxels are indexed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from os import PathLike
from pathlib import Path

import numpy as np

from metaseg.cases.case import Case
from metaseg.cases.labels import IGNORED
from metaseg.errors import DataError, some, warn_user
from metaseg.files import FileKind, read_rows

ALL = "all"
SLICES_EXAMPLE = "3 7 12-15"
_KIND = FileKind(
    f"a CSV file in UTF-8 with the columns case and slice: numbers from 0, such as {SLICES_EXAMPLE}, or {ALL}",
    "correct it",
    DataError,
)
_ITEM = re.compile(r"(?P<first>\d{1,6})(?:-(?P<last>\d{1,6}))?")


def parse_slices(text: str) -> tuple[int, ...] | None:
    """Slice numbers of a text such as ``"3 7 12-15"``, ascending; None for ``"all"``.

    Raises:
        ValueError: The text is something else.
    """
    if text.strip().lower() == ALL:
        return None
    numbers: set[int] = set()
    for item in re.split(r"[\s,;]+", text.strip()):
        match = _ITEM.fullmatch(item)
        last = int(match["last"] or match["first"]) if match else -1
        if match is None or last < int(match["first"]):
            raise ValueError(f"'{text}' names no slices")
        numbers.update(range(int(match["first"]), last + 1))
    return tuple(sorted(numbers))


def slices_text(numbers: Sequence[int]) -> str:
    """Ascending numbers in the words that :func:`parse_slices` reads."""
    breaks = [0, *(place for place, (a, b) in enumerate(pairwise(numbers), start=1) if b != a + 1), len(numbers)]
    runs = [numbers[start:stop] for start, stop in pairwise(breaks) if start < stop]
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def read_outlined_table(path: str | PathLike[str]) -> dict[str, tuple[int, ...] | None]:
    """Case to its outlined slices, from a table with the columns ``case`` and ``slice``; None where all are.

    A case has as many rows as it takes.

    Raises:
        DataError: The table cannot be read, lacks a column, or has a cell that cannot be understood.
    """
    table = Path(path)
    found: dict[str, set[int] | None] = {}
    for number, row in enumerate(read_rows(table, _KIND), start=2):
        told = {name.lower(): cell.strip() for name, cell in row.items()}
        case, text = told.get("case", ""), told.get("slice", "")
        try:
            numbers = parse_slices(text)
        except ValueError:
            numbers = ()
        before = found.setdefault(case, None if numbers is None else set())
        if not case or numbers == () or (before is None) != (numbers is None):
            raise _KIND.refuse(f"row {number} says case '{case}', slice '{text}'", table)
        if before is not None:
            before.update(numbers or ())
    if not found:
        raise _KIND.refuse("the table has no rows", table)
    return {case: None if numbers is None else tuple(sorted(numbers)) for case, numbers in found.items()}


def tell_outlined(
    cases: Sequence[Case], table: Mapping[str, tuple[int, ...] | None], where: str | PathLike[str]
) -> list[Case]:
    """Cases with the outlined slices that a table names.

    Of cases none of which the table names, as those of another disease, all slices are outlined, with a warning.

    Args:
        cases: All cases of a data set.
        table: As :func:`read_outlined_table` gives it.
        where: The table's file, for the message.

    Raises:
        DataError: The table names some of the labelled cases and not the others, of whom nobody can tell.
    """
    unnamed = [case.id for case in cases if case.labelled and case.id not in table]
    if len(unnamed) == sum(case.labelled for case in cases):
        warn_user(
            f"the table of outlined slices names none of {len(cases)} cases, such as {some([c.id for c in cases], 2)}: "
            "all of their slices count as outlined",
            where=str(where),
            remedy="nothing, if they are; else name them in the table as 'metaseg data summary --csv' does",
        )
        return list(cases)
    if unnamed:
        raise DataError(
            f"the table of outlined slices names {len(cases) - len(unnamed)} of {len(cases)} cases, and not "
            f"{some(unnamed)}",
            where=str(where),
            expected="every labelled case of the data set",
            remedy=f"add their slices, or a row with '{ALL}' for a case that is outlined wholly",
        )
    return [replace(case, outlined=table[case.id]) if case.id in table else case for case in cases]


def settle_outlines(classes: np.ndarray, head: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Tell slices that are outlined from those that are not, of which nothing is kept.

    A slice with a single :data:`~metaseg.cases.labels.IGNORED` voxel in the head is not outlined: the outlines may go
    on there. Neither is one that is nothing else, even where it shows no head.

    Args:
        classes: Class values ``(slices, height, width)``.
        head: What is not background in any image, boolean of the same shape; None counts everything.

    Returns:
        The class values, with 0 in all of the other slices and in place of ``IGNORED``; and which slices are outlined,
        boolean ``(slices,)``.
    """
    ignored = classes == IGNORED
    if not ignored.any():
        return classes, np.ones(len(classes), dtype=bool)
    inside = ignored if head is None else ignored & head
    outlined = ~(inside.any(axis=(1, 2)) | ignored.all(axis=(1, 2)))
    return np.where(ignored | ~outlined[:, None, None], np.uint8(0), classes), outlined
