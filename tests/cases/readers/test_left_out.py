from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from metaseg.cases import read_case_files, read_cases
from metaseg.cases.readers import find_cases
from metaseg.errors import DataError, DataWarning

Spoil = Callable[[Path], object]
CASES = ("Brats18_A_1_1", "Brats18_A_2_1", "Brats18_A_3_1")


@pytest.fixture
def brats(tmp_path: Path, write_case: Callable[..., Path]) -> Path:
    for name in CASES:
        write_case(tmp_path / "HGG" / name)
    return tmp_path


def rename(name: str, other: str) -> Spoil:
    return lambda root: (root / f"HGG/{CASES[1]}/{CASES[1]}{name}").rename(root / f"HGG/{CASES[1]}/{other}")


@pytest.mark.parametrize(
    ("spoil", "kind", "named"),
    [
        (rename("_t1ce.nii.gz", f"{CASES[1]}_t1gd.nii.gz"), "file-unused", "_t1gd.nii.gz"),
        (rename("_t2.nii.gz", f".{CASES[1]}_t2.nii.gz"), "file-hidden", "_t2.nii.gz"),
        (lambda root: (root / "HGG" / CASES[0]).rename(root / "HGG" / f".{CASES[0]}"), "file-hidden", CASES[0]),
        (lambda root: (root / "HGG" / "Brats18_A_4_1").mkdir(), "folder-empty", "Brats18_A_4_1"),
    ],
)
def test_what_is_passed_over_is_named(brats: Path, spoil: Spoil, kind: str, named: str) -> None:
    spoil(brats)
    with pytest.warns(DataWarning, match="left out"):
        read_cases(brats)
    assert [one.kind for one in find_cases(brats)[1]] == [kind]
    with pytest.raises(DataError, match="--allow-missing") as caught:
        read_cases(brats, allow_missing=False)
    assert named in str(caught.value)


def test_links_back_and_system_files_need_no_word(brats: Path) -> None:
    os.symlink("..", brats / "HGG" / "loop")
    (brats / f"HGG/{CASES[0]}/._{CASES[0]}_t1.nii.gz").write_bytes(b"junk")
    (brats / "HGG/.DS_Store").touch()
    (brats / "survival.csv").touch()
    assert find_cases(brats / "HGG" / CASES[0])[1] == []


def test_missing_labels_are_named_where_they_are_needed(brats: Path) -> None:
    (brats / f"HGG/{CASES[2]}/{CASES[2]}_seg.nii.gz").unlink()
    with pytest.warns(DataWarning, match=rf"cases without a label \(1\): {CASES[2]}"):
        read_cases(brats, need_labels=True)
    with pytest.raises(DataError, match=CASES[2]):
        read_cases(brats, need_labels=True, allow_missing=False)


@pytest.mark.parametrize("file", ["_seg", "_t1ce", "_flair"])
def test_a_file_of_another_case_is_refused(brats: Path, file: str) -> None:
    folder = brats / "HGG" / CASES[1]
    (folder / f"{CASES[1]}{file}.nii.gz").rename(folder / f"P9{file}.nii.gz")
    with pytest.raises(DataError, match=f"folder of case {CASES[1]} holds files of case P9"):
        read_cases(brats)
    assert [one.kind for one in find_cases(brats, strict=False)[1] if one.kind != "images-missing"] == ["other-case"]


def test_a_stray_outline_beside_a_single_case(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    for name in ("P2_t1", "P2_t2", "P9_seg"):
        write_nifti(tmp_path / f"{name}.nii.gz")
    with pytest.raises(DataError, match=r"case P2 holds files of case P9"):
        read_cases(tmp_path)


def test_files_of_two_cases_are_no_case(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    files = [write_nifti(tmp_path / f"{name}.nii.gz") for name in ("P2_flair", "P2_t1", "P3_t1ce")]
    with pytest.raises(DataError, match="two cases, P2 and P3"):
        read_case_files(files)
    with pytest.raises(DataError, match="two cases, P2 and P3"):
        read_case_files(files[:2], label=write_nifti(tmp_path / "P3_seg.nii.gz"))
    other = write_nifti(tmp_path / "clinic" / "P2_t2.nii.gz")
    with pytest.warns(DataWarning, match="several folders"):
        read_case_files([*files[:2], other])


@pytest.mark.parametrize("change", [{"label": "labelsTr/P2.nii.gz"}, {"image": "imagesTr/P2_0000.nii.gz"}])
def test_a_description_that_lists_another_case(
    tmp_path: Path, write_nifti: Callable[..., Path], change: dict[str, str]
) -> None:
    entries = []
    for case in ("P1", "P2"):
        write_nifti(tmp_path / f"imagesTr/{case}_0000.nii.gz")
        write_nifti(tmp_path / f"labelsTr/{case}.nii.gz")
        entries.append({"image": f"imagesTr/{case}.nii.gz", "label": f"labelsTr/{case}.nii.gz"})
    content = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "lesion": 1}, "training": entries}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert len(read_cases(tmp_path, allow_missing=False)) == 2
    entries[0] |= change
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="P2"):
        read_cases(tmp_path)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (["p,1.png,2_mask.png", "q,2.png,2_mask.png"], "mask of slice 2.png"),
        (["p,1.png,1_mask.png", "q,1.png,1_mask.png"], "patient p and for patient q"),
    ],
)
def test_an_index_that_lists_another_slice(tmp_path: Path, rows: list[str], named: str) -> None:
    for name in ("1", "2", "1_mask", "2_mask"):
        Image.new("L", (8, 6), len(name)).save(tmp_path / f"{name}.png")
    (tmp_path / "index.csv").write_text("\n".join(["patient_id,image,mask", *rows]))
    with pytest.raises(DataError, match=named):
        read_cases(tmp_path)


def test_dangling_and_loose_pictures(tmp_path: Path) -> None:
    for name in ("glioma/1", "none/2", "loose"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 6)).save(tmp_path / f"{name}.png")
    os.symlink("nowhere.png", tmp_path / "glioma/3.png")
    kinds = {str(one.file and one.file.name): one.kind for one in find_cases(tmp_path)[1]}
    assert kinds == {"3.png": "file-absent", "loose.png": "file-unused"}
