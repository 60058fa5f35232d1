"""Pictures that stand in two places, and splits that overlap."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaseg.cases.check import CheckReport, check_dataset
from metaseg.cases.check.parts import part_by_name
from metaseg.cases.readers import read_cases
from metaseg.cases.splits import make_split


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 10), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def pictures(tmp_path):
    """Two classes of four pictures, half of them named train."""
    for number in range(8):
        part = "train" if number % 2 else "test"
        picture(tmp_path / ("glioma" if number < 4 else "none") / f"{part}_{number}.png", number)
    return tmp_path


def kinds(report: CheckReport) -> list[str]:
    return [finding.kind for finding in report.findings]


def test_different_pictures_yield_nothing(pictures):
    report = check_dataset(pictures)
    assert (report.findings, report.cases, report.format) == ((), 8, "image-folder")


def test_training_picture_in_the_test_part(pictures):
    shutil.copy(pictures / "glioma" / "train_1.png", pictures / "glioma" / "test_9.png")
    report = check_dataset(pictures)
    assert kinds(report) == ["leak"]
    assert not report.ok
    assert report.findings[0].found == "the same image is in test (glioma/test_9.png) and in train (glioma/train_1.png)"


def test_same_pixels_in_files_of_other_bytes(pictures):
    source, copy = pictures / "glioma" / "train_1.png", pictures / "glioma" / "test_9.bmp"
    Image.open(source).convert("RGB").save(copy)
    assert source.read_bytes() != copy.read_bytes()
    assert kinds(check_dataset(pictures)) == ["leak"]


def test_parts_by_folder(tmp_path):
    for number in range(4):
        picture(tmp_path / ("Training" if number % 2 else "Testing") / "glioma" / f"{number}.png", number)
    assert check_dataset(tmp_path).findings == ()
    shutil.copy(tmp_path / "Training" / "glioma" / "1.png", tmp_path / "Testing" / "glioma" / "8.png")
    assert kinds(check_dataset(tmp_path)) == ["leak"]


def test_copies_in_one_part_and_class_are_a_warning(pictures):
    for number in (11, 13):
        shutil.copy(pictures / "glioma" / "train_1.png", pictures / "glioma" / f"train_{number}.png")
    report = check_dataset(pictures)
    assert kinds(report) == ["same-picture"]
    assert report.ok
    assert report.findings[0].found.startswith("3 copies of one picture")


def test_one_picture_in_two_classes(pictures):
    shutil.copy(pictures / "glioma" / "train_1.png", pictures / "none" / "train_9.png")
    report = check_dataset(pictures)
    assert kinds(report) == ["same-class"]
    assert "glioma, none" in report.findings[0].found


def test_two_classes_and_two_parts_are_two_findings(pictures):
    shutil.copy(pictures / "glioma" / "train_1.png", pictures / "none" / "test_9.png")
    assert sorted(kinds(check_dataset(pictures))) == ["leak", "same-class"]


def test_truncated_picture(pictures):
    path = pictures / "glioma" / "train_1.png"
    path.write_bytes(path.read_bytes()[:-40])
    report = check_dataset(pictures)
    assert kinds(report) == ["unreadable"]
    assert report.findings[0].file == "glioma/train_1.png"


def saved(path: Path, seed: int, quality: int = 90) -> None:
    """A smooth picture, as JPEG keeps it; another quality gives other pixels that look the same."""
    noise = np.random.default_rng(seed).integers(0, 200, (10, 12), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).resize((96, 80), Image.Resampling.BICUBIC).save(path, quality=quality)


@pytest.fixture
def looks(tmp_path):
    """Two classes of four smooth pictures in each of two parts."""
    for number in range(16):
        part = "train" if number % 2 else "test"
        saved(tmp_path / ("glioma" if number < 8 else "none") / f"{part}_{number}.jpg", number)
    assert check_dataset(tmp_path).findings == ()
    return tmp_path


def test_near_copy_in_the_test_part(looks):
    saved(looks / "glioma/test_99.jpg", 1, quality=60)
    leak, near = check_dataset(looks).findings
    assert (leak.kind, leak.severity, near.kind, near.severity) == ("near-leak", "error", "near-picture", "warning")
    told = "pictures that look the same are in test (glioma/test_99.jpg) and in train (glioma/train_1.jpg)"
    assert leak.found == told
    assert near.found.startswith("2 pictures of class glioma look the same in 1 group, such as glioma/")


def test_near_copies_in_two_classes(looks):
    saved(looks / "none/train_99.jpg", 1, quality=60)
    (finding,) = check_dataset(looks).findings
    assert (finding.kind, finding.severity) == ("near-class", "warning")
    assert finding.found.endswith("are in glioma (glioma/train_1.jpg) and in none (none/train_99.jpg)")


def test_near_copies_of_a_class_are_one_finding(looks):
    for number in (1, 3, 5):
        saved(looks / f"glioma/train_{number}0.jpg", number, quality=60)
    (finding,) = check_dataset(looks).findings
    assert finding.kind == "near-picture"
    assert finding.found == (
        "6 pictures of class glioma look the same in 3 groups, such as glioma/train_1.jpg, glioma/train_10.jpg"
    )


def test_equal_copies_in_both_parts_are_told_once(looks):
    # Near-copies of each other, and each of them equally in both parts: taking out the equal ones mends all.
    saved(looks / "glioma/train_10.jpg", 1, quality=60)
    for name in ("1", "10"):
        shutil.copy(looks / f"glioma/train_{name}.jpg", looks / f"glioma/test_{name}.jpg")
    assert kinds(check_dataset(looks)) == ["leak", "leak", "near-picture"]


def test_near_copies_across_a_split_file(looks):
    saved(looks / "glioma/train_10.jpg", 1, quality=60)
    split = looks / "split.json"
    make_split(read_cases(looks), parts={"train": 0.5, "test": 0.5}).save(split)
    assert kinds(check_dataset(looks, split=split)) == ["near-picture"]
    ids = [case.id for case in read_cases(looks)]
    edit(split, train=[name for name in ids if name != "glioma-train_10"], test=["glioma-train_10"])
    found = check_dataset(looks, split=split)
    assert sorted(kinds(found)) == ["class-absent", "near-leak", "near-picture", "split-invalid"]
    assert [finding.found for finding in found.findings if finding.kind == "class-absent"] == [
        "class none has no picture in test"
    ]


def test_class_of_one_picture(looks):
    saved(looks / "pituitary/train_0.jpg", 50)
    (finding,) = check_dataset(looks).findings
    assert (finding.kind, finding.severity) == ("class-single", "warning")
    assert finding.found == "class pituitary has 1 picture: it cannot be in train and test"
    saved(looks / "pituitary/train_1.jpg", 50, quality=60)
    found = {finding.kind: finding.found for finding in check_dataset(looks).findings}
    assert "2 pictures that are copies of one" in found["class-single"]


def test_class_that_the_test_folder_lacks(tmp_path):
    for number in range(9):
        saved(tmp_path / f"Training/{'ab'[number % 2]}/{number}.jpg", number)
    saved(tmp_path / "Testing/a/9.jpg", 9)
    (finding,) = check_dataset(tmp_path).findings
    assert (finding.kind, finding.found) == ("class-absent", "class b has no picture in test")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train/a.png", "train"),
        ("Testing/x/a.png", "test"),
        ("validation/a.png", "val"),
        ("x/train_3.png", "train"),
        ("x/TEST-3.png", "test"),
        ("x/trainer.png", None),
        ("x/latest_3.png", None),
        ("testament/a.png", None),
    ],
)
def test_part_by_name(tmp_path, name, part):
    # The folder that is checked may itself be called so.
    assert part_by_name(tmp_path / "test" / name, tmp_path / "test") == part


@pytest.fixture
def slices(tmp_path):
    """Four patients of three slices with masks."""
    rows = []
    for number in range(12):
        image, mask = picture(tmp_path / f"{number}.png", number), tmp_path / f"{number}_mask.png"
        outline = np.zeros((12, 10), dtype=np.uint8)
        outline[2:5, 2 : 4 + number % 3] = 255
        Image.fromarray(outline).save(mask)
        rows.append({"patient_id": f"p{number // 3}", "image": image.name, "mask": mask.name, "class": "glioma"})
    with (tmp_path / "index.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


def test_slice_stacks(slices):
    assert check_dataset(slices).findings == ()


def test_slice_of_two_patients(slices):
    shutil.copy(slices / "0.png", slices / "3.png")
    report = check_dataset(slices)
    assert kinds(report) == ["same-case"]
    assert "p0 and p1" in report.findings[0].found


def test_slice_twice_in_a_patient(slices):
    shutil.copy(slices / "0.png", slices / "1.png")
    assert kinds(check_dataset(slices)) == ["same-picture"]


def test_constant_slice_is_found_in_its_stack(slices):
    Image.fromarray(np.full((12, 10), 7, dtype=np.uint8)).save(slices / "4.png")
    (finding,) = check_dataset(slices).errors
    assert (finding.kind, finding.case, finding.file) == ("constant", "p1", "4.png")


def test_slice_that_the_reader_left_out(slices):
    (slices / "4.png").write_bytes(b"broken")
    (finding,) = check_dataset(slices).findings
    assert (finding.kind, finding.case, finding.file) == ("unreadable", "p1", "4.png")


def test_good_split(slices):
    split = slices / "split.json"
    make_split(read_cases(slices), parts={"train": 0.5, "test": 0.5}).save(split)
    assert check_dataset(slices, split=split).findings == ()


def test_copies_across_a_split(slices):
    split = slices / "split.json"
    made = make_split(read_cases(slices), parts={"train": 0.5, "test": 0.5})
    made.save(split)
    train, test = (int(made.parts[part][0][1:]) for part in ("train", "test"))
    shutil.copy(slices / f"{3 * train}.png", slices / f"{3 * test}.png")
    report = check_dataset(slices, split=split)
    assert kinds(report) == ["leak"]
    assert "test" in report.findings[0].found


def edit(split: Path, **parts: list[str]) -> None:
    content = json.loads(split.read_text())
    content["parts"] = parts
    split.write_text(json.dumps(content))


def test_case_in_two_parts(slices):
    split = slices / "split.json"
    make_split(read_cases(slices), parts={"train": 0.5, "test": 0.5}).save(split)
    edit(split, train=["p0", "p1"], test=["p1", "p2", "p3"])
    report = check_dataset(slices, split=split)
    # Its images now stand in both parts as well, but are no copies.
    assert kinds(report) == ["patient-split"]
    assert report.findings[0].found == "patient p1 is in test: p1; train: p1"


def test_split_of_other_data(slices):
    split = slices / "split.json"
    make_split(read_cases(slices), parts={"train": 0.5, "test": 0.5}).save(split)
    edit(split, train=["p0", "p9"], test=["p1", "p2", "p3"])
    absent, invalid = check_dataset(slices, split=split).findings
    assert (absent.kind, invalid.kind) == ("split-absent", "split-invalid")
    assert absent.found.endswith("p9")


def test_time_points_of_a_patient_in_two_parts(tmp_path):
    nib = pytest.importorskip("nibabel")
    for number, point in (("001", "000"), ("001", "001"), ("002", "000")):
        name = f"BraTS-MET-{number}-{point}"
        (tmp_path / name).mkdir()
        for suffix in ("t1c", "t2f"):
            rng = np.random.default_rng(len(list(tmp_path.rglob("*.gz"))))
            array = np.pad(rng.integers(1, 99, (16, 16, 6)), 1).astype(np.int16)
            nib.Nifti1Image(array, np.eye(4)).to_filename(tmp_path / name / f"{name}-{suffix}.nii.gz")
    split = tmp_path / "split.json"
    make_split(read_cases(tmp_path), parts={"train": 0.5, "test": 0.5}).save(split)
    assert kinds(check_dataset(tmp_path, split=split)) == ["label-missing"]
    edit(split, train=["BraTS-MET-001-000"], test=["BraTS-MET-001-001", "BraTS-MET-002-000"])
    finding, _ = sorted(check_dataset(tmp_path, split=split).findings, key=lambda one: one.kind, reverse=True)
    assert finding.kind == "patient-split"
    assert "BraTS-MET-001 is in" in finding.found
