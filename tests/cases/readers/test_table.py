from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from metaseg.cases import read_cases, read_split
from metaseg.cases.check import check_dataset
from metaseg.cases.readers.table import read_table
from metaseg.errors import DataError, DataWarning, MetasegError, UsageError

Write = Callable[..., Path]
HEADER = "case,patient,session,cohort,site,split,T1_Gd,FLAIR,Label"


@pytest.fixture
def study(tmp_path: Path, write_nifti: Write) -> Path:
    """Two patients, one of them scanned twice, in files that no naming covers."""
    for number, folder in enumerate(("x", "y", "z")):
        for name in ("001.nii.gz", "002.nii"):
            write_nifti(tmp_path / "scans" / folder / name, np.full((4, 5, 3), number + 1, np.int16))
        write_nifti(
            tmp_path / "drawn" / f"{folder}.nii.gz", (np.arange(60) == number).reshape(4, 5, 3).astype(np.uint8)
        )
    rows = [
        "a,P1,1,MET,Oslo,training,scans/x/001.nii.gz,scans/x/002.nii,drawn/x.nii.gz",
        "b,P1,2,MET,Oslo,training,scans\\y\\001.nii.gz,./scans/y/002.nii,drawn/y.nii.gz",
        'c,P2,,HGG,,test,"scans/z/001.nii.gz",scans/z/002.nii,',
    ]
    (tmp_path / "cases.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return tmp_path


def test_every_column_arrives(study: Path) -> None:
    first, second, third = read_cases(study)
    assert [(case.id, case.patient, case.cohort, case.site, case.format) for case in (first, second, third)] == [
        ("a", "P1", "MET", "Oslo", "table"),
        ("b", "P1", "MET", "Oslo", "table"),
        ("c", "P2", "HGG", None, "table"),
    ]
    assert first.modalities == ("t1ce", "flair")
    assert (third.grade, third.label, third.extra) == ("HGG", None, {"split": "test"})
    assert (first.extra["session"], first.scheme.name) == ("1", "whole-lesion")
    assert first.read_label().sum() == 1
    assert second.read_images(["t1ce"]).max() == 2


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_ways_of_writing_a_table(study: Path, separator: str, encoding: str, newline: str) -> None:
    text = (study / "cases.csv").read_text().replace(",", separator).replace("\n", newline)
    (study / "cases.csv").write_text(text + newline, encoding=encoding, newline="")
    assert [case.id for case in read_cases(study)] == ["a", "b", "c"]


def test_a_table_of_any_name_is_read_by_its_path(study: Path) -> None:
    table = (study / "cases.csv").rename(study / "study.TSV")
    assert [case.format for case in read_cases(table)] == ["table"] * 3
    assert read_cases(table, format="table") == read_cases(table)
    with pytest.raises(UsageError, match="--format brats reads folders"):
        read_cases(table, format="brats")
    assert check_dataset(table).path == study.as_posix()


def test_the_table_goes_before_what_files_are_called(study: Path, write_nifti: Write) -> None:
    write_nifti(study / "p" / "p_flair.nii.gz")
    assert {case.format for case in read_cases(study)} == {"table"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1), min_size=1, unique=True),
    st.sampled_from(",;\t"),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_what_pandas_writes_is_read(tmp_path: Path, names: list[str], separator: str, encoding: str) -> None:
    frame = pd.DataFrame({"case": [f"p{number}" for number in range(len(names))], "t2": names})
    frame.to_csv(tmp_path / "cases.csv", sep=separator, index=False, encoding=encoding)
    assert [row.images["t2"] for row in read_table(tmp_path / "cases.csv")] == names


