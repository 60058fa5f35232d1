"""A reader of folders with scan.nii.gz and outline.nii.gz; a folder's first letter is its cohort."""

from __future__ import annotations

from pathlib import Path

from metaseg.cases import Case, Reader, label_scheme
from metaseg.cases.readers import ReadOptions
from metaseg.cases.volumes import volume_from_file


def matches(path: Path) -> bool:
    """Whether a folder holds such cases."""
    return any(path.glob("*/scan.nii.gz"))


def read(path: Path, options: ReadOptions) -> list[Case]:
    """The cases of a folder."""
    return [
        Case(
            id=file.parent.name,
            patient=file.parent.name,
            cohort=file.parent.name[0],
            images={"t1ce": volume_from_file(file)},
            label=volume_from_file(file.with_name("outline.nii.gz")),
            scheme=options.scheme or label_scheme("whole-lesion"),
            format="tiny-scans",
        )
        for file in sorted(path.glob("*/scan.nii.gz"))
    ]


SCANS = Reader("tiny-scans", "folders with scan.nii.gz and outline.nii.gz", matches, read)
