from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from metaseg.cases import make_split, read_cases


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
