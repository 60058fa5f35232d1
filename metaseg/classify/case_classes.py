"""The class of each case: a property that its files tell, or a column of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from metaseg.checked_files import TABLE, read_rows
from metaseg.config_classify import SliceOptions
from metaseg.errors import DataError, UsageError, unknown_name

CASE_PROPERTIES = ("grade", "cohort", "site")


def case_classes(store: Iterable[Any], config: SliceOptions, *, needed: bool = True) -> dict[str, str]:
    """The class of each case, by id; empty where it is not known and not ``needed``.

    Raises:
        DataError: A case has none, or the table cannot be used.
        UsageError: The property does not exist.
    """
    if config.case_table is not None:
        return _from_table(store, config.case_table, config.label, needed)
    if config.label not in CASE_PROPERTIES:
        raise UsageError(
            f"--label {config.label}",
            expected=" or ".join(CASE_PROPERTIES) + ", or a column of --case-table",
            remedy="give the table that has this column with --case-table",
        )
    found = {case.id: getattr(case, config.label) for case in store}
    without = [name for name, value in found.items() if not value]
    if without and needed:
        raise DataError(
            f"{len(without)} of {len(found)} cases have no {config.label}: {', '.join(without[:5])}",
            expected=f"a {config.label} for each case",
            remedy="name another property with --label, or classes in a table with --case-table",
        )
    return {name: str(value or "") for name, value in found.items()}


def _from_table(store: Iterable[Any], path: Path, column: str, needed: bool) -> dict[str, str]:
    rows = read_rows(path.expanduser(), TABLE)
    key = next((name for name in ("case", "patient") if rows and name in rows[0]), None)
    if key is None or column not in rows[0]:
        raise DataError(
            "the table has the columns " + (", ".join(filter(None, rows[0])) if rows else "(none)"),
            where=path,
            expected=f"'case' or 'patient', and '{column}'",
            remedy="name the column of the classes with --label",
        )
    table: dict[str, str] = {}
    for row in rows:
        name, value = (row[key] or "").strip(), (row[column] or "").strip()
        if table.setdefault(name, value) != value:
            raise DataError(
                f"the table names {key} '{name}' twice, with the classes '{table[name]}' and '{value}'",
                where=path,
                expected=f"one class for each {key}",
                remedy="correct the rows",
            )
    names = {case.id: case.id if key == "case" else case.patient for case in store}
    unknown = [name for name in table if name and name not in set(names.values())]
    if unknown:
        raise DataError(
            f"{len(unknown)} rows of the table name a {key} that the data do not have: {', '.join(unknown[:5])}",
            where=path,
            expected="names as 'metaseg data check' shows them",
            remedy="correct or leave out the rows, or give all the data with --data",
        )
    classes = {case: table.get(name, "") for case, name in names.items()}
    without = [name for name, value in classes.items() if not value]
    if without and needed:
        raise DataError(
            f"{len(without)} of {len(classes)} cases have no class in the table: {', '.join(without[:5])}",
            where=path,
            expected=f"a row with '{key}' and '{column}' for each",
            remedy="add the rows, or leave the cases out",
        )
    return classes


def class_order(names: Mapping[str, str], wanted: tuple[str, ...], config: SliceOptions) -> tuple[str, ...]:
    """The classes in their order: those asked for, or all that there are.

    Raises:
        UsageError: A class that is asked for has no case, or stands there twice.
        DataError: There is one class alone.
    """
    found = sorted(set(names.values()))
    doubled = [name for name in wanted if wanted.count(name) > 1]
    if doubled:
        raise UsageError(f"--classes names {doubled[0]} twice", expected="each class once")
    absent = [name for name in config.classes if name not in found]
    if absent:
        raise unknown_name("class of --classes", absent[0], found)
    classes = wanted or tuple(found)
    if len(classes) < 2:
        raise DataError(
            f"all cases are of one class ({', '.join(classes)})",
            where=", ".join(map(str, config.data)) or None,
            expected="at least two classes",
            remedy="give the data of the other class too, or choose another --label",
        )
    return classes
