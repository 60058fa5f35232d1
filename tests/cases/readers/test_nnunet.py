from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metaseg.cases import make_split, read_cases
from metaseg.cases.labels import IGNORED
from metaseg.errors import DataError

MSD = {
    "name": "BRATS",
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
    "training": [{"image": "./imagesTr/BRATS_001.nii.gz", "label": "./labelsTr/BRATS_001.nii.gz"}],
    "test": ["./imagesTs/BRATS_485.nii.gz"],
}
V2: dict[str, Any] = {
    "channel_names": {"0": "T1c", "1": "FLAIR"},
    "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3},
    "regions_class_order": [1, 2, 3],
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def describe(root: Path, content: object) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def decathlon(tmp_path: Path, write_nifti: Callable[..., Path]) -> Path:
    root = describe(tmp_path / "Task01_BrainTumour", MSD)
    image = np.arange(4 * 5 * 3 * 4, dtype=np.float32).reshape(4, 5, 3, 4)
    write_nifti(root / "imagesTr/BRATS_001.nii.gz", image)
    write_nifti(root / "imagesTs/BRATS_485.nii.gz", image)
    write_nifti(root / "labelsTr/BRATS_001.nii.gz", (np.arange(60) % 4).reshape(4, 5, 3).astype(np.uint8))
    return root


def test_decathlon(decathlon: Path) -> None:
    (case,) = read_cases(decathlon)
    assert (case.id, case.cohort, case.format, case.scheme.name) == ("BRATS_001", "BRATS", "nnunet", "msd-brats")
    assert case.modalities == ("flair", "t1", "t1ce", "t2")
    image = np.arange(4 * 5 * 3 * 4, dtype=np.float32).reshape(4, 5, 3, 4)
    expected = np.moveaxis(image, 3, 0)[[2, 0]].transpose(0, 3, 2, 1)
    np.testing.assert_array_equal(case.read_images(["t1ce", "flair"]), expected)
    # The Decathlon's 1 is edema and its 2 the necrotic core.
    assert case.label is not None
    label = case.label.read()
    np.testing.assert_array_equal(case.read_label(), np.array([0, 2, 1, 3])[label])


def test_test_images_when_they_are_asked_for(decathlon: Path) -> None:
    (case,) = read_cases(decathlon / "imagesTs")
    assert (case.id, case.label) == ("BRATS_485", None)


def test_test_images_when_there_is_nothing_else(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    root = describe(tmp_path, V2)
    for channel in (0, 1):
        write_nifti(root / f"imagesTs/a_000{channel}.nii.gz")
    (case,) = read_cases(root)
    assert (case.id, case.label) == ("a", None)


@pytest.fixture
def version2(tmp_path: Path, write_nifti: Callable[..., Path]) -> Path:
    root = describe(tmp_path / "Dataset137_Mets", V2)
    for case in ("p_10", "p_9"):
        for channel in (0, 1):
            write_nifti(root / f"imagesTr/{case}_000{channel}.nii.gz", np.full((4, 5, 3), channel, np.int16))
        write_nifti(root / f"labelsTr/{case}.nii.gz", (np.arange(60) % 4).reshape(4, 5, 3).astype(np.uint8))
    return root


def test_version_2(version2: Path) -> None:
    cases = read_cases(version2)
    assert [case.id for case in cases] == ["p_9", "p_10"]
    assert cases[0].cohort == "Mets"
    assert cases[0].modalities == ("t1ce", "flair")
    assert cases[0].images["flair"].read().max() == 1
    assert cases[0].scheme.name == "msd-brats"


def test_a_missing_channel_leaves_the_rest(version2: Path) -> None:
    (version2 / "imagesTr/p_9_0001.nii.gz").unlink()
    (version2 / "labelsTr/p_9.nii.gz").unlink()
    cases = read_cases(version2)
    assert cases[0].modalities == ("t1ce",)
    assert cases[0].label is None
    with pytest.raises(DataError, match="case p_9 lacks modality flair"):
        read_cases(version2, modalities=("t1ce", "flair"))


def test_version_1_lists_cases_but_splits_channels(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    root = describe(tmp_path, MSD)
    for channel in range(4):
        write_nifti(root / f"imagesTr/BRATS_001_000{channel}.nii.gz", np.full((4, 5, 3), channel, np.int16))
    (case,) = read_cases(root)
    assert [int(case.images[name].read().max()) for name in ("flair", "t1", "t1ce", "t2")] == [0, 1, 2, 3]


def test_version_2_with_named_files(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    files = [write_nifti(tmp_path / f"elsewhere/{name}.nii.gz") for name in ("x", "y", "seg")]
    entry = {"images": [str(file) for file in files[:2]], "label": str(files[2])}
    (case,) = read_cases(describe(tmp_path / "set", V2 | {"dataset": {"a": entry}}))
    assert case.id == "a"
    assert case.files == tuple(files)


def test_picture_files(tmp_path: Path) -> None:
    content = {"channel_names": {"0": "T2"}, "labels": {"background": 0, "tumor": 1}, "file_ending": ".png"}
    root = describe(tmp_path, content)
    for folder, name in (("imagesTr", "a_0000.png"), ("labelsTr", "a.png")):
        (root / folder).mkdir()
        Image.fromarray(np.eye(6, dtype=np.uint8)).save(root / folder / name)
    (case,) = read_cases(root)
    assert (case.modalities, case.scheme.name) == (("t2",), "whole-lesion")
    assert case.read_label().sum() == 6


def test_time_points_of_a_brats_patient_stay_together(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    root = describe(tmp_path, V2)
    for time in ("000", "001"):
        write_nifti(root / f"imagesTr/BraTS-GLI-00001-{time}_0000.nii.gz")
    assert {case.patient for case in read_cases(root)} == {"BraTS-GLI-00001"}


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "thing": 1},
        {"background": 0, "edema": 1, "enhancing tumor": 2},
        {"background": 0, "edema": 300, "NCR": 3, "ET": 1},
        {"background": 0, "edema": 1, "NCR": 1, "ET": 3},
        {"background": 0, "edema": 1, "oedema": 2, "ET": 3},
        {"background": 0, "whole tumor": [1, 2], "tumor core": [2, 3], "enhancing tumor": 3},
        {"0": "background", "1": "tumour", "2": "vessel"},
    ],
)
def test_label_names_that_do_not_tell(version2: Path, labels: dict[str, object]) -> None:
    describe(version2, V2 | {"labels": labels})
    # Splitting and predicting read no labels.
    case, other = read_cases(version2)
    assert len(make_split([case, other], {"train": 0.5, "test": 0.5}).parts) == 2
    with pytest.raises(DataError, match="cannot tell what the labels mean") as caught:
        case.read_label()
    assert "--label-scheme" in str(caught.value)
    assert "brats2023 (1 NCR, 2 ED, 3 ET)" in str(caught.value)
    assert read_cases(version2, label_scheme="brats2023")[0].scheme.name == "brats2023"
    assert read_cases(version2, label_scheme="2=lesion,1=background")[0].scheme.name == "1=background,2=lesion"


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [
        ({"background": 0, "NCR": 1, "ED": 2, "ET": 3}, "brats2023"),
        ({"0": "background", "1": "necrotic", "2": "edema", "4": "enhancing"}, "brats"),
        ({"background": 0, "Whole Tumor": [1, 2, 3], "TC": [1, 3], "ET": [3]}, "brats2023"),
        ({"background": 0, "WT": [1, 2, 4], "tumour_core": [1, 4], "ET": [4], "ignore": 5}, "brats"),
        ({"background": 0, "edema": 1, "Non-enhancing tumor core (NETC)": 2, "Enhancing tissue": 3}, "msd-brats"),
        ({"background": 0, "metastasis": 1}, "whole-lesion"),
        ({"background": 0, "whole lesion": [1]}, "whole-lesion"),
        ({"background": 0, "edema": 2, "NCR": 3, "ET": 1}, "1=ET,2=ED,3=NCR"),
        ({"background": 0, "tumor": [1, 3]}, "1=lesion,3=lesion"),
        ({"background": 0, "ET": 1, "NET": 2, "CC": 3, "ED": 4}, "brats-ped"),
        ({"background": 0, "necrosis": 1, "edema": 2, "non-enhancing": 3, "enhancing": 4}, "1=NCR,2=ED,3=NCR,4=ET"),
        ({"background": 0, "NETC": 1, "SNFH": 2, "ET": 3, "resection cavity": 4}, "brats-post-cavity"),
        ({"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3], "RC": 4}, "brats-post-cavity"),
    ],
)
def test_label_names(version2: Path, labels: dict[str, object], scheme: str) -> None:
    describe(version2, V2 | {"labels": labels})
    assert read_cases(version2)[0].scheme.name == scheme


@pytest.mark.parametrize("scheme", [None, "whole-lesion", "any-lesion"])
def test_ignored_voxels_are_not_taken_for_background(version2: Path, scheme: str | None) -> None:
    describe(version2, V2 | {"labels": {"background": 0, "tumor": 1, "ignore": 2}})
    case, _ = read_cases(version2, label_scheme=scheme)
    assert case.scheme.decode(np.array([0, 1]), "seg").tolist() == [0, 1]
    assert case.scheme.decode(np.array([0, 1, 2]), "seg").tolist() == [0, 1, IGNORED]


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ([], "another shape"),
        ({"labels": {}}, "lacks its modalities"),
        ({"modality": {"0": "T1"}}, "lacks its modalities"),
        (V2 | {"channel_names": {"0": "T1w", "1": "t1n"}}, "two channels are t1"),
        (MSD | {"training": [{"label": "x"}]}, "lists a case as"),
        (MSD | {"training": [3]}, "lists a case as"),
        (V2 | {"dataset": {"a": []}}, "lists a case as"),
        (V2 | {"dataset": {"a": {"images": ["a.nii", "b.nii", "c.nii"]}}}, "one of 2 channels"),
        (MSD, r"listed files that are not there \(2\)[\s\S]*without an image \(1\): BRATS_001"),
        (V2, "no case was found"),
    ],
)
def test_bad_descriptions(tmp_path: Path, content: object, hint: str) -> None:
    with pytest.raises(DataError, match=hint):
        read_cases(describe(tmp_path, content))


def test_a_description_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="no JSON"):
        read_cases(tmp_path)
