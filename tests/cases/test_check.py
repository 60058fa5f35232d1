"""The dataset check: each kind of damage is found, named and alone; an intact set yields nothing."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from metaseg.cases.check import KINDS, Finding, check_dataset
from metaseg.cases.check.inspect import distinct_values
from metaseg.errors import DataError, UsageError

SHAPE = (24, 20, 16)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
MODALITIES = ("flair", "t1", "t1ce", "t2")


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array, affine).to_filename(path)


def write_case(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    brain = np.zeros(SHAPE, dtype=bool)
    brain[2:-2, 2:-2, 2:-2] = True
    for modality in MODALITIES:
        image = np.where(brain, rng.integers(1, 1000, SHAPE), 0).astype(np.int16)
        write(folder / f"{folder.name}_{modality}.nii.gz", image)
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[3:9, 3:9, 3:7], label[4:7, 4:7, 4:6], label[5, 5, 5] = 2, 4, 1
    write(folder / f"{folder.name}_seg.nii.gz", label)


def name(number: int) -> str:
    return f"Brats18_CBICA_AA{number}_1"


@pytest.fixture
def data(tmp_path):
    """Three intact cases."""
    for number in range(3):
        write_case(tmp_path / "HGG" / name(number), number)
    return tmp_path


def file(data: Path, what: str, number: int = 1) -> Path:
    return data / "HGG" / name(number) / f"{name(number)}_{what}.nii.gz"


def load(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj).copy()


def only(data: Path, **arguments: object) -> Finding:
    """The one finding, which must be about case 1."""
    report = check_dataset(data, **arguments)
    assert len(report.findings) == 1, report.findings
    (finding,) = report.findings
    assert finding.case == name(1)
    assert finding.severity == KINDS[finding.kind].severity
    assert report.ok == (finding.severity == "warning")
    return finding


def test_intact_data_yields_nothing(data):
    report = check_dataset(data)
    assert (report.findings, report.cases, report.ok, report.format) == ((), 3, True, "brats")


def test_truncated_file(data):
    path = file(data, "t2")
    path.write_bytes(path.read_bytes()[:-200])
    finding = only(data)
    assert finding.kind == "unreadable"
    assert finding.file == f"HGG/{name(1)}/{name(1)}_t2.nii.gz"


def test_damaged_byte_that_only_the_checksum_shows(data):
    path = file(data, "t1")
    # Stored blocks: a flipped byte inside stays a valid stream, and nibabel alone reads it without complaint.
    content = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert load(path).shape == SHAPE
    assert only(data).kind == "unreadable"


def test_wrong_trailing_length(data):
    path = file(data, "t1")
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    assert only(data).kind == "unreadable"


@pytest.mark.parametrize("content", [b"", b"not an image" * 100])
def test_file_of_another_kind(data, content):
    file(data, "t2").write_bytes(content)
    assert only(data).kind == "header"


def test_degenerate_orientation(data):
    path = file(data, "t2")
    image = nib.load(path)
    header = image.header.copy()
    header["sform_code"], header["qform_code"] = 1, 0
    header["srow_x"] = header["srow_y"] = (1, 0, 0, 0)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(raw)))
    finding = only(data)
    assert finding.kind == "header"
    assert "orientation" in finding.found


def test_four_dimensions(data):
    write(file(data, "t2"), np.stack([load(file(data, "t2"))] * 2, axis=-1))
    finding = only(data)
    assert finding.kind == "header"
    assert "(24, 20, 16, 2)" in finding.found


def test_single_slices_where_volumes_are_expected(data):
    for what in (*MODALITIES, "seg"):
        write(file(data, what), load(file(data, what))[:, :, 5])
    finding = only(data)
    assert finding.kind == "dimensions"
    assert "single slice" in finding.found


def test_other_shape(data):
    write(file(data, "t2"), load(file(data, "t2"))[:, :, :-1])
    finding = only(data)
    assert finding.kind == "shape"
    assert "24 x 20 x 15" in finding.found


def test_label_of_other_shape(data):
    write(file(data, "seg"), load(file(data, "seg"))[:-1])
    finding = only(data)
    assert finding.kind == "shape"
    assert finding.file.endswith("_seg.nii.gz")


@pytest.mark.parametrize(("shift", "found"), [(0.0009, False), (0.0011, True)])
def test_shifted_image(data, shift, found):
    affine = AFFINE.copy()
    affine[2, 3] = shift
    write(file(data, "t1ce"), load(file(data, "t1ce")), affine)
    if found:
        assert only(data).kind == "affine"
    else:
        assert check_dataset(data).findings == ()


def test_orientation_within_a_case_may_differ_if_voxels_coincide(data):
    path = file(data, "t1ce")
    image = nib.as_closest_canonical(nib.load(path))
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    image.to_filename(path)
    assert check_dataset(data).findings == ()


@pytest.mark.parametrize("size", [25.0, 0.001])
def test_implausible_spacing(data, size):
    for what in (*MODALITIES, "seg"):
        write(file(data, what), load(file(data, what)), AFFINE @ np.diag([1, 1, size, 1]))
    finding = only(data)
    assert finding.kind == "spacing"
    assert f"{size:g} x 1 x 1 mm" in finding.found


def test_oblique_axes_are_a_warning(data):
    angle = np.radians(5)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    for what in (*MODALITIES, "seg"):
        write(file(data, what), load(file(data, what)), turn @ AFFINE)
    finding = only(data)
    assert (finding.kind, finding.severity) == ("oblique", "warning")
    assert "5.0 degrees" in finding.found


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("what", ["t1", "seg"])
def test_non_finite(data, what, value):
    array = load(file(data, what)).astype(np.float32)
    array[0, 0, 0] = value
    write(file(data, what), array)
    finding = only(data)
    assert finding.kind == "non-finite"
    assert f"_{what}." in finding.file


@pytest.mark.parametrize("value", [0, 7])
def test_constant_image(data, value):
    write(file(data, "t1"), np.full(SHAPE, value, dtype=np.int16))
    finding = only(data)
    assert finding.kind == "constant"
    assert f"{value} everywhere" in finding.found


def test_label_of_another_convention(data):
    label = load(file(data, "seg"))
    label[label == 4] = 3
    write(file(data, "seg"), label)
    finding = only(data)
    assert finding.kind == "label-values"
    assert "unexpected label values 3" in finding.found
    assert "brats2023" in finding.remedy
    schemes = {found.kind for found in check_dataset(data, label_scheme="brats2023").findings}
    assert schemes == {"label-values"}, "now the other two cases hold an unknown 4"


def test_label_that_fits_no_convention(data):
    write(file(data, "seg"), load(file(data, "seg")) * np.float32(0.5))
    finding = only(data)
    assert finding.kind == "label-values"
    assert "0.5" in finding.found
    assert "--label-scheme" not in finding.remedy


def test_label_outside_the_brain(data):
    label = load(file(data, "seg"))
    # 144 of the label's voxels lie in the brain; one more is within the tolerance of 1 %, two more are not.
    assert np.count_nonzero(label) == 144
    label[0, 0, 0] = 2
    write(file(data, "seg"), label)
    assert check_dataset(data).findings == ()
    label[0, 0, 1] = 2
    write(file(data, "seg"), label)
    finding = only(data)
    assert finding.kind == "label-outside"
    assert f"{2 / 146:.1%}" in finding.found


def test_empty_label_is_a_warning(data):
    write(file(data, "seg"), np.zeros(SHAPE, dtype=np.uint8))
    assert only(data).kind == "label-empty"


def test_a_missing_label_is_an_error_unless_allowed(data):
    file(data, "seg").unlink()
    assert (only(data).kind, only(data).severity) == ("label-missing", "error")
    (finding,) = check_dataset(data, allow_missing=True).findings
    assert finding.severity == "warning"
    file(data, "seg", 0).unlink()
    file(data, "seg", 2).unlink()
    (finding,) = check_dataset(data).findings
    assert (finding.severity, finding.found) == ("error", "none of the 3 cases has a label")


def test_missing_modality(data):
    file(data, "t2").unlink()
    finding = only(data)
    assert finding.kind == "modality-missing"
    assert finding.found.startswith("t2 missing")
    assert check_dataset(data, modalities=["flair", "T1"]).findings == ()


def test_modality_that_no_case_has(data):
    for number in range(3):
        file(data, "t2", number).unlink()
    assert check_dataset(data).findings == ()
    assert len(check_dataset(data, modalities=MODALITIES).errors) == 3


def test_doubled_modality(data):
    shutil.copy(file(data, "t2"), str(file(data, "t2")).removesuffix(".gz") + ".bz2")
    assert only(data).kind == "modality-doubled"


def test_doubled_id(data):
    write_case(data / "LGG" / name(1), 7)
    finding = only(data)
    assert finding.kind == "id-doubled"
    assert finding.file.startswith("LGG/")


def test_image_copied_to_another_modality(data):
    # Written anew, so that the files' bytes differ and only the voxels agree.
    content = gzip.decompress(file(data, "t1").read_bytes())
    file(data, "t2").write_bytes(gzip.compress(content, compresslevel=1))
    finding = only(data)
    assert finding.kind == "same-modality"
    assert finding.found == "t1 and t2 are the same image"


def test_copy_in_another_number_type_and_orientation(data):
    image = nib.load(file(data, "t1"))
    turned = nib.as_closest_canonical(nib.Nifti1Image(load(file(data, "t1")).astype(np.float64), image.affine))
    turned.to_filename(file(data, "t2"))
    assert only(data).kind == "same-modality"


def test_case_copied_under_another_name(data):
    for what in (*MODALITIES, "seg"):
        shutil.copy(file(data, what, 2), file(data, what, 1))
    finding = only(data)
    assert finding.kind == "same-case"
    assert f"{name(1)} and {name(2)}" in finding.found
    assert "3 more images" in finding.found


@pytest.fixture
def decathlon(tmp_path):
    """Two cases in 4-D files, described as the Medical Segmentation Decathlon does."""
    entries = []
    for number in range(2):
        rng = np.random.default_rng(number)
        label = np.zeros(SHAPE, dtype=np.uint8)
        label[3:6, 3:6, 3:6], label[4, 4, 4] = 1, 3
        name = f"BRATS_{number:03}.nii.gz"
        image = np.zeros((*SHAPE, 4), dtype=np.float32)
        image[1:-1, 1:-1, 1:-1] = rng.integers(1, 900, image[1:-1, 1:-1, 1:-1].shape)
        write(tmp_path / "imagesTr" / name, image)
        write(tmp_path / "labelsTr" / name, label)
        entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    description = {
        "name": "BRATS",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "training": entries,
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    return tmp_path


def test_intact_4d_data_yields_nothing(decathlon):
    report = check_dataset(decathlon)
    assert (report.findings, report.cases, report.format) == ((), 2, "nnunet")


def test_damaged_4d_file_is_reported_once(decathlon):
    path = decathlon / "imagesTr" / "BRATS_001.nii.gz"
    path.write_bytes(path.read_bytes()[:-100])
    (finding,) = check_dataset(decathlon).findings
    assert (finding.kind, finding.case, finding.file) == ("unreadable", "BRATS_001", "imagesTr/BRATS_001.nii.gz")


def test_channel_copied_within_a_4d_file(decathlon):
    path = decathlon / "imagesTr" / "BRATS_001.nii.gz"
    array = load(path)
    array[..., 2] = array[..., 1]
    write(path, array)
    (finding,) = check_dataset(decathlon).findings
    assert (finding.kind, finding.found) == ("same-modality", "t1 and t1ce are the same image")


def test_one_bad_case_never_stops_the_pass(data, monkeypatch):
    def explode(self):
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("metaseg.cases.volumes.NiftiVolume.read", explode)
    report = check_dataset(data)
    assert report.cases == 3
    assert {finding.kind for finding in report.findings} == {"unreadable"}
    assert len(report.findings) == 15
    assert "RuntimeError: unforeseen" in report.findings[0].found


def test_report_is_stable_and_the_same_in_several_processes(data):
    file(data, "t2").unlink()
    write(file(data, "seg", 2), np.zeros(SHAPE, dtype=np.uint8))
    write(file(data, "t1", 0), np.zeros(SHAPE, dtype=np.int16))
    calls: list[tuple[int, int]] = []
    report = check_dataset(data, progress=lambda done, total: calls.append((done, total)))
    assert [finding.kind for finding in report.findings] == ["constant", "modality-missing", "label-empty"]
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert check_dataset(data, jobs=2) == report


def test_every_volume_is_decoded_once(data, monkeypatch):
    from metaseg.cases.volumes import NiftiVolume

    read, decoded = NiftiVolume.read, []
    monkeypatch.setattr(NiftiVolume, "read", lambda self: (decoded.append(self.path), read(self))[1])
    check_dataset(data)
    assert len(decoded) == len(set(decoded)) == 15


def test_json_and_rows_say_the_same(data):
    file(data, "t2").unlink()
    report = check_dataset(data)
    content = json.loads(report.to_json())
    assert content["findings"] == report.to_rows()
    assert (content["ok"], content["errors"], content["warnings"], content["cases"]) == (False, 1, 0, 3)


def test_wrong_arguments_are_refused(data, tmp_path):
    with pytest.raises(UsageError, match="unknown format"):
        check_dataset(data, format="dicom")
    with pytest.raises(DataError, match="does not exist"):
        check_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32])
def test_distinct_values_are_numpys(dtype):
    array = np.random.default_rng(0).integers(0, 5, (6, 7, 8)).astype(dtype)
    array[0, 0, 0] = 100
    if np.issubdtype(dtype, np.signedinteger):
        array[0, 0, 1] = -3
    np.testing.assert_array_equal(distinct_values(array), np.unique(array))
