"""BraTS 2023 and later: ``BraTS-MET-00110-000/BraTS-MET-00110-000-{t2f,t1n,t1c,t2w,seg}.nii.gz``.

The radiotherapy set of the meningioma challenge has one modality and another label, ``<case>_t1c`` and ``<case>_gtv``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from metaseg.cases.case import Case
from metaseg.cases.labels import LABEL_SCHEMES
from metaseg.cases.readers.case_folders import (
    Convention,
    Identity,
    cohort_folder,
    first_image,
    grade_of,
    read_case_folders,
)
from metaseg.cases.readers.common import Reader, ReadOptions

CONVENTION = Convention(
    "brats2023",
    images={"-t2f": "flair", "-t1n": "t1", "-t1c": "t1ce", "_t1c": "t1ce", "-t2w": "t2"},
    labels={"-seg": "brats2023", "_gtv": "whole-lesion"},
)
_COHORT = re.compile(r"brats-(?P<cohort>[a-z]+(-rt)?)-", re.IGNORECASE)


def matches(path: Path) -> bool:
    """Whether files of this convention lie below ``path``."""
    return first_image(path, CONVENTION) is not None


def read(path: Path, options: ReadOptions) -> list[Case]:
    """Make the cases below ``path``; their names tell the cohort."""
    return [_of_edition(case) for case in read_case_folders(path, CONVENTION, _identify, options)]


def _of_edition(case: Case) -> Case:
    """Say of paediatric cases, of which 4 is no resection cavity, what their labels mean in other editions."""
    if case.scheme is not LABEL_SCHEMES["brats2023"] or case.cohort != "PED":
        return case
    return replace(case, scheme=replace(case.scheme, instead=("brats-ped",)))


def _identify(case_id: str, folder: Path) -> Identity:
    named = _COHORT.match(case_id)
    cohort = named["cohort"].upper() if named else (cohort_folder(folder) or "unknown")
    return Identity(cohort, grade_of(cohort))


READER = Reader("brats2023", "BraTS 2023 names: <case>-t2f/-t1n/-t1c/-t2w/-seg.nii.gz", matches, read)