@pytest.mark.parametrize(
    ("table", "hint"),
    [
        ("", "the table is empty"),
        ("case,flair\n", "has no rows"),
        ("flair,t1\nx.nii,y.nii\n", "has the columns flair, t1"),
        ("case,label\na,x.nii\n", "has the columns case, label"),
        ("case,T1C,t1post\na,x.nii,x.nii\n", "two columns for t1ce: T1C, t1post"),
        ("case,patient,ID,flair\na,b,c,x.nii\n", "two columns for case: case, ID"),
        ("case,flair\na,x.nii,y.nii\n", "row 2 has 3 cells for 2 columns"),
        ("case,flair\n,x.nii\n", "row 2 names neither case nor patient"),
        ("case,flair\na,\n", "row 2 names no image"),
        ("case,flair\na,x.nii\na,y.nii\n", "case a occurs twice: row 2; row 3"),
        ("case,flair,t1\na,x.nii,./x.nii\n", "x.nii occurs twice: row 2, column flair; row 2, column t1"),
        ("case,flair,label\na,x.nii,x.nii\n", "x.nii occurs twice: row 2, column flair; row 2, column label"),
        (
            "case,flair,label\na,x.nii,z.nii\nb,y.nii,z.nii\n",
            "z.nii occurs twice: row 2, column label; row 3, column label",
        ),
        ("case,flair\n../../a,x.nii\n", r"row 2, column case: '\.\./\.\./a' is no name"),
        ("case,flair\n..,x.nii\n", "is no name"),
        ("case,patient,flair\na,C:\\b,x.nii\n", "row 2, column patient"),
        (f"case,flair\n{'a' * 121},x.nii\n", "is no name"),
        ("case,flair,age\na,x.nii,63\n", "row 2, column age: cannot read files named 63"),
        ("case,flair,label_scheme\na,x.nii,brats99\n", "row 2, column label_scheme: unknown label scheme 'brats99'"),
        ("case,flair\na,notes.txt\n", "row 2, column flair: cannot read files named .txt"),
        ('case,flair\na,"x.nii\n', "cannot be read"),
    ],
)
def test_errors_name_row_and_column(tmp_path: Path, write_nifti: Write, table: str, hint: str) -> None:
    for name in ("x.nii", "y.nii", "z.nii"):
        write_nifti(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "cases.csv").write_text(table)
    with pytest.raises(DataError, match=hint) as caught:
        read_cases(tmp_path, format="table")
    assert caught.value.remedy


@pytest.mark.parametrize("content", [b"\xff\xfec\0a\0", b"case,flair\n\xe9,x.nii\n", b"case,flair\na,\0\n"])
def test_bytes_that_are_no_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cases.csv").write_bytes(content)
    with pytest.raises(DataError):
        read_cases(tmp_path, format="table")


@pytest.mark.parametrize("file", ["scans/y/001.nii.gz", "drawn/y.nii.gz"])
def test_listed_files_that_are_not_there(study: Path, file: str) -> None:
    (study / file).unlink()
    place = f"{file} (row 3, column {'label' if 'drawn' in file else 't1ce'})"
    with pytest.warns(DataWarning, match=re.escape(place)):
        assert [case.id for case in read_cases(study)] == ["a", "b", "c"]
    with pytest.raises(DataError, match=re.escape(place)):
        read_cases(study, allow_missing=False)
    assert ("file-absent", "b") in {(finding.kind, finding.case) for finding in check_dataset(study).findings}


def in_the_check_and_in_verbs(study: Path, kind: str, hint: str) -> None:
    assert kind in {finding.kind for finding in check_dataset(study).findings}
    with pytest.warns(DataWarning, match=hint):
        read_cases(study)


@pytest.mark.parametrize(
    ("old", "new", "meant"), [("T1_Gd", "t1xe", "t1ce"), ("FLAIR", "flare", "flair"), ("Label", "lable", "label")]
)
def test_a_misspelt_column_is_in_doubt(study: Path, old: str, new: str, meant: str) -> None:
    (study / "cases.csv").write_text((study / "cases.csv").read_text().replace(f",{old}", f",{new}", 1))
    in_the_check_and_in_verbs(
        study, "column-unknown", f"'{new}' counts as a modality of its own; it looks like {meant}"
    )


