"""Whose scan a case is: told by its name without what names the session, or by the table of ``--patients``.

``pat01_ses2``, ``sub-01_ses-02`` and ``P1_20200101`` are sessions. A split that puts two sessions of one patient on two
sides makes metrics look better than they are, so whatever names a session is taken out of a name before patients are
compared. Bare numbers, as in ``case_001`` and ``case_002``, usually count patients: they are left in, and
:func:`doubtful_sessions` names those that may be sessions after all.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Protocol

from metaseg.errors import DataError, some, warn_user
from metaseg.files import FileKind, read_rows

SITED = re.compile(
    r"brats\d\d_(?P<site>(?!training|validation|testing)[a-z0-9]+)_(?P<number>[a-z0-9]+)_\d+", re.IGNORECASE
)
"""BraTS until 2019, such as ``Brats18_CBICA_ALU_1``: year, site, patient, time point."""
# Published names in which a bare number is the time point.
_PUBLISHED = re.compile(
    r"(?P<patient>brats[-_][a-z_-]+[-_]\d+)[-_]\d{1,3}|(?P<bids>sub-[a-z0-9]+)_.+"
    r"|(?P<other>(?:upenn-gbm|ucsd-ptgbm|rhuh)-\d+)[-_]\d{1,2}",
    re.IGNORECASE,
)
_GAP = r"[-_. ]"
_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_DATE = rf"(?:{_YEAR}(?P<gap>{_GAP}?){_MONTH}(?P=gap){_DAY}(?:T?\d{{4,6}})?|{_DAY}(?P<dot>{_GAP}){_DAY}(?P=dot){_YEAR})"
_NUMBERED = (
    rf"(?:ses-[a-z0-9]+|(?:sess?|sessions?|tp|time{_GAP}?point|visit|vis|days?|weeks?|wk|months?|years?)"
    rf"{_GAP}?(?:\d{{1,4}}(?:-\d{{1,2}})?|[a-h]))"
)
_NAMED = (
    rf"(?:(?:pre|post|intra|mid)(?:{_GAP}?(?:op|operative|surgery|surgical|treatment|tx|rt|radiation|chemo|therapy))?"
    r"|baseline|screening|initial|recurrence|relapse|progression|retest|first|second|third|final|last)\d{0,2}"
    rf"|(?:follow{_GAP}?ups?|fu)(?:{_GAP}?\d{{1,3}}d?)?"
)
_MARK = rf"(?:{_DATE}|{_NUMBERED}|{_NAMED})"
_END = rf"(?={_GAP}|$)"
_AFTER = re.compile(rf"(?:{_GAP}+|(?<=\d)(?!\d)){_MARK}{_END}", re.IGNORECASE)
_BEFORE = re.compile(rf"^{_MARK}{_GAP}+(?=.*\d)", re.IGNORECASE)
# Short and common words: only behind a name with a number of its own.
_WEAK = re.compile(
    rf"(?P<stem>.*\d.*?)(?:{_GAP}+|(?<=\d))(?:(?:scan|rescan|exam|study|mri|mr|run|time|v|t){_GAP}?\d{{1,2}}|bl|\d?1st|2nd|3rd|\dth)",
    re.IGNORECASE,
)
# Of a name that leaves no more than one of these, every patient would be one.
_GENERIC = re.compile(
    r"brain|case|data|id|ima?ge?|mri|pat|patient|patientid|scan|study|subj?|subject|vol", re.IGNORECASE
)
# What may be a session, or count patients. The last: a number whose last two digits begin anew for each patient.
_DOUBTFUL = (
    re.compile(rf"(?P<stem>.*\d){_GAP}\d{{1,3}}"),
    re.compile(rf"(?P<stem>.*\d){_GAP}(?:{_YEAR}|\d{{6}}|[dmswy]\d{{1,3}})", re.IGNORECASE),
    re.compile(rf"(?P<stem>.*\d)(?:[a-f]|{_GAP}[A-Fa-f])"),
    re.compile(rf"(?P<stem>.*[a-z]){_GAP}(?:scan|exam|mri?|run|time|visit|ses|v|t){_GAP}?\d{{1,2}}", re.IGNORECASE),
    re.compile(rf"(?P<stem>.*[a-z]){_GAP}{_DATE}", re.IGNORECASE),
)
_RESTARTING = re.compile(r"(?P<stem>(?:.*\D)?0*[1-9]\d*)(?P<last>\d\d)")
MOST_SESSIONS = 6
"""A group of more names than this is a count of patients."""
_KIND = FileKind(
    "a CSV file in UTF-8 with the columns case and patient, one patient for each case", "correct it", DataError
)
REMEDY = "say whose scans they are with --patients TABLE, a CSV file with the columns case and patient"


class SplitMember(Protocol):
    """What a split asks of a case: a read one and a stored one both have it."""

    @property
    def id(self) -> str:
        """Unique in the data set."""

    @property
    def patient(self) -> str:
        """The patient."""

    @property
    def cohort(self) -> str:
        """Where it comes from."""

    @property
    def grade(self) -> str | None:
        """Grade or class."""

    @property
    def site(self) -> str | None:
        """Centre."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Files, for messages."""


