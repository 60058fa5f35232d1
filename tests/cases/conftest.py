from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

WriteNifti = Callable[..., Path]


@pytest.fixture
def write_nifti() -> WriteNifti:
    """Writes a small NIfTI file and its folders; values are all 1 unless given."""

    def write(path: Path, array: np.ndarray | None = None, affine: np.ndarray | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.ones((4, 5, 3), np.int16) if array is None else array
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        return path

    return write


@pytest.fixture
def write_case(write_nifti: WriteNifti) -> Callable[..., Path]:
    """Writes a case folder with one file per suffix, such as ``_t1ce``; every file holds the suffix's position + 1."""

    def write(
        folder: Path, suffixes: Iterable[str] = ("_flair", "_t1", "_t1ce", "_t2", "_seg"), ending: str = ".nii.gz"
    ) -> Path:
        for position, suffix in enumerate(suffixes, start=1):
            array = np.full((4, 5, 3), position % 3, np.int16)
            write_nifti(folder / f"{folder.name}{suffix}{ending}", array)
        return folder

    return write
