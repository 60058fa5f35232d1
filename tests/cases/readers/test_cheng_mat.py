from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from metaseg.cases import read_cases
from metaseg.errors import DataError, DataWarning


def write_mat(
    path: Path, label: float = 1, patient: str = "MR01", image: np.ndarray | None = None, mask: np.ndarray | None = None
) -> Path:
    """Write a slice the way MATLAB does: transposed, text as codes, numbers as 1 x 1 matrices."""
    image = np.arange(24, dtype=np.int16).reshape(4, 6) if image is None else image
    mask = (image > 20).astype(np.uint8) if mask is None else mask
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        group = file.create_group("cjdata")
        group["label"] = np.array([[label]])
        group["PID"] = np.array([[ord(letter)] for letter in patient], dtype=np.uint16)
        group["image"] = image.T
        group["tumorMask"] = mask.T
    return path


def test_one_case_per_patient(tmp_path: Path) -> None:
    image = np.arange(24, dtype=np.int16).reshape(4, 6)
    write_mat(tmp_path / "10.mat", 2, "MR01", image + 1)
    write_mat(tmp_path / "9.mat", 2, "MR01", image)
    write_mat(tmp_path / "11.mat", 3, "100360")
    (tmp_path / "cvind.mat").write_bytes(b"the folds")
    p, q = read_cases(tmp_path)
    assert (p.id, p.patient, p.cohort, p.grade, p.format) == ("MR01", "MR01", "glioma", "glioma", "cheng-mat")
    assert (q.id, q.cohort) == ("100360", "pituitary")
    assert [file.name for file in p.images["t1ce"].files] == ["9.mat", "10.mat"]
    # Rows from back to front.
    np.testing.assert_array_equal(p.images["t1ce"].read(), np.stack([image, image + 1])[:, ::-1])
    np.testing.assert_array_equal(q.read_label()[0], (image > 20)[::-1])


def test_folders_of_the_four_archives(tmp_path: Path) -> None:
    write_mat(tmp_path / "1-766/1.mat", patient="a")
    write_mat(tmp_path / "767-1532/767.mat", patient="a")
    (case,) = read_cases(tmp_path)
    assert case.cohort == "meningioma"
    assert len(case.files) == 2


def test_another_shape_makes_its_own_case(tmp_path: Path) -> None:
    write_mat(tmp_path / "1.mat")
    write_mat(tmp_path / "2.mat", image=np.zeros((2, 2), np.int16))
    assert [case.id for case in read_cases(tmp_path)] == ["MR01-4x6", "MR01-2x2"]


def test_damaged_files(tmp_path: Path) -> None:
    write_mat(tmp_path / "1.mat")
    (tmp_path / "2.mat").write_bytes((tmp_path / "1.mat").read_bytes()[:500])
    with pytest.raises(DataError, match=r"cannot be read \(1\): 2.mat"):
        read_cases(tmp_path, allow_missing=False)
    with pytest.warns(DataWarning, match=r"cannot be read \(1\): 2.mat"):
        (case,) = read_cases(tmp_path)
    assert len(case.files) == 1


@pytest.mark.parametrize(("label", "patient"), [(4, "a"), (1, " ")])
def test_unknown_type_or_no_patient(tmp_path: Path, label: int, patient: str) -> None:
    write_mat(tmp_path / "1.mat", label, patient)
    with pytest.raises(DataError, match="tumour type"):
        read_cases(tmp_path)
