"""Cheng's original files (figshare 1512427): ``1.mat`` to ``3064.mat``, MATLAB v7.3, one T1-CE slice each.

Jun Cheng et al., "Enhanced Performance of Brain Tumor Classification via Tumor Region Augmentation and Partition",
PLoS ONE 2015. Every file names its patient, so that splits can keep a patient's slices together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from metaseg.cases.case import Case
from metaseg.cases.labels import label_scheme
from metaseg.cases.readers.common import Reader, ReadOptions, natural_key, unreadable_file
from metaseg.cases.readers.slices import SliceRecord, group_slices
from metaseg.cases.volumes import MatStack, cheng_numbers, open_cheng_mat
from metaseg.errors import DataError

TUMOUR_TYPES = {1: "meningioma", 2: "glioma", 3: "pituitary"}
_FILE_NAME = re.compile(r"\d+\.mat", re.IGNORECASE)


def matches(path: Path) -> bool:
    """Whether numbered ``.mat`` files lie in ``path`` or one folder below (the release comes in four archives)."""
    return next(_mat_files(path), None) is not None


def read(path: Path, options: ReadOptions) -> list[Case]:
    """Make one case per patient.

    Raises:
        DataError: A folder cannot be read.
    """
    records: list[SliceRecord] = []
    for file in sorted(_mat_files(path), key=lambda file: natural_key(file.name)):
        try:
            records.append(_record(file))
        except DataError as error:
            options.left_out.append(unreadable_file(file, error.found))
    scheme = options.scheme or label_scheme("whole-lesion")
    cases = []
    for case_id, members in group_slices(records).items():
        files = tuple(record.image for record in members)
        cases.append(
            Case(
                id=case_id,
                patient=members[0].patient,
                cohort=members[0].kind,
                images={options.modality or "t1ce": MatStack(files, "image")},
                label=MatStack(files, "tumorMask"),
                scheme=scheme,
                grade=members[0].kind,
                format="cheng-mat",
            )
        )
    return cases


def _mat_files(path: Path) -> Iterator[Path]:
    below = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    for folder in (path, *below):
        yield from (file for file in sorted(folder.iterdir()) if _FILE_NAME.fullmatch(file.name))


def _record(file: Path) -> SliceRecord:
    with open_cheng_mat(file) as record:
        number = float(np.ravel(cheng_numbers(record, "label")[()])[0])
        patient = "".join(chr(int(code)) for code in np.ravel(cheng_numbers(record, "PID")[()])).strip()
        patient.encode("utf-8")
        # HDF5 shows the transpose of the MATLAB array.
        width, height = cheng_numbers(record, "image", 2).shape
        if cheng_numbers(record, "tumorMask", 2).shape != (width, height):
            raise ValueError("its image and its outline have other shapes")
    if number not in TUMOUR_TYPES or not patient:
        raise DataError(
            f"the file says tumour type {number:g}, patient '{patient}'",
            where=file,
            expected="type " + ", ".join(f"{key} ({name})" for key, name in TUMOUR_TYPES.items()) + ", and a patient",
            remedy="download the file again",
        )
    return SliceRecord(patient, TUMOUR_TYPES[int(number)], (height, width), file, file, slice_id=file.stem)


READER = Reader("cheng-mat", "Cheng's MATLAB files: 1.mat to 3064.mat", matches, read, images=(".mat",))
