"""The table of ``--patients``: whose scan each case is, where names do not tell."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path

from metaseg.cases.sessions import doubtful_sessions, patient_of
from metaseg.cases.splits import SplitMember
from metaseg.checked_files import FileKind, read_text
from metaseg.errors import DataError, some, warn_user

_KIND = FileKind("a CSV file in UTF-8 with the columns case and patient", "correct the table", DataError)
REMEDY = "say whose scans they are with --patients TABLE, a CSV file with the columns case and patient"


def read_patient_table(path: str | PathLike[str]) -> dict[str, str]:
    """Case to patient, from a table with the columns ``case`` and ``patient``; others, such as ``session``, are free.

    Commas, semicolons or tabs part the columns.

    Raises:
        DataError: The table cannot be read, lacks a column or a name, or names two patients for a case.
    """
    table = Path(path)
    text = read_text(table, _KIND)
    try:
        rows = list(csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=text.partition("\n")[0].count)))
    except csv.Error as error:
        raise _KIND.refuse(f"the table of patients cannot be read: {error}", table) from error
    patients: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        told = {str(key).strip().lower(): value.strip() for key, value in row.items() if isinstance(value, str)}
        case, patient = (told.get(name) for name in ("case", "patient"))
        if not case or not patient or patients.setdefault(case, patient) != patient:
            found = f"row {number} says case '{case or ''}', patient '{patient or ''}'"
            if case and patient:
                found = f"case {case} is of two patients, {patients[case]} and {patient}"
            raise DataError(
                found,
                where=table,
                expected="the columns case and patient, and one patient for each case",
                remedy="correct the table",
            )
    if not patients:
        raise DataError("the table of patients has no rows", where=table, expected="one row for each case")
    return patients


def patients_of(
    cases: Mapping[str, str], table: Mapping[str, str] | None, where: str | PathLike[str] | None
) -> dict[str, str]:
    """The patient of every case: as the table says, else as the name that the reader took for the patient's tells.

    Cases that the table does not name are warned of.

    Args:
        cases: Case to the name that its reader took for the patient's.
        table: As :func:`read_patient_table` gives it, or None.
        where: The table's file, for the message.
    """
    told = table or {}
    unnamed = [case for case in cases if case not in told]
    if table is not None and unnamed:
        warn_user(
            f"{len(unnamed)} of {len(cases)} cases are not in the table of patients: {some(unnamed)}; "
            "their names tell the patient",
            where=None if where is None else str(where),
            remedy="add them to the table",
        )
    return {case: told.get(case) or patient_of(name) for case, name in cases.items()}


def doubtable(cases: Iterable[SplitMember]) -> set[str]:
    """Patients whose names begin their cases' names; any other, such as BraTS 2018's ``2013_11``, is understood."""
    return {case.patient for case in cases if case.id.startswith(case.patient)}


def warn_of_doubtful(patients: set[str], other: set[str] | None = None) -> None:
    """Warn of names that differ only in what may be a session.

    Args:
        patients: Names, as :func:`doubtable` gives them.
        other: Only of groups that have a name of these too, such as those of patients that were trained on.
    """
    groups = doubtful_sessions(patients | (other or set()))
    if other is not None:
        groups = [group for group in groups if patients & {*group} - other and other & {*group}]
    if groups:
        listed = some([" and ".join(group[:3]) for group in groups])
        warn_user(
            f"names that differ only in what may be a session count as different patients: {listed}",
            expected="one name for all sessions of a patient",
            remedy=REMEDY,
        )