def patient_of(name: str) -> str:
    """The patient in a case's name: the name without the session.

    A name in which no session is recognised, or of which nothing would be left, names the patient itself.
    """
    if sited := SITED.fullmatch(name):
        # Without the year: the challenge of the next year has the same patients under the same number.
        return f"{sited['site']}_{sited['number']}"
    left = _AFTER.sub("", _BEFORE.sub("", name))
    weak = _WEAK.fullmatch(left)
    left = (weak["stem"] if weak else left).strip("-_. ")
    if published := _PUBLISHED.fullmatch(left):
        return next(filter(None, published.groups()))
    return left if left and not _GENERIC.fullmatch(left) else name


def doubtful_sessions(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of names that differ only in what may be a session, and were not recognised as sessions of one patient.

    Args:
        names: Names of patients, as :func:`patient_of` gives them.
    """
    names = sorted(set(names))
    groups: set[tuple[str, ...]] = set()
    for pattern in _DOUBTFUL:
        by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for name in names:
            if match := pattern.fullmatch(name):
                by_stem[match["stem"]].append(name)
        groups |= {tuple(group) for group in by_stem.values() if 2 <= len(group) <= MOST_SESSIONS}
    return sorted(groups | _restarting(names))


def _restarting(names: list[str]) -> set[tuple[str, ...]]:
    """Numbers such as 0800, 0801, 0900: if in all of them the last two digits count from 00 anew."""
    by_stem: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for name in names:
        if match := _RESTARTING.fullmatch(name):
            by_stem[match["stem"]][int(match["last"])] = name
        elif name[-1:].isdecimal():
            return set()
    counted = all(
        len(group) <= MOST_SESSIONS and sorted(group) == list(range(len(group))) for group in by_stem.values()
    )
    return {tuple(group.values()) for group in by_stem.values() if len(group) > 1} if counted else set()


def read_patient_table(path: str | PathLike[str]) -> dict[str, str]:
    """Case to patient, from a table with the columns ``case`` and ``patient``; others, such as ``session``, are free.

    Commas, semicolons or tabs part the columns.

    Raises:
        DataError: The table cannot be read, lacks a column or a name, or names two patients for a case.
    """
    table = Path(path)
    patients: dict[str, str] = {}
    for number, row in enumerate(read_rows(table, _KIND), start=2):
        told = {name.lower(): cell.strip() for name, cell in row.items()}
        case, patient = (told.get(name) for name in ("case", "patient"))
        if not case or not patient or patients.setdefault(case, patient) != patient:
            found = f"row {number} says case '{case or ''}', patient '{patient or ''}'"
            if case and patient:
                found = f"case {case} is of two patients, {patients[case]} and {patient}"
            raise _KIND.refuse(found, table)
    if not patients:
        raise _KIND.refuse("the table of patients has no rows", table)
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
            "their names identify the patient",
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
