from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metaseg.cases import MODALITIES, read_cases
from metaseg.cases.readers import find_cases
from metaseg.errors import DataError, DataWarning


def test_cohort_grade_site_and_patient_come_from_the_names(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    for name in ("HGG/Brats18_CBICA_ALU_1", "HGG/Brats18_TCIA01_425_1", "LGG/Brats18_2013_11_1"):
        write_case(tmp_path / name)
    cases = {case.id: case for case in read_cases(tmp_path)}
    found = {name: (case.patient, case.cohort, case.grade, case.site) for name, case in cases.items()}
    assert found == {
        "Brats18_CBICA_ALU_1": ("CBICA_ALU", "HGG", "HGG", "CBICA"),
        "Brats18_TCIA01_425_1": ("TCIA01_425", "HGG", "HGG", "TCIA01"),
        "Brats18_2013_11_1": ("2013_11", "LGG", "LGG", "2013"),
    }
    case = cases["Brats18_2013_11_1"]
    assert case.modalities == MODALITIES
    assert case.scheme.name == case.format == "brats"
    assert not case.synthetic
    assert pickle.loads(pickle.dumps(case)) == case


def test_the_same_patient_of_two_years_is_one_patient(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    write_case(tmp_path / "HGG/Brats18_CBICA_ALU_1")
    write_case(tmp_path / "HGG/BraTS19_CBICA_ALU_1")
    assert {case.patient for case in read_cases(tmp_path)} == {"CBICA_ALU"}


@pytest.mark.parametrize(
    ("name", "ending"),
    [("BraTS2021_00000", ".nii.gz"), ("BraTS20_Training_001", ".nii"), ("BraTS20_Training_2", ".nii.bz2")],
)
def test_later_names(tmp_path: Path, write_case: Callable[..., Path], name: str, ending: str) -> None:
    write_case(tmp_path / name, ending=ending)
    (case,) = read_cases(tmp_path)
    assert (case.id, case.patient, case.cohort, case.grade, case.site) == (name, name, "GLI", None, None)
    assert case.label is not None
    assert case.read_images(["t1ce", "flair"]).shape == (2, 3, 5, 4)


def test_files_go_to_their_modality(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    write_case(tmp_path / "case", ["_t2", "_t1ce"])
    (case,) = read_cases(tmp_path)
    assert case.modalities == ("t1ce", "t2")
    assert [int(case.images[name].read().flat[0]) for name in ("t2", "t1ce")] == [1, 2]
    assert case.label is None
    assert case.cohort == "unknown"


def test_the_label_is_decoded(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    for suffix in ("t1", "seg"):
        write_nifti(tmp_path / f"a/a_{suffix}.nii.gz", np.array([0, 1, 2, 4], np.int16).reshape(4, 1, 1))
    (case,) = read_cases(tmp_path)
    np.testing.assert_array_equal(case.read_label().ravel(), [0, 1, 2, 3])
    (case,) = read_cases(tmp_path, label_scheme="brats2023")
    with pytest.raises(DataError, match="unexpected label values 4"):
        case.read_label()


def test_grades_of_2020_come_from_its_table(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    root = tmp_path / "MICCAI_BraTS2020_TrainingData"
    for number in (1, 2, 3):
        write_case(root / f"BraTS20_Training_00{number}", ["_t1"])
    (root / "name_mapping.csv").write_text(
        "Grade,BraTS_2019_subject_ID,BraTS_2020_subject_ID\nHGG,NA,BraTS20_Training_001\nLGG,x,BraTS20_Training_002\n"
    )
    assert [(case.cohort, case.grade) for case in read_cases(root)] == [("HGG", "HGG"), ("LGG", "LGG"), ("GLI", None)]


def test_a_label_of_another_name_goes_to_the_only_case_of_its_folder(
    tmp_path: Path, write_case: Callable[..., Path], write_nifti: Callable[..., Path]
) -> None:
    # As in BraTS 2020.
    folder = write_case(tmp_path / "BraTS20_Training_355", ["_t1", "_t2"], ending=".nii")
    stray = write_nifti(folder / "W39_1998.09.19_Segm.nii")
    (case,) = read_cases(tmp_path)
    assert case.label is not None
    assert case.label.files == (stray,)


def test_all_cases_in_one_folder(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    for name in ("a_t1", "a_seg", "b_t1", "b_seg"):
        write_nifti(tmp_path / f"{name}.nii.gz")
    assert [(case.id, case.label is not None) for case in read_cases(tmp_path)] == [("a", True), ("b", True)]


def test_doubled_modality(tmp_path: Path, write_case: Callable[..., Path], write_nifti: Callable[..., Path]) -> None:
    write_case(tmp_path / "a")
    twin = write_nifti(tmp_path / "a/a_t1ce.nii")
    with pytest.raises(DataError, match=r"a_t1ce\.nii, a_t1ce\.nii\.gz"):
        read_cases(tmp_path)
    (case,), _ = find_cases(tmp_path, strict=False)
    assert len(case.images) == 4
    assert {case.images["t1ce"].files[0].name, case.doubled[0].name} == {twin.name, "a_t1ce.nii.gz"}


def test_a_label_without_images(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    write_case(tmp_path / "a", ["_t1"])
    write_case(tmp_path / "b", ["_seg"])
    with pytest.warns(DataWarning, match=r"cases without an image \(1\): b"):
        (case,) = read_cases(tmp_path)
    assert case.id == "a"
    with pytest.raises(DataError, match=r"cases without an image \(1\): b"):
        read_cases(tmp_path, allow_missing=False)


def test_hidden_twins_of_macos_are_passed_over(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    folder = write_case(tmp_path / "a", ["_t1"])
    (folder / "._a_t1.nii.gz").write_bytes(b"junk")
    (case,) = read_cases(tmp_path)
    assert case.files == (folder / "a_t1.nii.gz",)
