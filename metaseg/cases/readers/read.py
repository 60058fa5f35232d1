"""Read a data set: choose the reader, then apply what all conventions share.

A marker file says that a data set was made by a program; its cases are synthetic.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TypedDict, get_args

from metaseg.cases.case import Case, FailedCase
from metaseg.cases.labels import LabelScheme
from metaseg.cases.labels import label_scheme as scheme_by_name
from metaseg.cases.outlined import read_outlined_table, tell_outlined
from metaseg.cases.patients import doubtable, patients_of, read_patient_table, warn_of_doubtful
from metaseg.cases.pictures import GroupCopies
from metaseg.cases.readers import image_folder, nnunet, slices, table
from metaseg.cases.readers.case_folders import BRATS, BRATS2023, BRATS2023_READER, BRATS_READER
from metaseg.cases.readers.common import (
    READERS,
    LeftOut,
    Reader,
    ReadOptions,
    lacking,
    register_reader,
    tell,
    unread_files,
    walk_files,
)
from metaseg.config.modalities import canonical_modality
from metaseg.errors import DataError, UsageError, unknown_name
from metaseg.files import FileKind, read_json

PHANTOM_MARKER = "metaseg-phantoms.json"
"""The file that says that the cases of a folder were made by a program."""
MARKER_KIND = FileKind("the phantom marker, a table of cases", "make the phantoms again", DataError)
_LEVELS_ABOVE = 3
_BIDS = re.compile(r"sub-[A-Za-z0-9]+(_.+)?_(T1w|T2w|FLAIR)\.nii(\.gz)?")
_DESCRIBING_FILES = (nnunet.DESCRIPTION, slices.INDEX)
_GIVEN_NAME = "cases-given-in-python-"

for _reader in (
    table.READER,
    BRATS2023_READER,
    BRATS_READER,
    nnunet.READER,
    slices.READER,
    slices.CHENG_READER,
    image_folder.READER,
):
    register_reader(_reader)


@dataclass(frozen=True)
class _Entry:
    """What the table says of a phantom."""

    cohort: str | None = None
    grade: str | None = None


@dataclass(frozen=True)
class _Marker:
    """What the marker file holds, as far as it is read."""

    cases: dict[str, _Entry] = field(default_factory=dict)


def mark_phantoms(cases: Sequence[Case], root: Path) -> list[Case]:
    """Set ``synthetic`` on cases below a marker file, and take cohort and grade from its table where it has one.

    Above ``root``, a marker holds only for cases that it lists by id, so that a phantom keeps its mark when just its
    own folder is read, while real data that happen to lie beside phantoms do not get one.

    Raises:
        DataError: A marker file is no JSON object.
    """
    root = root.absolute()
    markers: dict[Path, Mapping[str, _Entry] | None] = {}
    marked = []
    for case in cases:
        folder = case.files[0].absolute().parent if case.files else root
        for level, place in enumerate((folder, *folder.parents)):
            if place not in markers:
                markers[place] = _read_marker(place / PHANTOM_MARKER)
            marker = markers[place]
            inside = place.is_relative_to(root)
            if marker is not None and (inside or case.id in marker):
                entry = marker.get(case.id, _Entry())
                cohort, grade = entry.cohort or case.cohort, entry.grade or case.grade
                case = replace(case, synthetic=True, cohort=cohort, grade=grade)
                break
            if not inside and level >= _LEVELS_ABOVE:
                break
        marked.append(case)
    return marked


def _read_marker(path: Path) -> Mapping[str, _Entry] | None:
    if not path.is_file():
        return None
    marker: _Marker = read_json(path, MARKER_KIND, _Marker)
    return marker.cases


class Reading(TypedDict, total=False):
    """How the cases of a folder are read; :func:`read_cases` explains each."""

    format: str
    label_scheme: str | LabelScheme | None
    classes: Sequence[str]
    patients: str | PathLike[str] | None
    outlined_slices: str | PathLike[str] | None
    group_copies: GroupCopies


_given: dict[str, tuple[Case, ...]] = {}


def give_cases(cases: Sequence[Case]) -> Path:
    """Let all verbs take cases that Python code made.

    Args:
        cases: The cases; their volumes name the files that they are read from.

    Returns:
        What stands for them in this process wherever a folder of cases is taken. The same cases have the same name, so
        that a run on them can be resumed once they are given again.
    """
    told = json.dumps([[case.id, case.patient, *map(str, case.files)] for case in cases])
    name = _GIVEN_NAME + hashlib.blake2b(told.encode(), digest_size=6).hexdigest()
    _given[name] = tuple(cases)
    return Path(name)


def _given_cases(path: Path, options: ReadOptions) -> list[Case] | None:
    """The cases that a path of :func:`give_cases` stands for; None for any other path."""
    if not path.name.startswith(_GIVEN_NAME):
        return None
    if path.name not in _given:
        raise DataError(
            "the cases were given in Python, and are not there any more",
            where=path.name,
            remedy="give the same cases again, in the process that reads them",
        )
    return [
        replace(case, scheme=options.scheme or case.scheme, format=case.format or "python")
        for case in _given[path.name]
    ]


def read_cases(
    path: str | PathLike[str],
    format: str = "auto",
    cohort: str | None = None,
    label_scheme: str | LabelScheme | None = None,
    modalities: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    *,
    patients: str | PathLike[str] | None = None,
    outlined_slices: str | PathLike[str] | None = None,
    modality: str | None = None,
    need_labels: bool = False,
    allow_missing: bool = True,
    group_copies: GroupCopies = "near",
) -> list[Case]:
    """Find the cases of a data set, or the one case of a case folder.

    No voxel is read, but that image folders are searched for copies.

    Args:
        path: Folder of the data set, or a table of cases.
        format: A name in :data:`READERS`, or ``"auto"`` to recognise it by the files' names.
        cohort: Replaces the cohort that the files tell.
        label_scheme: Replaces the convention's label scheme; a name or the scheme itself.
        modalities: Modalities that every case must have.
        classes: Keep only cases whose cohort or grade is one of these.
        patients: Table of whose scan each case is; see :mod:`metaseg.cases.patients`. Without it, names tell.
        outlined_slices: Table of the slices that are outlined, where only some are; see :mod:`metaseg.cases.outlined`.
        modality: Name of the modality where the files do not say (slices and image folders).
        need_labels: Cases without a label are named, as what is left out is.
        allow_missing: Warn of files and cases that are left out, instead of refusing the data.
        group_copies: Which pictures of image folders, which name no patients, count as one patient: ``"near"`` copies
            (see :mod:`metaseg.cases.pictures`), files of ``"identical"`` bytes, or ``"none"``, which lets copies
            leak from one part of a split into another and serves to show what that does.

    Returns:
        The cases in a stable order; ids are unique.

    Raises:
        UsageError: ``format``, ``label_scheme`` or ``group_copies`` is unknown.
        DataError: Nothing was found, a modality is missing, a file or case occurs twice, files of two cases are given
            as one's, a description is unreadable, or something is left out without ``allow_missing``.
    """
    cases, left_out = find_cases(
        path,
        format,
        label_scheme,
        classes,
        patients=patients,
        outlined_slices=outlined_slices,
        modality=modality,
        group_copies=group_copies,
    )
    told = [(case.id, case.modalities, case.label is not None) for case in cases if case.format != "image-folder"]
    left_out += [gap for gap in lacking(told, labels=need_labels) if gap.kind == "label-missing"]
    tell(left_out, Path(path), refuse=not allow_missing)
    if patients is None:
        warn_of_doubtful(doubtable(cases))
    for case in cases:
        case.require(modalities or ())
    return [replace(case, cohort=cohort) for case in cases] if cohort else cases


def read_each_case(path: str | PathLike[str], format: str = "auto") -> tuple[list[Case], list[FailedCase]]:
    """The cases of a data set, and those of which it is not known what belongs to them.

    Raises:
        DataError: As :func:`read_cases`, but not for what is wrong with one case only.
    """
    cases, left_out = find_cases(path, format, strict=False)
    wrong = [gap for gap in left_out if gap.kind in ("images-missing", "other-case")]
    tell([gap for gap in left_out if gap not in wrong], Path(path), refuse=False)
    found = {gap.case: DataError(f"case {gap.case}: {gap.found}", where=gap.file or Path(path)) for gap in wrong}
    for case in cases:
        if case.doubled:
            twins = ", ".join(map(str, case.doubled))
            what = f"case {case.id}: files stand for an image or label that is there already: {twins}"
            found[case.id] = DataError(what, where=case.files[0].parent, remedy="keep one of them")
    return [case for case in cases if case.id not in found], [FailedCase(*failure) for failure in found.items()]


def find_cases(
    path: str | PathLike[str],
    format: str = "auto",
    label_scheme: str | LabelScheme | None = None,
    classes: Sequence[str] | None = None,
    *,
    patients: str | PathLike[str] | None = None,
    outlined_slices: str | PathLike[str] | None = None,
    modality: str | None = None,
    strict: bool = True,
    group_copies: GroupCopies = "near",
) -> tuple[list[Case], list[LeftOut]]:
    """As :func:`read_cases`, and what was left out instead of a warning.

    Where not ``strict``, the first of doubled files is kept and the others noted in ``Case.doubled``,
    and files of another case are noted as left out, instead of raising.
    """
    if group_copies not in get_args(GroupCopies):
        raise UsageError(f"'group_copies' is '{group_copies}'", expected="one of " + ", ".join(get_args(GroupCopies)))
    name = canonical_modality(modality) if modality else None
    options = ReadOptions(_scheme(label_scheme), name, strict, group_copies)
    given = _given_cases(Path(path), options)
    root = _existing(Path(path)) if given is None else Path(path)
    folder = root.parent if root.is_file() else root
    if given is None:
        reader = _choose_reader(root, format)
        cases = reader.read(root, options)
        left_out = [*options.left_out, *unread_files(folder, reader, _files(cases, options))]
    else:
        cases, left_out = given, []
    left_out += [
        LeftOut("images-missing", "cases without an image", "the case has no image", case.id)
        for case in cases
        if not case.images
    ]
    cases = [case for case in cases if case.images]
    if not cases:
        tell(left_out, root, refuse=True)
        raise _nothing_found(root, format)
    cases = mark_phantoms(_unique(cases, strict), folder)
    told = read_patient_table(patients) if patients is not None else None
    owners = patients_of({case.id: case.patient for case in cases}, told, patients)
    cases = [replace(case, patient=owners[case.id]) for case in cases]
    cases = _only_classes(cases, classes, root) if classes else cases
    if outlined_slices is not None:
        cases = tell_outlined(cases, read_outlined_table(outlined_slices), outlined_slices)
    return cases, left_out


def _files(cases: Sequence[Case], options: ReadOptions) -> set[Path]:
    """Files of the cases, and those of which something was noted."""
    noted = (gap.file for gap in options.left_out if gap.file is not None)
    return {*(file for case in cases for file in (*case.files, *case.doubled)), *noted, *options.accounted}


def _scheme(scheme: str | LabelScheme | None) -> LabelScheme | None:
    return scheme_by_name(scheme) if isinstance(scheme, str) else scheme


def _existing(path: Path) -> Path:
    """The folder, or the table of cases that a path names."""
    if path.is_file() and path.name in _DESCRIBING_FILES:
        return path.parent
    if path.is_file() and path.suffix.lower() in table.TABLE_SUFFIXES:
        return path
    if not path.exists():
        raise DataError(
            "the data set does not exist",
            where=path,
            expected="a folder with cases",
            remedy="check the path, or download the data set first",
        )
    if not path.is_dir():
        raise DataError(
            "this is a file, not a data set",
            where=path,
            expected="a folder with cases, or a table of cases (.csv, .tsv)",
            remedy="give the folder that the file lies in",
        )
    return path


def _choose_reader(root: Path, format: str) -> Reader:
    if format != "auto":
        if format not in READERS:
            raise unknown_name("format", format, ("auto", *READERS))
        if root.is_file() and format != table.READER.name:
            raise UsageError(f"--format {format} reads folders", where=root, remedy="omit --format for a table")
        if format == BRATS.name:
            _refuse_bids(root)
        return READERS.get(format)
    if root.is_file() or table.matches(root):
        return table.READER
    _refuse_bids(root)
    matching: list[Reader] = []
    for last in (False, True):
        candidates = (reader for reader in READERS.entries().values() if reader.last_resort is last)
        matching = matching or [reader for reader in candidates if reader.matches(root)]
    if not matching:
        raise _nothing_found(root, format)
    if len(matching) > 1:
        names = ", ".join(reader.name for reader in matching)
        files = [convention.first_image(root) for convention in (BRATS2023, BRATS)]
        such = " and ".join(file.relative_to(root).as_posix() for file in files if file is not None)
        raise DataError(
            f"the folder holds data of several conventions: {names}" + (f"; files such as {such}" if such else ""),
            where=root,
            expected="one convention",
            remedy="name one with --format, or give one of the folders inside",
        )
    return matching[0]


def _nothing_found(root: Path, format: str) -> DataError:
    readers = READERS.entries().values() if format == "auto" else [READERS.get(format)]
    return DataError(
        "no case was found",
        where=root,
        expected="; ".join(f"{reader.looks_for} ({reader.name})" for reader in readers),
        remedy="check the path, or list the files in a table: 'metaseg data index FOLDER' writes a first one",
    )


def _refuse_bids(root: Path) -> None:
    """Raise for a BIDS tree, of which the naming of BraTS would take the FLAIR image alone."""
    for path in walk_files(root):
        if _BIDS.fullmatch(path.name) and (path.parent.name == "anat" or not path.name.split(".")[0].endswith("FLAIR")):
            raise DataError(
                "the folder is a BIDS tree, which is read by a table of its cases",
                where=path,
                expected=f"a table {table.TABLE} beside the folders of the subjects",
                remedy=f"write one with 'metaseg data index {root}', review it, and try again",
            )


def _unique(cases: Sequence[Case], strict: bool) -> list[Case]:
    by_id: dict[str, Case] = {}
    for case in cases:
        other = by_id.setdefault(case.id, case)
        if other is case:
            continue
        if strict:
            raise DataError(
                f"two cases are named {case.id}",
                where=f"{other.files[0]} and {case.files[0]}",
                expected="one case of each name in a data set",
                remedy="rename or remove one of them",
            )
        by_id[case.id] = replace(other, doubled=(*other.doubled, case.files[0]))
    return list(by_id.values())


def _only_classes(cases: Sequence[Case], classes: Sequence[str], root: Path) -> list[Case]:
    wanted = {name.casefold() for name in classes}
    there = {name for case in cases for name in (case.cohort, case.grade) if name}
    unknown = wanted - {name.casefold() for name in there}
    if unknown:
        raise unknown_name("class of --classes", min(unknown), sorted(there), root)
    return [case for case in cases if {case.cohort.casefold(), (case.grade or "").casefold()} & wanted]
