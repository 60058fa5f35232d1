from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import metaseg.cases
from metaseg.cases import READERS, label_scheme, read_case_files, read_cases
from metaseg.cases.readers import Reader, find_cases, give_cases, register_reader
from metaseg.errors import DataError, UsageError


def loaded_after(code: str) -> set[str]:
    """Which of the heavy libraries a fresh interpreter has loaded after ``code``."""
    code += "; import sys; print(*{'numpy', 'nibabel', 'h5py', 'PIL', 'pandas', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_is_cheap() -> None:
    assert loaded_after("import metaseg.cases") == set()


def test_the_stub_lists_what_the_package_has() -> None:
    stub = Path(metaseg.cases.__file__).with_suffix(".pyi").read_text()
    assert sorted(line.split()[-1] for line in stub.splitlines()) == metaseg.cases.__all__
    assert [name for name in metaseg.cases.__all__ if not hasattr(metaseg.cases, name)] == []


def test_reading_needs_neither_torch_nor_pandas() -> None:
    loaded = loaded_after("import metaseg.cases as cases; [getattr(cases, name) for name in cases.__all__]")
    assert "nibabel" in loaded
    assert not loaded & {"torch", "pandas"}


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist") as caught:
        read_cases(tmp_path / "nowhere")
    assert caught.value.remedy


def test_a_file_instead_of_a_folder(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="this is a file"):
        read_cases(write_nifti(tmp_path / "a_t1.nii.gz"))


