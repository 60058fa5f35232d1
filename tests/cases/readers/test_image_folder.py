from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from metaseg.cases import make_split, read_cases
from metaseg.errors import DataError, UsageError


def picture(path: Path, value: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8), value, np.uint8)).save(path)


def test_the_folder_is_the_class(tmp_path: Path) -> None:
    picture(tmp_path / "yes/Y2.png", 1)
    picture(tmp_path / "yes/Y10.JPG", 2)
    picture(tmp_path / "no/no 1.jpeg", 3)
    cases = read_cases(tmp_path)
    assert [(case.id, case.cohort, case.grade) for case in cases] == [
        ("no-no 1", "no", "no"),
        ("yes-Y2", "yes", "yes"),
        ("yes-Y10", "yes", "yes"),
    ]
    assert cases[1].modalities == ("image",)
    assert cases[1].label is None
    assert cases[1].format == "image-folder"
    assert cases[1].read_images(["image"]).shape == (1, 1, 6, 8)
    assert read_cases(tmp_path, modality="t1ce")[0].modalities == ("t1ce",)


def test_files_that_differ_in_suffix_only(tmp_path: Path) -> None:
    picture(tmp_path / "yes/Y92.png", 1)
    picture(tmp_path / "yes/Y92.jpg", 2)
    assert [case.id for case in read_cases(tmp_path)] == ["yes-Y92-jpg", "yes-Y92-png"]


def test_training_and_testing_folders(tmp_path: Path) -> None:
    picture(tmp_path / "Training/glioma/1.png", 1)
    picture(tmp_path / "Testing/glioma/1.png", 2)
    cases = read_cases(tmp_path)
    assert [case.id for case in cases] == ["Testing-glioma-1", "Training-glioma-1"]
    assert {case.cohort for case in cases} == {"glioma"}


def test_copies_are_one_patient_and_stay_together(tmp_path: Path) -> None:
    for index in range(10):
        picture(tmp_path / f"yes/a{index}.png", 5)
        picture(tmp_path / f"yes/b{index}.png", index * 20)
    cases = read_cases(tmp_path)
    copies = {case.id for case in cases if case.id.startswith("yes-a")}
    assert {case.patient for case in cases if case.id in copies} == {"yes-a0"}
    assert len({case.patient for case in cases}) == 11
    split = make_split(cases, parts={"train": 0.5, "test": 0.5})
    assert any(copies <= set(part) for part in split.parts.values())


def head(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """Smooth blobs, different for every seed."""
    noise = np.random.default_rng(seed).integers(0, 200, (10, 12), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def saved(path: Path, seed: int, quality: int = 90, size: tuple[int, int] = (96, 80)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    head(seed, size).save(path, quality=quality)
    return path


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """Pictures 0 to 3; of 1 an identical copy, of 2 a smaller one, of 1 one saved anew."""
    for seed in range(4):
        saved(tmp_path / f"yes/{seed}.jpg", seed)
    (tmp_path / "yes/4.jpg").write_bytes((tmp_path / "yes/1.jpg").read_bytes())
    saved(tmp_path / "no/5.jpg", 2, size=(72, 60))
    saved(tmp_path / "yes/6.png", 1)
    return tmp_path


def test_near_copies_are_one_patient(copies: Path) -> None:
    patients = {case.id: case.patient for case in read_cases(copies)}
    assert {name: patient for name, patient in patients.items() if name != patient} == {
        "yes-2": "no-5",
        "yes-4": "yes-1",
        "yes-6": "yes-1",
    }


def test_copies_can_be_told_apart_to_show_what_leaking_does(copies: Path) -> None:
    identical = {case.id: case.patient for case in read_cases(copies, group_copies="identical")}
    assert [name for name, patient in identical.items() if name != patient] == ["yes-4"]
    assert all(case.patient == case.id for case in read_cases(copies, group_copies="none"))
    with pytest.raises(UsageError, match="'group_copies' is 'all'"):
        read_cases(copies, group_copies="all")  # type: ignore[arg-type]


def test_a_damaged_picture_spoils_its_own_reading_only(copies: Path) -> None:
    broken = copies / "yes/3.jpg"
    broken.write_bytes(broken.read_bytes()[:500])
    cases = {case.id: case for case in read_cases(copies)}
    assert cases["yes-3"].patient == "yes-3"
    with pytest.raises(DataError, match="the image cannot be read") as caught:
        cases["yes-3"].read_images(["image"])
    assert caught.value.where == broken
    assert cases["yes-2"].read_images(["image"]).shape == (1, 1, 80, 96)


def test_other_files_of_a_class_folder_are_left_out(copies: Path) -> None:
    for name in ("Thumbs.db", "notes.txt", ".hidden.jpg"):
        (copies / "yes" / name).write_text("no picture")
    assert len(read_cases(copies)) == 7


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), folds=st.integers(2, 4), classes=st.integers(1, 3))
def test_no_split_parts_copies(tmp_path_factory: pytest.TempPathFactory, seed: int, folds: int, classes: int) -> None:
    root, rng = tmp_path_factory.mktemp("classes"), np.random.default_rng(seed)
    original = {}
    for number in range(24):
        # A copy may stand in another class than its original.
        picture_of, name = int(rng.integers(12)), f"c{rng.integers(classes)}/{number}.jpg"
        saved(root / name, picture_of, int(rng.integers(60, 96)), (96, 80) if rng.random() < 0.5 else (72, 60))
        original[name.removesuffix(".jpg").replace("/", "-")] = picture_of
    cases = read_cases(root)
    for split in (make_split(cases, folds=folds, seed=seed, stratify="grade"), make_split(cases, seed=seed)):
        sides = [{original[case] for case in part} for part in split.parts.values()]
        assert sum(map(len, sides)) == len(set.union(*sides))
        assert sorted(case for part in split.parts.values() for case in part) == sorted(original)
