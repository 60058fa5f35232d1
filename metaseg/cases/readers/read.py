"""Read a data set: choose the reader, then apply what all conventions share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import get_args

from metaseg.cases.case import Case, Volume
from metaseg.cases.labels import LabelScheme
from metaseg.cases.labels import label_scheme as scheme_by_name
from metaseg.cases.near_copies import GroupCopies
from metaseg.cases.readers import brats, brats2023, cheng_mat, image_folder, nnunet, slices, table
from metaseg.cases.readers.common import Reader, ReadOptions, canonical_modality, doubled_files, walk_files
from metaseg.cases.readers.phantom_marker import mark_phantoms
from metaseg.cases.sessions import patient_of
from metaseg.cases.volumes import VOLUME_SUFFIXES, volume_from_file
from metaseg.errors import DataError, UsageError

READERS: Mapping[str, Reader] = {
    module.READER.name: module.READER for module in (table, brats2023, brats, nnunet, slices, cheng_mat, image_folder)
}
"""All conventions, by the names that ``--format`` takes."""

_BIDS = re.compile(r"sub-[A-Za-z0-9]+(_.+)?_(T1w|T2w|FLAIR)\.nii(\.gz)?")
_DESCRIBING_FILES = (nnunet.DESCRIPTION, slices.INDEX)


def read_cases(
    path: str | PathLike[str],
    format: str = "auto",
    cohort: str | None = None,
    label_scheme: str | LabelScheme | None = None,
    modalities: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    *,
    modality: str | None = None,
    strict: bool = True,
    group_copies: GroupCopies = "near",
) -> list[Case]:
    """Find the cases of a data set, or the one case of a case folder.

    No voxel is read, but that image folders are searched for copies.

    Args:
        path: Folder of the data set, or a table of cases.
        format: A name in :data:`READERS`, or ``"auto"`` to tell it from the files' names.
        cohort: Replaces the cohort that the files tell.
        label_scheme: Replaces the convention's label scheme; a name or the scheme itself.
        modalities: Modalities that every case must have.
        classes: Keep only cases whose cohort or grade is one of these.
        modality: Name of the modality where the files do not tell it (slices and image folders).
        strict: Raise on doubled files, unreadable slices and cases without an image. Otherwise keep the first of
            doubled files, leave the others out and note them in ``Case.extra`` under ``"doubled"`` and
            ``"unreadable"``.
        group_copies: Which pictures of image folders, which tell no patients, count as one patient: ``"near"`` copies
            (see :mod:`metaseg.cases.near_copies`), files of ``"identical"`` bytes, or ``"none"``, which lets copies
            leak from one part of a split into another and serves to show what that does.

    Returns:
        The cases in a stable order; ids are unique.

    Raises:
        UsageError: ``format``, ``label_scheme`` or ``group_copies`` is unknown.
        DataError: Nothing was found, a modality is missing, a file or case is there twice, or a description is
            unreadable.
    """
    root = _existing(Path(path))
    if group_copies not in get_args(GroupCopies):
        raise UsageError(f"'group_copies' is '{group_copies}'", expected="one of " + ", ".join(get_args(GroupCopies)))
    told = canonical_modality(modality) if modality else None
    options = ReadOptions(_scheme(label_scheme), told, strict, group_copies)
    folder = root.parent if root.is_file() else root
    cases = _choose_reader(root, format).read(root, options)
    if not cases:
        raise _nothing_found(root, format)
    cases = [replace(case, patient=patient_of(case.patient)) for case in mark_phantoms(_unique(cases, strict), folder)]
    if classes is not None:
        cases = _only_classes(cases, classes, root)
    for case in cases:
        case.require(modalities or ())
    return [replace(case, cohort=cohort) for case in cases] if cohort else cases


def read_case_files(
    images: Mapping[str, str | PathLike[str]] | Sequence[str | PathLike[str]],
    id: str | None = None,
    *,
    label: str | PathLike[str] | None = None,
    label_scheme: str | LabelScheme = "brats2023",
    cohort: str = "unknown",
) -> Case:
    """Make a case of files named one by one, as for prediction.

    Args:
        images: Modality to file; or files whose names end in a modality, such as ``patient_t1ce.nii.gz``.
        id: Name of the case; by default what the files' names share.
        label: The outline, or None.
        label_scheme: What the label's numbers mean, and how predictions are written.
        cohort: Where the case comes from.

    Raises:
        DataError: A file is missing, a name does not tell its modality, or two files are the same modality.
        UsageError: No file was given, or ``label_scheme`` is unknown.
    """
    pairs = (
        list(images.items()) if isinstance(images, Mapping) else [(_modality_of(Path(file)), file) for file in images]
    )
    if not pairs:
        raise UsageError("no image file was given", expected="at least one NIfTI file")
    volumes: dict[str, Volume] = {}
    for name, file in pairs:
        modality, path = canonical_modality(name), Path(file)
        if not path.is_file():
            raise DataError(f"the {modality} file does not exist", where=path, remedy="check the path")
        if modality in volumes:
            raise doubled_files(id or "given by files", modality, (*volumes[modality].files, path))
        volumes[modality] = volume_from_file(path)
    case_id = id or _shared_name([Path(file) for _, file in pairs])
    return Case(
        id=case_id,
        patient=patient_of(case_id),
        cohort=cohort,
        images=volumes,
        label=volume_from_file(Path(label)) if label is not None else None,
        scheme=scheme_by_name(label_scheme) if isinstance(label_scheme, str) else label_scheme,
        format="files",
    )


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
            raise UsageError(f"unknown format '{format}'", expected="auto, " + ", ".join(READERS))
        if root.is_file() and format != table.READER.name:
            raise UsageError(f"--format {format} reads folders", where=root, remedy="leave --format away for a table")
        if format == brats.READER.name:
            _refuse_bids(root)
        return READERS[format]
    if root.is_file() or table.matches(root):
        return table.READER
    _refuse_bids(root)
    matching = [reader for reader in READERS.values() if reader is not image_folder.READER and reader.matches(root)]
    # Almost any folder with pictures somewhere below looks like classified images: the last resort.
    if not matching and image_folder.READER.matches(root):
        matching = [image_folder.READER]
    if not matching:
        raise _nothing_found(root, format)
    if len(matching) > 1:
        names = ", ".join(reader.name for reader in matching)
        raise DataError(
            f"the folder holds data of several conventions: {names}",
            where=root,
            expected="one convention",
            remedy="name one with --format, or give one of the folders inside",
        )
    return matching[0]


def _nothing_found(root: Path, format: str) -> DataError:
    readers = READERS.values() if format == "auto" else [READERS[format]]
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
                remedy=f"write one with 'metaseg data index {root}', look it over, and try again",
            )


def _unique(cases: Sequence[Case], strict: bool) -> list[Case]:
    by_id: dict[str, Case] = {}
    for case in cases:
        other = by_id.setdefault(case.id, case)
        if other is case:
            continue
        places = [str(twin.files[0]) if twin.files else "(no file)" for twin in (other, case)]
        if strict:
            raise DataError(
                f"two cases are named {case.id}",
                where=" and ".join(places),
                expected="one case of each name in a data set",
                remedy="rename or remove one of them",
            )
        doubled = ", ".join(filter(None, (other.extra.get("doubled"), places[1])))
        by_id[case.id] = replace(other, extra={**other.extra, "doubled": doubled})
    return list(by_id.values())


def _only_classes(cases: Sequence[Case], classes: Sequence[str], root: Path) -> list[Case]:
    wanted = {name.casefold() for name in classes}
    there = {name for case in cases for name in (case.cohort, case.grade) if name}
    unknown = wanted - {name.casefold() for name in there}
    if unknown:
        raise DataError(
            f"no case is of class {', '.join(sorted(unknown))}",
            where=root,
            expected="one of " + ", ".join(sorted(there)),
            remedy="check the spelling",
        )
    return [case for case in cases if {case.cohort.casefold(), (case.grade or "").casefold()} & wanted]


def _modality_of(path: Path) -> str:
    for convention in (brats2023.CONVENTION, brats.CONVENTION):
        match = convention.pattern.fullmatch(path.name)
        if match and match["suffix"].lower() in convention.images:
            return convention.images[match["suffix"].lower()]
    raise DataError(
        "the file's name does not tell its modality",
        where=path,
        expected="a name that ends in _flair, _t1, _t1ce, _t2 or in -t2f, -t1n, -t1c, -t2w",
        remedy=f"name the modality, as in t1ce={path.name}",
    )


def _shared_name(files: Sequence[Path]) -> str:
    for convention in (brats2023.CONVENTION, brats.CONVENTION):
        matches = [convention.pattern.fullmatch(file.name) for file in files]
        names = {match["case"] for match in matches if match}
        if len(names) == 1 and all(matches):
            return names.pop()
    name = files[0].name
    suffixes = [suffix for suffix in sorted(VOLUME_SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)]
    return name[: -len(suffixes[0])] if suffixes else files[0].stem
