"""Any layout, by a table ``cases.csv``: one row per case, one column per modality, paths relative to the table.

Columns: ``case`` or ``patient``, and optional ``session``, ``cohort``, ``grade``, ``site``, ``split``, ``label``,
``label_scheme`` and ``outlined_slices``. Every other column is a modality, but those whose name begins with ``#``,
which are passed over. Separated by commas, semicolons or tabs. ``scan.nii.gz#2`` is the third volume of a 4-D file.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from metaseg.cases.case import MODALITIES, Case, Volume
from metaseg.cases.labels import WHOLE_LESION, LabelScheme, label_scheme
from metaseg.cases.outlined import ALL, SLICES_EXAMPLE, parse_slices
from metaseg.cases.readers.case_folders import grade_of
from metaseg.cases.readers.common import (
    LeftOut,
    Reader,
    ReadOptions,
    absent_file,
    find_doubled,
)
from metaseg.cases.volumes import ImageStack, volume_from_file
from metaseg.config.modalities import canonical_modality
from metaseg.errors import DataError, MetasegError, warn_user
from metaseg.files import FileKind, read_text

TABLE = "cases.csv"
TABLE_SUFFIXES = (".csv", ".tsv")
COLUMNS = (
    "case",
    "patient",
    "session",
    "cohort",
    "grade",
    "site",
    "split",
    "label",
    "label_scheme",
    "outlined_slices",
)
"""Columns that are no modality."""

_ALIASES = {
    "case": ("case_id", "caseid", "id"),
    "patient": ("patient_id", "patientid", "subject", "subject_id", "participant", "participant_id"),
    "session": ("session_id", "visit", "timepoint", "time_point"),
    "cohort": ("class", "disease"),
    "site": ("centre", "center", "hospital"),
    "split": ("part",),
    "label": ("labels", "seg", "segmentation", "mask", "outline", "lesion_mask"),
    "label_scheme": ("scheme",),
    "outlined_slices": ("outlined",),
}
_ALIAS_OF = {alias: column for column, aliases in _ALIASES.items() for alias in aliases}
_PARTS = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}
# What no file name may hold on some system.
_NO_NAME = re.compile(r'[\\/:*?"<>|\x00-\x1f\x7f]')
_LONGEST_NAME = 120
_KIND = FileKind(
    f"a table such as {TABLE}: text in UTF-8 with the columns case, patient, session, cohort, site, split, label (case "
    "or patient is needed) and one per modality; commas, semicolons or tabs between them",
    "correct the table",
    DataError,
)


@dataclass(frozen=True)
class TableRow:
    """One row of a table of cases.

    Attributes:
        number: Its line in the file, counted from 1.
        case: The case's id.
        patient: Its patient, as the row or else the case's name tells.
        told: Other columns of :data:`COLUMNS` to their text; empty cells are left out.
        images: Modality to the text of its cell; empty cells are left out.
    """

    number: int
    case: str
    patient: str
    told: Mapping[str, str]
    images: Mapping[str, str]

    @property
    def files(self) -> dict[str, str]:
        """Texts of the cells that name files, the label among them."""
        return {**self.images, **({"label": self.told["label"]} if "label" in self.told else {})}


def matches(path: Path) -> bool:
    """Whether ``path`` holds a ``cases.csv`` with a column for the case or the patient."""
    if not (path / TABLE).is_file():
        return False
    header = _lines(path / TABLE)[0][1]
    return bool({"case", "patient"} & {column_of(name) for name in header})


def read(path: Path, options: ReadOptions) -> list[Case]:
    """Make one case per row of a table, or of the ``cases.csv`` in a folder.

    Raises:
        DataError: The table is unreadable, a row is incomplete or doubled, or (in strict mode) two cells name one file.
    """
    table = table_of(path)
    rows = read_table(table)
    _refuse_doubled([(f"row {row.number}", row.case) for row in rows], "case", table)
    cases = [_make_case(row, table, options) for row in rows]
    _find_doubled_files(rows, table, options)
    _doubt_columns(rows, table, options)
    _doubt_labels(cases, options)
    return cases


def table_of(path: Path) -> Path:
    """The table that a path names: itself, or the ``cases.csv`` in a folder."""
    return path / TABLE if path.is_dir() else path


def read_table(table: Path) -> list[TableRow]:
    """Read the rows of a table, without looking at the files that they name.

    Raises:
        DataError: The table is unreadable, lacks columns or rows, or has a row that cannot be understood.
    """
    (_, header), *lines = _lines(table)
    columns = [column_of(name) for name in header]
    doubled = find_doubled(name for name in columns if name)
    if doubled:
        both = ", ".join(name for name, column in zip(header, columns, strict=True) if column == doubled)
        found = f"the table has two columns for {doubled}: {both}"
        raise _KIND.refuse(found, table, "rename one, or begin its name with # to pass it over")
    images = [name for name in columns if name and name not in COLUMNS]
    if not {"case", "patient"} & set(columns) or not images:
        found = f"the table has the columns {', '.join(filter(None, columns)) or '(none)'}"
        raise _KIND.refuse(found, table, "add them, or let 'metaseg data index FOLDER' write a first table")
    rows = [_row(number, cells, columns, table) for number, cells in lines]
    if not rows:
        raise _KIND.refuse("the table has no rows", table, "add a row for each case")
    return rows


def parts_of_table(table: Path) -> dict[str, list[TableRow]]:
    """Rows by the column ``split``; those without are in no part.

    Raises:
        DataError: The table cannot be read, has no such column, or names nothing in it.
    """
    parts: dict[str, list[TableRow]] = {}
    for row in read_table(table):
        if part := row.told.get("split", ""):
            parts.setdefault(_PARTS.get(part.lower(), part), []).append(row)
    if not parts:
        remedy = (
            "fill in a column 'split' with a part for each case (train, val, test), or draw one: 'metaseg data split'"
        )
        raise _KIND.refuse("the table has no split", table, remedy)
    return parts


def _lines(table: Path) -> list[tuple[int, list[str]]]:
    """Lines that are not empty, with their numbers; the header first."""
    try:
        text = read_text(table, _KIND)
        reader = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=text.partition("\n")[0].count), strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except csv.Error as error:
        raise _KIND.refuse(f"the table cannot be read: {error}", table) from error
    if not lines:
        raise _KIND.refuse("the table is empty", table, "add the cases")
    return lines


def column_of(name: str) -> str:
    """Name of a column inside metaseg; empty for one that is passed over."""
    plain = re.sub(r"[\s-]+", "_", name.lower())
    if not plain or plain.startswith("#"):
        return ""
    return plain if plain in COLUMNS else _ALIAS_OF.get(plain, canonical_modality(name))


def _row(number: int, cells: list[str], columns: list[str], table: Path) -> TableRow:
    if len(cells) > len(columns) and any(cells[len(columns) :]):
        found = f"row {number} has {len(cells)} cells for {len(columns)} columns"
        raise _KIND.refuse(found, table, "put cells that hold the separator in quotes")
    told = {column: cell for column, cell in zip(columns, cells, strict=False) if column and cell}
    session = told.get("session", "")
    case = told.get("case") or "_".join(filter(None, (told.get("patient"), session)))
    if not case or case == session:
        raise _KIND.refuse(f"row {number} names neither case nor patient", table, "fill in one of them")
    for column, name in (("case", case), ("patient", told.get("patient", case))):
        if _NO_NAME.search(name) or name.startswith(".") or len(name) > _LONGEST_NAME:
            raise DataError(
                f"row {number}, column {column}: '{name[:80]}' is no name",
                where=table,
                expected=f"at most {_LONGEST_NAME} characters, no dot in front, and none of " + r'/ \ : * ? " < > |',
                remedy="rename it: files are named after it",
            )
    images = {column: told.pop(column) for column in columns if column not in COLUMNS and column in told}
    return TableRow(number, case, told.get("patient") or case, told, images)


def _refuse_doubled(cells: Sequence[tuple[str, str]], what: str, table: Path) -> None:
    """Raise if two cells, each with its place, hold the same."""
    doubled = find_doubled(text for _, text in cells)
    if doubled:
        raise DataError(
            f"{what} {doubled} occurs twice: {'; '.join(place for place, text in cells if text == doubled)}",
            where=table,
            expected=f"every {what} once",
            remedy="correct the table",
        )


def _find_doubled_files(rows: Sequence[TableRow], table: Path, options: ReadOptions) -> None:
    """Refuse, or note, a file that two cells name as image or label."""
    cells = [(row, name, text) for row in rows for name, text in row.files.items()]
    places = [(f"row {row.number}, column {name}", os.path.abspath(_locate(text, table))) for row, name, text in cells]
    try:
        _refuse_doubled(places, "file", table)
    except DataError as error:
        options.refuse_or_note(error, table)


def _doubt_columns(rows: Sequence[TableRow], table: Path, options: ReadOptions) -> None:
    """Say which columns may be misspelt: modalities of their own that look like one that the table lacks."""
    there = {name for row in rows for name in (*row.files, *row.told)}
    absent = [name for name in (*MODALITIES, "label") if name not in there]
    for name in sorted(there - {*MODALITIES, *COLUMNS}):
        for meant in get_close_matches(name, absent, n=1, cutoff=0.7):
            found = f"the column '{name}' counts as a modality of its own; it looks like {meant}, which the table lacks"
            remedy = "rename the column if it is misspelt; give --modalities if it is meant so"
            _doubt(found, LeftOut("column-unknown", "columns in doubt", found, file=table), remedy, options)


def _doubt_labels(cases: Sequence[Case], options: ReadOptions) -> None:
    """Say where a label carries the name by which another case's images differ from its own case's."""
    words = [
        set.intersection(*(_words(volume) for volume in case.images.values())) if case.images else set()
        for case in cases
    ]
    counted = Counter(word for own in words for word in own)
    owner = {word: case.id for case, own in zip(cases, words, strict=True) for word in own if counted[word] == 1}
    for case in cases:
        owners = {owner[word] for word in _words(case.label) if word in owner} if case.label else set()
        if owners and case.id not in owners and case.label:
            file = case.label.files[0]
            found = f"case {case.id}: its label {file.name} carries the name of case {min(owners)}"
            remedy = "see whose outline it is, and correct the table"
            _doubt(found, LeftOut("other-case", "files of another case", found, case.id, file), remedy, options)


def _words(volume: Volume) -> set[str]:
    """What folders and name of a file are made of."""
    return {word for part in volume.files[0].parts for word in re.split(r"[^A-Za-z0-9]+", part) if word}


def _doubt(found: str, note: LeftOut, remedy: str, options: ReadOptions) -> None:
    """Warn; or note it for the check."""
    if options.strict:
        warn_user(found, where=note.file, remedy=remedy)
    else:
        options.left_out.append(note)


def _make_case(row: TableRow, table: Path, options: ReadOptions) -> Case:
    if not row.images:
        raise _KIND.refuse(f"row {row.number} names no image", table, "fill in a modality, or remove the row")
    scheme = options.scheme or _scheme(row, table)
    volumes = {name: _volume(name, text, row, table, options) for name, text in row.images.items()}
    label = _volume("label", row.told["label"], row, table, options) if "label" in row.told else None
    if isinstance(label, ImageStack):
        label = replace(label, binary=scheme.space is WHOLE_LESION and scheme.ignore is None)
    cohort = row.told.get("cohort", "unknown")
    return Case(
        id=row.case,
        patient=row.patient,
        cohort=cohort,
        images={name: volume for name, volume in volumes.items() if volume is not None},
        label=label,
        scheme=scheme,
        grade=row.told.get("grade") or grade_of(cohort.upper()),
        site=row.told.get("site"),
        format=READER.name,
        extra={name: row.told[name] for name in ("session", "split") if name in row.told},
        outlined=_outlined(row, table),
    )


def _scheme(row: TableRow, table: Path) -> LabelScheme:
    try:
        return label_scheme(row.told.get("label_scheme", WHOLE_LESION.name))
    except MetasegError as error:
        raise _bad_cell(error, "label_scheme", row, table) from error


def _outlined(row: TableRow, table: Path) -> tuple[int, ...] | None:
    """The slices that a row calls outlined; None for all, which an empty cell stands for too."""
    try:
        return parse_slices(row.told.get("outlined_slices", ALL))
    except ValueError as error:
        told = DataError(str(error), expected=f"numbers from 0, such as {SLICES_EXAMPLE}, or {ALL}")
        raise _bad_cell(told, "outlined_slices", row, table) from error


def _volume(column: str, text: str, row: TableRow, table: Path, options: ReadOptions) -> Volume | None:
    """The volume that a cell names; None after noting that the file is not there."""
    channel = re.fullmatch(r"(?P<file>.+)#(?P<number>\d{1,4})", text)
    file = _locate(channel["file"] if channel else text, table)
    try:
        volume = volume_from_file(file, int(channel["number"]) if channel else None)
    except MetasegError as error:
        remedy = f"{error.remedy}; begin the name of a column that is no modality with #"
        raise _bad_cell(error, column, row, table, remedy) from error
    if file.is_file():
        return volume
    options.left_out.append(absent_file(file, row.case, f"row {row.number}, column {column}"))
    return None


def _locate(text: str, table: Path) -> Path:
    file = table.parent / text
    # Tables written on Windows; elsewhere a name may hold a backslash.
    return file if "\\" not in text or file.exists() else table.parent / text.replace("\\", "/")


def _bad_cell(
    error: MetasegError, column: str, row: TableRow, table: Path, remedy: str = "correct the cell"
) -> DataError:
    found = f"row {row.number}, column {column}: {error.found}"
    return DataError(found, where=table, expected=error.expected, remedy=remedy)


READER = Reader(
    "table",
    f"a table {TABLE} with columns such as case, patient, flair, t1ce, label",
    matches,
    read,
    complete="list",
)