def test_exchanged_labels_are_in_doubt(study: Path) -> None:
    text = (study / "cases.csv").read_text()
    text = text.replace("drawn/x", "drawn/_").replace("drawn/y", "drawn/x").replace("drawn/_", "drawn/y")
    (study / "cases.csv").write_text(text)
    in_the_check_and_in_verbs(study, "other-case", r"case a: its label y\.nii\.gz carries the name of case b")


def test_a_volume_that_a_file_does_not_have(study: Path) -> None:
    (study / "cases.csv").write_text((study / "cases.csv").read_text().replace("x/001.nii.gz", "x/001.nii.gz#3"))
    with pytest.raises(DataError, match="shape"):
        read_cases(study)[0].read_images(["t1ce"])
    assert "header" in {finding.kind for finding in check_dataset(study).findings}


def test_volumes_of_a_4d_file_and_pictures(tmp_path: Path, write_nifti: Write) -> None:
    write_nifti(tmp_path / "all.nii.gz", np.arange(120, dtype=np.int16).reshape(4, 5, 3, 2))
    Image.fromarray(np.diag(np.full(6, 255, np.uint8))).save(tmp_path / "mask.png")
    Image.fromarray(np.full((6, 6), 7, np.uint8)).save(tmp_path / "image.png")
    (tmp_path / "cases.csv").write_text(
        "case,t2,adc,label,#age\na,all.nii.gz#1,all.nii.gz#0,,63\nb,image.png,,mask.png,12\n"
    )
    volume, picture = read_cases(tmp_path)
    assert volume.read_images(["t2"]).max() == 119
    assert volume.read_images(["adc"]).max() == 118
    assert picture.read_label().sum() == 6


def test_label_schemes_by_row(study: Path) -> None:
    frame = pd.read_csv(study / "cases.csv")
    frame["label_scheme"] = ["any-lesion", "4=ET", ""]
    frame.to_csv(study / "cases.csv", index=False)
    assert [case.scheme.name for case in read_cases(study)] == ["any-lesion", "4=ET", "whole-lesion"]
    assert {case.scheme.name for case in read_cases(study, label_scheme="brats")} == {"brats"}


def test_the_column_split_is_a_split(study: Path) -> None:
    split, cases = read_split(study / "cases.csv"), read_cases(study)
    assert split.parts == {"train": ("a", "b"), "test": ("c",)}
    assert [case.id for case in split.select(cases, "test")] == ["c"]
    text = (study / "cases.csv").read_text()
    (study / "cases.csv").write_text(text.replace("2,MET,Oslo,training", "2,MET,Oslo,test"))
    with pytest.raises(DataError, match="patient P1 is in two parts"):
        read_split(study / "cases.csv")
    (study / "cases.csv").write_text(text.replace(",split,", ",#split,"))
    with pytest.raises(DataError, match="has no split"):
        read_split(study / "cases.csv")


@pytest.mark.parametrize("format", ["auto", "brats"])
def test_a_bids_tree_is_not_read_as_flair_alone(tmp_path: Path, write_nifti: Write, format: str) -> None:
    for name in ("T1w", "ce-gadolinium_T1w", "FLAIR"):
        write_nifti(tmp_path / "sub-01/ses-1/anat" / f"sub-01_ses-1_{name}.nii.gz")
    write_nifti(tmp_path / "derivatives/manual/sub-01/ses-1/anat/sub-01_ses-1_label-lesion_mask.nii.gz")
    with pytest.raises(MetasegError, match="BIDS tree") as caught:
        read_cases(tmp_path, format=format)
    assert "metaseg data index" in str(caught.value.remedy)


def test_brats_names_that_look_like_bids_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "sub-01"
    folder.mkdir()
    for name in ("flair", "t1", "seg"):
        nib.save(nib.Nifti1Image(np.ones((4, 5, 3), np.int16), np.eye(4)), folder / f"sub-01_{name}.nii.gz")
    assert read_cases(tmp_path)[0].modalities == ("flair", "t1")
