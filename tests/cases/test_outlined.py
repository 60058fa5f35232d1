"""Which slices are outlined: what lists and labels say, and what the check says of them."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from metaseg.cases import read_cases, summarise
from metaseg.cases.check import check_dataset
from metaseg.cases.geometry import Geometry
from metaseg.cases.labels import IGNORED, label_scheme
from metaseg.cases.outlined import parse_slices, read_outlined_table, settle_outlines, slices_text
from metaseg.errors import DataError, DataWarning, UsageError

SHAPE = (20, 18, 10)
UP, DOWN = np.diag([1.0, 1.0, 2.0, 1.0]), np.diag([1.0, 1.0, -2.0, 1.0])


def write(root: Path, name: str, label: np.ndarray, affine: np.ndarray = UP) -> None:
    """A case of one modality in BraTS' naming; slices 1 to 8 of the file show a head."""
    rng = np.random.default_rng(len(name))
    image = np.zeros(SHAPE, np.int16)
    image[2:-2, 2:-2, 1:-1] = rng.integers(50, 500, (16, 14, 8))
    for kind, array in (("t1ce", image), ("seg", label.astype(np.uint8))):
        path = root / name / f"{name}_{kind}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), path)


def outlined_on(*slices: int, elsewhere: int = 0, lesion: int = 1) -> np.ndarray:
    label = np.full(SHAPE, elsewhere)
    label[..., list(slices)] = 0
    label[6:10, 6:10, list(slices)] = lesion
    return label


def listed(folder: Path, text: str) -> Path:
    path = folder / "outlined.csv"
    path.write_text(f"case,slice\n{text}\n")
    return path


@pytest.mark.parametrize(
    ("text", "numbers"), [("3 7 12-15", (3, 7, 12, 13, 14, 15)), ("4,4;2-3", (2, 3, 4)), ("0", (0,)), ("All", None)]
)
def test_numbers_of_slices(text, numbers):
    assert parse_slices(text) == numbers
    if numbers:
        assert parse_slices(slices_text(numbers)) == numbers


@pytest.mark.parametrize("text", ["", "-", "7-3", "3.5", "-2", "three", "1 all"])
def test_what_is_no_number_of_a_slice(text):
    with pytest.raises(ValueError, match="names no slices"):
        parse_slices(text)


def test_a_case_may_have_several_rows(tmp_path):
    assert read_outlined_table(listed(tmp_path, "a,7\nb,all\na,2-3")) == {"a": (2, 3, 7), "b": None}


@pytest.mark.parametrize("text", ["a,", ",3", "a,x", "a,3\na,all", "a,all\na,3", ""])
def test_tables_that_cannot_be_understood(tmp_path, text):
    with pytest.raises(DataError, match=r"row \d says|no rows"):
        read_outlined_table(listed(tmp_path, text))


@pytest.mark.parametrize("affine", [UP, DOWN])
def test_slices_count_as_in_the_file(tmp_path, affine):
    write(tmp_path, "a", outlined_on(3, 6, elsewhere=99), affine)
    (case,) = read_cases(tmp_path, label_scheme="whole-lesion", outlined_slices=listed(tmp_path, "a,3\na,6"))
    in_file = case.geometry.from_canonical(case.read_label())
    assert np.array_equal(in_file[..., [3, 6]], outlined_on(3, 6)[..., [3, 6]])
    assert (np.delete(in_file, [3, 6], axis=2) == IGNORED).all()


def test_turned_slices_of_any_orientation():
    array = np.arange(24).reshape(2, 3, 4)
    for axes in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        for sign in (1.0, -1.0):
            affine = np.eye(4)
            affine[:3, :3] = np.diag([1.0, 1.0, sign])[:, list(axes)]
            geometry = Geometry.from_affine(array.shape, affine)
            axial = axes.index(2)
            for number in range(array.shape[axial]):
                here = geometry.to_canonical(array)[geometry.turned_slice(number)]
                assert set(here.ravel()) == set(np.take(array, number, axis=axial).ravel())
                assert geometry.turned_slice(geometry.turned_slice(number)) == number


