"""BraTS 2023 and later: ``BraTS-MET-00110-000/BraTS-MET-00110-000-{t2f,t1n,t1c,t2w,seg}.nii.gz``.

The radiotherapy set of the meningioma challenge has one modality and another label, ``<case>_t1c`` and ``<case>_gtv``.
"""

from __future__ import annotations

import re
from pathlib import Path

from metaseg.cases.case import Case
from metaseg.cases.readers.case_folders import (
    Convention,
    Identity,
    cohort_folder,
    grade_of,
    has_images,
    read_case_folders,
)
from metaseg.cases.readers.common import Reader, ReadOptions

CONVENTION = Convention(
    "brats2023",
    images={"-t2f": "flair", "-t1n": "t1", "-t1c": "t1ce", "_t1c": "t1ce", "-t2w": "t2"},
    labels={"-seg": "brats2023", "_gtv": "whole-lesion"},
)
_COHORT = re.compile(r"brats-(?P<cohort>[a-z]+(-rt)?)-", re.IGNORECASE)
# Patient number, then time point; what has only one number has no time points.
_TIME_POINT = re.compile(r"(?P<patient>brats-.*-\d+)-\d{1,3}", re.IGNORECASE)


def matches(path: Path) -> bool:
    """Whether files of this convention lie below ``path``."""
    return has_images(path, CONVENTION)


def read(path: Path, options: ReadOptions) -> list[Case]:
    """Make the cases below ``path``; time points of one patient share the patient, such as ``"BraTS-MET-00110"``."""
    return read_case_folders(path, CONVENTION, _identify, options)


def _identify(case_id: str, folder: Path) -> Identity:
    named = _COHORT.match(case_id)
    cohort = named["cohort"].upper() if named else (cohort_folder(folder) or "unknown")
    return Identity(patient_of(case_id), cohort, grade_of(cohort))


def patient_of(case_id: str) -> str:
    """The patient in a BraTS id, without the time point; any other id names the patient itself."""
    timed = _TIME_POINT.fullmatch(case_id)
    return timed["patient"] if timed else case_id


READER = Reader("brats2023", "BraTS 2023 names: <case>-t2f/-t1n/-t1c/-t2w/-seg.nii.gz", matches, read)
