"""Classified 2-D images: a folder per class, an image file per case, no outlines and no patients.

Such sets do not say whose image it is. Copies count as one patient, named after the first of them, so that no split
puts copies of one image into two parts: files of equal bytes, and near-copies as :mod:`metaseg.cases.pictures` has
them.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from metaseg.cases.case import Case
from metaseg.cases.labels import label_scheme
from metaseg.cases.patients import patient_of
from metaseg.cases.pictures import GroupCopies, near_copy_groups
from metaseg.cases.readers.common import PICTURE_FILES, Reader, ReadOptions, natural_key, walk_files
from metaseg.cases.volumes import IMAGE_SUFFIXES, ImageStack

DEFAULT_MODALITY = "image"
# Such as Training/glioma_tumor/image.jpg.
_MAX_DEPTH = 2


def matches(path: Path) -> bool:
    """Whether there are image files in folders below ``path``."""
    return bool(_image_files(path))


def read(path: Path, options: ReadOptions) -> list[Case]:
    """Make one case per image file; its class is the name of its folder."""
    files = sorted(_image_files(path), key=lambda file: natural_key(file.relative_to(path).as_posix()))
    stems = Counter((file.parent, file.stem) for file in files)
    ids = {}
    for file in files:
        # Two files may differ in suffix only.
        name = file.stem if stems[file.parent, file.stem] == 1 else f"{file.stem}-{file.suffix[1:]}"
        ids[file] = "-".join((*file.relative_to(path).parts[:-1], name))
    patients = _patients(ids, _first_copies(files, options.group_copies))
    return [
        Case(
            id=ids[file],
            patient=patients[file],
            cohort=file.parent.name,
            images={options.modality or DEFAULT_MODALITY: ImageStack((file,))},
            label=None,
            scheme=options.scheme or label_scheme("whole-lesion"),
            grade=file.parent.name,
            format="image-folder",
        )
        for file in files
    ]


def _image_files(path: Path) -> list[Path]:
    return [
        file
        for file in walk_files(path, max_depth=_MAX_DEPTH)
        if file.suffix.lower() in IMAGE_SUFFIXES and file.parent != path and file.is_file()
    ]


def _patients(ids: Mapping[Path, str], first_copies: Mapping[Path, Path]) -> dict[Path, str]:
    """The patient of every file: copies, sessions in names, and copies of sessions are of one."""
    same: dict[str, str] = {}

    def first(name: str) -> str:
        while name in same:
            name = same[name]
        return name

    for file, copied in first_copies.items():
        first_patient, other = first(patient_of(ids[copied])), first(patient_of(ids[file]))
        if first_patient != other:
            same[other] = first_patient
    return {file: first(patient_of(name)) for file, name in ids.items()}


def _first_copies(files: Sequence[Path], group_copies: GroupCopies) -> dict[Path, Path]:
    """Every file to the first of its copies."""
    if group_copies == "none":
        return {file: file for file in files}
    identical = _first_identical(files)
    if group_copies == "identical":
        return identical
    near = near_copy_groups(list(dict.fromkeys(identical.values())))
    return {file: near[first] for file, first in identical.items()}


def _first_identical(files: Sequence[Path]) -> dict[Path, Path]:
    """Every file to the first byte-identical one. Only files of equal size are read."""
    by_size: defaultdict[int, list[Path]] = defaultdict(list)
    for file in files:
        by_size[file.stat().st_size].append(file)
    firsts: dict[bytes, Path] = {}
    result = {file: file for file in files}
    for file in (file for alike in by_size.values() if len(alike) > 1 for file in alike):
        result[file] = firsts.setdefault(hashlib.sha256(file.read_bytes()).digest(), file)
    return result


READER = Reader(
    "image-folder",
    "classified images: <class>/<image>.jpg or .png",
    matches,
    read,
    images=PICTURE_FILES,
    # Almost any folder with pictures somewhere below looks like classified images.
    last_resort=True,
)