def test_slices_that_are_not_there(tmp_path):
    write(tmp_path, "a", outlined_on(3))
    table = listed(tmp_path, "a,3\na,10")
    (case,) = read_cases(tmp_path, label_scheme="whole-lesion", outlined_slices=table)
    with pytest.raises(DataError, match=r"slice 10 is listed .* 10 slices[\s\S]*0 to 9"):
        case.read_label()
    report = check_dataset(tmp_path, label_scheme="whole-lesion", outlined_slices=table)
    assert [finding.kind for finding in report.errors] == ["label-values"]


def test_a_table_names_every_case_or_none(tmp_path):
    for name in ("a", "bb"):
        write(tmp_path, name, outlined_on(3))
    with pytest.raises(DataError, match=r"1 of 2 cases, and not bb[\s\S]*'all'"):
        read_cases(tmp_path, outlined_slices=listed(tmp_path, "a,3"))
    with pytest.warns(DataWarning, match="names none of 2 cases"):
        cases = read_cases(tmp_path, outlined_slices=listed(tmp_path, "c,3"))
    assert [case.outlined for case in cases] == [None, None]
    cases = read_cases(tmp_path, outlined_slices=listed(tmp_path, "a,3\nbb,all"))
    assert [case.outlined for case in cases] == [(3,), None]


def test_a_slice_is_outlined_or_it_is_not():
    head = np.zeros((5, 4, 4), dtype=bool)
    head[:4, 1:3, 1:3] = True
    classes = np.zeros((5, 4, 4), dtype=np.uint8)
    classes[:4, 1, 1] = 2
    classes[0, 2, 2] = classes[1, 0, 0] = IGNORED
    classes[3] = classes[4] = IGNORED
    label, outlined = settle_outlines(classes, head)
    # One voxel inside the head is enough; outside it says nothing; where all is ignored there is no outline.
    assert outlined.tolist() == [False, True, True, False, False]
    assert label[1:3, 1, 1].tolist() == [2, 2]
    assert label.sum() == 4
    assert settle_outlines(classes, None)[1].tolist() == [False, False, True, False, False]
    whole = np.zeros((2, 4, 4), dtype=np.uint8)
    assert settle_outlines(whole, None)[0] is whole


class TestIgnore:
    def test_a_scheme_names_the_value(self):
        scheme = label_scheme("1=lesion,2=ignore")
        assert scheme.decode(np.array([0, 1, 2, 2]), "seg").tolist() == [0, 1, IGNORED, IGNORED]
        assert (scheme.ignore, scheme.meaning) == (2, "1 lesion, 2 ignore")
        assert scheme.encode(np.array([0, 1])).tolist() == [0, 1]
        with pytest.raises(DataError, match="unexpected label values 3"):
            scheme.decode(np.array([3]), "seg")

    @pytest.mark.parametrize("name", ["1=ignore", "1=lesion,2=ignore,3=ignore"])
    def test_schemes_that_make_no_sense(self, name):
        with pytest.raises(UsageError, match="cannot be understood"):
            label_scheme(name)

    def test_column_of_a_table(self, tmp_path):
        write(tmp_path, "a", outlined_on(3, 4, elsewhere=7))
        write(tmp_path, "bb", outlined_on(3, 4, elsewhere=1))
        (tmp_path / "cases.csv").write_text(
            "case,t1ce,label,label_scheme,outlined_slices\n"
            'a,a/a_t1ce.nii.gz,a/a_seg.nii.gz,"1=lesion,7=ignore",\n'
            "bb,bb/bb_t1ce.nii.gz,bb/bb_seg.nii.gz,,3-4\n"
        )
        cases = read_cases(tmp_path)
        known = [np.flatnonzero((case.read_label() != IGNORED).all(axis=(1, 2))).tolist() for case in cases]
        assert known == [[3, 4], [3, 4]]
        (tmp_path / "cases.csv").write_text("case,t1ce,outlined_slices\na,a/a_t1ce.nii.gz,third\n")
        with pytest.raises(DataError, match=r"row 2, column outlined_slices: 'third'[\s\S]*numbers from 0"):
            read_cases(tmp_path)

    def test_pictures_without_a_mask_are_not_outlined(self, tmp_path):
        for number in range(3):
            Image.fromarray(np.full((6, 8), 90 + number, np.uint8)).save(tmp_path / f"{number}.png")
        Image.fromarray(np.eye(6, 8, dtype=np.uint8)).save(tmp_path / "mask.png")
        (tmp_path / "index.csv").write_text("patient_id,image,mask\np,0.png,\np,1.png,mask.png\np,2.png,\n")
        (case,) = read_cases(tmp_path)
        assert case.outlined == (1,)
        label = case.read_label()
        assert (label[[0, 2]] == IGNORED).all()
        assert label[1].sum() == 6


