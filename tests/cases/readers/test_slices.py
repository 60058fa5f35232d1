from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaseg.cases import read_cases
from metaseg.cases.readers import find_cases
from metaseg.errors import DataError, DataWarning


def picture(path: Path, value: int = 7, shape: tuple[int, int] = (6, 8)) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)
    return path.name


def table(root: Path, header: str, rows: Sequence[str]) -> None:
    (root / "index.csv").write_text("\n".join([header, *rows]) + "\n")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Patient p has two slices, patient q one; every mask is full."""
    for name in ("1", "2", "3"):
        picture(tmp_path / f"{name}.png", int(name))
        picture(tmp_path / f"{name}_mask.png", 255)
    table(
        tmp_path,
        "slice_id,patient_id,class,image,mask",
        [
            "2,p,meningioma,2.png,2_mask.png",
            "1,p,meningioma,1.png,1_mask.png",
            "3,q,glioma,3.png,3_mask.png",
        ],
    )
    return tmp_path


def test_one_case_per_patient(data: Path) -> None:
    p, q = read_cases(data)
    assert (p.id, p.patient, p.cohort, p.grade) == ("p", "p", "meningioma", "meningioma")
    assert (p.modalities, p.scheme.name, p.format) == (("t1ce",), "whole-lesion", "slices")
    np.testing.assert_array_equal(p.read_images(["t1ce"])[0, :, 0, 0], [2, 1])
    assert p.read_label().shape == (2, 6, 8)
    assert set(np.unique(p.read_label())) == {1}
    assert p.geometry.planar
    assert p.geometry.unit == "pixel"
    assert [case.id for case in read_cases(data, classes=("Meningioma",))] == ["p"]
    assert q.cohort == "glioma"


def test_the_table_itself_may_be_given_and_the_modality_named(data: Path) -> None:
    assert read_cases(data / "index.csv", modality="T2w")[0].modalities == ("t2",)


def test_other_shapes_and_classes_make_their_own_cases(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", shape=(4, 4))
    picture(tmp_path / "c.png")
    rows = ["p,a.png,x", "p,b.png,x", "q,c.png,x", "q,c.png,y"]
    table(tmp_path, "patient_id,image,class", rows)
    cases = read_cases(tmp_path)
    assert [case.id for case in cases] == ["p-6x8", "p-4x4", "q-x", "q-y"]
    assert [case.patient for case in cases] == ["p", "p", "q", "q"]
    assert [case.geometry.canonical_shape for case in cases[:2]] == [(1, 6, 8), (1, 4, 4)]
    assert all(case.label is None for case in cases)


def test_pixel_sizes(data: Path) -> None:
    table(data, "patient_id,image,pixel_mm", ["p,1.png,0.49", "q,2.png,", "q,3.png,1"])
    cases = read_cases(data)
    assert [case.id for case in cases] == ["p", "q-pixels", "q-1mm"]
    assert [(case.geometry.unit, case.geometry.spacing[2]) for case in cases] == [("mm", 0.49), ("pixel", 1), ("mm", 1)]


def test_several_modalities(data: Path) -> None:
    rows = ["s,p,T1w,1.png,", "s,p,T2w,2.png,2_mask.png", "t,p,T1w,2.png,3_mask.png", "t,p,T2w,3.png,"]
    table(data, "slice,patient,modality,image,mask", rows)
    (case,) = read_cases(data)
    assert case.modalities == ("t1", "t2")
    np.testing.assert_array_equal(case.read_images(["t1", "t2"])[:, :, 0, 0], [[1, 2], [2, 3]])
    assert case.label is not None
    table(data, "slice,patient,modality,image,mask", rows[:3])
    with pytest.raises(DataError, match="slice t is not there in every modality"):
        read_cases(data)


def test_files_by_slice_name(tmp_path: Path) -> None:
    picture(tmp_path / "images/s_10.jpg")
    picture(tmp_path / "masks/s_10.png", 255)
    table(tmp_path, "slice,patient,z", ["s_10,p,10"])
    (case,) = read_cases(tmp_path, modality="t2", cohort="MET")
    assert [file.name for file in case.files] == ["s_10.jpg", "s_10.png"]
    assert (case.cohort, case.grade) == ("MET", None)


def test_subregion_masks(data: Path) -> None:
    picture(data / "1_mask.png", 4)
    table(data, "patient_id,image,mask", ["p,1.png,1_mask.png"])
    (case,) = read_cases(data, label_scheme="brats")
    assert set(np.unique(case.read_label())) == {3}


@pytest.mark.parametrize(
    ("header", "rows", "hint"),
    [
        ("image,mask", ["1.png,"], "columns image, mask"),
        ("patient_id,mask", ["p,1.png"], "columns mask, patient_id"),
        ("patient_id,image", [], "no rows"),
        ("patient_id,image", [",1.png"], "row 2 names no patient"),
        ("patient_id,image", ["p,1.png", "p,"], "row 3 names no image"),
        ("patient_id,image", ["p,nowhere.png"], "not there"),
        ("patient_id,image,pixel_mm", ["p,1.png,-2"], "pixel_mm is '-2'"),
        ("patient_id,image,pixel_mm", ["p,1.png,small"], "pixel_mm is 'small'"),
        ("patient_id,image", ["p,1.png", "p,1.png"], r"slice 1\.png in t1ce occurs 2 times"),
    ],
)
def test_bad_tables(data: Path, header: str, rows: Sequence[str], hint: str) -> None:
    table(data, header, rows)
    with pytest.raises(DataError, match=hint):
        read_cases(data)


def test_a_table_in_another_encoding(data: Path) -> None:
    (data / "index.csv").write_bytes("patient_id,image\nMüller,1.png\n".encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read"):
        read_cases(data)


def test_unreadable_slices_are_left_out_and_named(data: Path) -> None:
    (data / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot be read \(1\): 2.png"):
        read_cases(data, allow_missing=False)
    with pytest.warns(DataWarning, match=r"cannot be read \(1\): 2.png"):
        p, _ = read_cases(data)
    assert len(p.images["t1ce"].files) == 1


def test_doubled_slices_are_noted_when_not_strict(data: Path) -> None:
    table(data, "slice_id,patient_id,image", ["s,p,1.png", "s,p,2.png", "t,p,3.png"])
    (case,), _ = find_cases(data, strict=False)
    assert [file.name for file in case.files] == ["1.png", "3.png"]
    assert case.doubled == (data / "2.png",)


def test_files_of_one_name_in_two_folders(tmp_path: Path) -> None:
    for folder in "ab":
        picture(tmp_path / folder / "1.png")
    table(tmp_path, "patient_id,image", ["p,a/1.png", "p,b/1.png"])
    assert len(read_cases(tmp_path)[0].files) == 2
