"""BraTS 2018 to 2021: ``<case>/<case>_{flair,t1,t1ce,t2,seg}.nii.gz``, in folders HGG and LGG up to 2019."""

from __future__ import annotations

from pathlib import Path

from metaseg.cases.case import Case
from metaseg.cases.readers.case_folders import (
    Convention,
    Identity,
    cohort_folder,
    first_image,
    grade_of,
    read_case_folders,
)
from metaseg.cases.readers.common import Reader, ReadOptions
from metaseg.cases.sessions import SITED
from metaseg.checked_files import FileKind, read_rows
from metaseg.errors import DataError

CONVENTION = Convention(
    "brats",
    images={"_flair": "flair", "_t1": "t1", "_t1ce": "t1ce", "_t2": "t2"},
    labels={"_seg": "brats", "_segm": "brats"},
)


def matches(path: Path) -> bool:
    """Whether files of this convention lie below ``path``."""
    return first_image(path, CONVENTION) is not None


def read(path: Path, options: ReadOptions) -> list[Case]:
    """Make the cases below ``path``; cohort and grade are the folder's, or those of BraTS's ``name_mapping.csv``."""
    grades = _grades_from_mapping(path)

    def identify(case_id: str, folder: Path) -> Identity:
        cohort = cohort_folder(folder) or grades.get(case_id)
        if cohort is None:
            cohort = "GLI" if case_id.lower().startswith("brats") else "unknown"
        sited = SITED.fullmatch(case_id)
        return Identity(cohort, grade_of(cohort), sited["site"] if sited else None)

    return read_case_folders(path, CONVENTION, identify, options)


def _grades_from_mapping(root: Path) -> dict[str, str]:
    """Case id to grade, from the table that BraTS 2019 and 2020 come with, if it is there."""
    grades: dict[str, str] = {}
    for table in (root / "name_mapping.csv", root.parent / "name_mapping.csv"):
        if not table.is_file():
            continue
        for row in read_rows(table, FileKind("the table of BraTS' grades", "get it again or remove it", DataError)):
            grade = (row.get("Grade") or "").strip().upper()
            if grade_of(grade):
                grades.update(
                    {value: grade for value in row.values() if isinstance(value, str) and value != row["Grade"]}
                )
        break
    return grades


READER = Reader("brats", "BraTS 2018-2021 names: <case>_flair/_t1/_t1ce/_t2/_seg.nii.gz", matches, read)