def test_nothing_found_lists_the_conventions(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no images")
    with pytest.raises(DataError, match="no case was found") as caught:
        read_cases(tmp_path)
    assert all(name in str(caught.value) for name in READERS)
    with pytest.raises(DataError, match="no case was found"):
        read_cases(tmp_path, format="brats")


def test_two_conventions_in_one_folder(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    write_case(tmp_path / "HGG/Brats18_CBICA_ALU_1")
    write_case(tmp_path / "MET/BraTS-MET-00001-000", ["-t1c", "-seg"])
    with pytest.raises(DataError, match="several conventions: brats2023, brats"):
        read_cases(tmp_path)
    assert [case.cohort for case in read_cases(tmp_path, format="brats2023")] == ["MET"]
    assert [case.cohort for case in read_cases(tmp_path, format="brats")] == ["HGG"]


def test_unknown_names(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    write_case(tmp_path / "a")
    with pytest.raises(UsageError, match="unknown format 'dicom'"):
        read_cases(tmp_path, format="dicom")
    with pytest.raises(UsageError, match="unknown label scheme"):
        read_cases(tmp_path, label_scheme="mine")


def test_a_single_case_folder(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    folder = write_case(tmp_path / "LGG/Brats18_TCIA10_152_1")
    (case,) = read_cases(folder)
    assert (case.id, case.cohort, case.site) == ("Brats18_TCIA10_152_1", "LGG", "TCIA10")


def test_a_relative_path(tmp_path: Path, write_case: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_case(tmp_path / "LGG/Brats18_TCIA10_152_1"))
    assert read_cases(".")[0].cohort == "LGG"


def test_required_modalities(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    write_case(tmp_path / "a")
    write_case(tmp_path / "b", ["_t1", "_seg"])
    assert [case.modalities for case in read_cases(tmp_path)] == [("flair", "t1", "t1ce", "t2"), ("t1",)]
    with pytest.raises(DataError, match="case b lacks modality t1ce"):
        read_cases(tmp_path, modalities=("t1", "t1ce"))


def test_doubled_case_ids(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    write_case(tmp_path / "one/a", ["_t1"])
    write_case(tmp_path / "two/a", ["_t1"])
    with pytest.raises(DataError, match="two cases are named a") as caught:
        read_cases(tmp_path)
    assert "one/a" in str(caught.value)
    assert "two/a" in str(caught.value)
    (case,), _ = find_cases(tmp_path, strict=False)
    assert case.doubled == (tmp_path / "two/a/a_t1.nii.gz",)


def test_classes_and_cohort(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    for name in ("HGG/a", "LGG/b"):
        write_case(tmp_path / name, ["_t1"])
    (case,) = read_cases(tmp_path, classes=("lgg",), cohort="source")
    assert (case.id, case.cohort, case.grade) == ("b", "source", "LGG")
    with pytest.raises(UsageError, match="unknown class of --classes 'met'") as caught:
        read_cases(tmp_path, classes=("MET", "HGG"))
    assert caught.value.expected == "one of HGG, LGG"


def test_label_scheme_given_as_object(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    write_case(tmp_path / "a")
    scheme = label_scheme("whole-lesion")
    assert read_cases(tmp_path, label_scheme=scheme)[0].scheme is scheme


class TestPhantomMarker:
    @pytest.fixture
    def phantoms(self, tmp_path: Path, write_case: Callable[..., Path]) -> Path:
        root = tmp_path / "data" / "phantoms"
        for name in ("hgg_000", "met_000"):
            write_case(root / name, ["_t1", "_seg"])
        content = {"cases": {"hgg_000": {"cohort": "HGG", "grade": "HGG"}, "met_000": {"cohort": "MET"}}}
        (root / "metaseg-phantoms.json").write_text(json.dumps(content))
        return root

    def test_cases_are_synthetic_and_of_the_markers_cohort(self, phantoms: Path) -> None:
        found = [(case.synthetic, case.cohort, case.grade) for case in read_cases(phantoms)]
        assert found == [(True, "HGG", "HGG"), (True, "MET", None)]

    @pytest.mark.parametrize("given", ["..", "met_000", "../.."])
    def test_from_above_and_from_below(self, phantoms: Path, given: str) -> None:
        assert all(case.synthetic for case in read_cases(phantoms / given))

    def test_real_cases_beside_phantoms_are_real(self, phantoms: Path, write_case: Callable[..., Path]) -> None:
        write_case(phantoms / "real/HGG/Brats18_CBICA_ALU_1")
        assert not read_cases(phantoms / "real")[0].synthetic

    def test_a_marker_without_a_table(self, phantoms: Path) -> None:
        (phantoms / "metaseg-phantoms.json").write_text("{}")
        assert [(case.synthetic, case.cohort) for case in read_cases(phantoms)] == [(True, "unknown")] * 2

    @pytest.mark.parametrize("content", ["{", "[]", '{"cases": 3}'])
    def test_a_damaged_marker(self, phantoms: Path, content: str) -> None:
        (phantoms / "metaseg-phantoms.json").write_text(content)
        with pytest.raises(DataError, match="phantom marker"):
            read_cases(phantoms)


class TestCaseFiles:
    def test_named_modalities(self, tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
        files = {"T1Gd": write_nifti(tmp_path / "a.nii.gz"), "flair": write_nifti(tmp_path / "b.nii")}
        case = read_case_files(files, id="patient 1")
        assert (case.id, case.modalities, case.label) == ("patient 1", ("t1ce", "flair"), None)
        assert case.read_images(["flair", "t1ce"]).shape == (2, 3, 5, 4)

    def test_names_that_tell(self, tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
        files = [write_nifti(tmp_path / f"BraTS-MET-00110-000-{name}.nii.gz") for name in ("t1n", "t1c", "t2w", "t2f")]
        case = read_case_files(files)
        assert (case.id, set(case.modalities)) == ("BraTS-MET-00110-000", {"flair", "t1", "t1ce", "t2"})
        assert read_case_files({"t1": tmp_path / "BraTS-MET-00110-000-t1n.nii.gz"}).id == "BraTS-MET-00110-000"

    def test_a_label(self, tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
        file = write_nifti(tmp_path / "x.nii.gz")
        case = read_case_files({"t1ce": file}, label=file, label_scheme="whole-lesion", cohort="MET")
        assert (case.id, case.cohort, int(case.read_label().max())) == ("x", "MET", 1)

    def test_bad_files(self, tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
        file = write_nifti(tmp_path / "scan.nii.gz")
        with pytest.raises(UsageError, match="no image file"):
            read_case_files([])
        with pytest.raises(DataError, match=r"does not give its modality[\s\S]*t1ce=scan\.nii\.gz"):
            read_case_files([file])
        with pytest.raises(DataError, match="does not exist"):
            read_case_files({"t1": tmp_path / "no.nii.gz"})
        with pytest.raises(DataError, match="t1ce occurs 2 times"):
            read_case_files({"t1ce": file, "t1gd": file})
        with pytest.raises(DataError, match="cannot read files named"):
            read_case_files({"t1": write_nifti(tmp_path / "a.nii").rename(tmp_path / "a.dcm")})
        with pytest.raises(UsageError, match="unknown label scheme"):
            read_case_files({"t1": file}, label_scheme="mine")


@pytest.mark.parametrize("name", [b"caf\xe9", b"\xff\xfe", "café".encode(), "名前".encode()])
def test_names_that_are_no_text_can_be_written(name, tmp_path):
    folder = tmp_path / "set" / "glioma"
    folder.mkdir(parents=True)
    values = np.random.default_rng(0).integers(1, 255, (16, 16), dtype=np.uint8)
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name + b".png"))
    Image.fromarray(values).save(path)
    (case,) = read_cases(folder.parent, format="image-folder")
    for text in (case.id, case.patient, case.cohort):
        assert text.encode("utf-8")
    assert case.files == (path,)
    assert case.read_images(case.modalities).shape == (1, 1, 16, 16)


def test_cases_of_python_are_read_like_a_folder(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    for name in ("P1", "P2"):
        write_case(tmp_path / "set" / name, ("_t1ce", "_flair"))
    cases = read_cases(tmp_path / "set")
    given = give_cases(cases[:1])
    assert given == give_cases(cases[:1]) != give_cases(cases)
    assert read_cases(given) == cases[:1]
    assert read_cases(given, label_scheme="brats2023")[0].scheme.name == "brats2023"
    with pytest.raises(DataError, match="give the same cases again"):
        read_cases(Path("cases-given-in-python-0"))


def test_reader_of_another_package_is_tried(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    write_case(tmp_path / "set" / "P1", ("_t1ce",))
    cases = read_cases(tmp_path / "set")
    register_reader(Reader("notes", "a file notes.txt", lambda path: (path / "notes.txt").is_file(), lambda *_: cases))
    try:
        (tmp_path / "notes.txt").touch()
        assert read_cases(tmp_path, format="notes") == cases
        with pytest.raises(DataError, match="several conventions: brats, notes"):
            read_cases(tmp_path)
        with pytest.raises(ValueError, match="already"):
            register_reader(READERS.get("notes"))
        with pytest.raises(UsageError, match="did you mean 'notes'"):
            read_cases(tmp_path, format="note")
    finally:
        READERS._entries.pop("notes")