class TestCheck:
    def test_says_which_slices_count(self, tmp_path):
        write(tmp_path, "a", outlined_on(3, 4, 6, elsewhere=2), DOWN)
        report = check_dataset(tmp_path, label_scheme="1=lesion,2=ignore")
        found = [(finding.kind, finding.severity, finding.found) for finding in report.findings]
        # What is not outlined lies mostly outside the head, and is no outline there either.
        assert found == [("label-partial", "warning", "3 of 10 slices are outlined: 3-4 6")]

    def test_of_a_list(self, tmp_path):
        write(tmp_path, "a", outlined_on(3, 6, elsewhere=99))
        report = check_dataset(tmp_path, label_scheme="whole-lesion", outlined_slices=listed(tmp_path, "a,3 6"))
        assert [finding.found for finding in report.findings] == ["2 of 10 slices are outlined: 3 6"]

    @pytest.mark.parametrize("allow_missing", [False, True])
    def test_a_label_without_outlines_counts_as_none(self, tmp_path, allow_missing):
        write(tmp_path, "a", np.full(SHAPE, 2))
        report = check_dataset(tmp_path, label_scheme="1=lesion,2=ignore", allow_missing=allow_missing)
        assert [finding.kind for finding in report.findings] == ["label-missing"]
        assert report.ok == allow_missing

    def test_pictures_as_the_store_takes_them(self, tmp_path):
        image = np.zeros((12, 12), np.uint8)
        image[3:9, 3:9] = np.arange(100, 136).reshape(6, 6)
        inside, outside = np.zeros((12, 12), np.uint8), np.zeros((12, 12), np.uint8)
        inside[4, 4], outside[0, 0] = 128, 128
        for name, mask in (("in", inside), ("out", outside)):
            mask[5:7, 5:7] = 255
            Image.fromarray(mask).save(tmp_path / f"{name}_mask.png")
            Image.fromarray(image + (name == "in")).save(tmp_path / f"{name}.png")
        (tmp_path / "index.csv").write_text("patient_id,image,mask\np,in.png,in_mask.png\np,out.png,out_mask.png\n")
        report = check_dataset(tmp_path, label_scheme="255=lesion,128=ignore")
        assert "1 of 2 slices are outlined: 1" in [finding.found for finding in report.findings]


def test_summary_counts_outlined_slices_and_no_volumes(tmp_path):
    write(tmp_path, "a", outlined_on(3, 4, elsewhere=2))
    (case,) = read_cases(tmp_path, label_scheme="1=lesion,2=ignore")
    (found,) = summarise([case]).cases
    assert (found.outlined_slices, found.tumour_slices, found.volumes) == (2, 2, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert summarise([replace(case, scheme=label_scheme("any-lesion"))]).cases[0].outlined_slices == 10


def test_ignore_of_a_description(tmp_path):
    # nnU-Net's own layout: the highest value, named "ignore".
    write(tmp_path / "raw", "a", outlined_on(3, elsewhere=2))
    for folder, file, name in (("imagesTr", "a_t1ce", "a_0000"), ("labelsTr", "a_seg", "a")):
        (tmp_path / folder).mkdir()
        (tmp_path / "raw/a" / f"{file}.nii.gz").rename(tmp_path / folder / f"{name}.nii.gz")
    labels = {"background": 0, "tumor": 1, "ignore": 2}
    (tmp_path / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "T1c"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"})
    )
    (case,) = read_cases(tmp_path)
    assert set(np.unique(case.read_label())) == {0, 1, IGNORED}
