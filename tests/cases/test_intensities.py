"""Intensities that no network can use are named, and usual ones never."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseg.cases.check import check_dataset
from metaseg.cases.intensities import intensity_problem
from metaseg.cases.readers import read_cases
from metaseg.cases.summary import summarise
from metaseg.errors import DataError, DataWarning
from metaseg.store.prepare_case import PrepareOptions, arrange_case


def brain(dtype: type = np.float64) -> np.ndarray:
    rng = np.random.default_rng(0)
    array = np.zeros((20, 30, 30))
    array[3:17, 5:25, 5:25] = rng.normal(300, 60, (14, 20, 20)).clip(1)
    return array.astype(dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e200, 3.4e38, 1e31, 1e19, -1e10, 1e6, 1e7])
@pytest.mark.parametrize("voxels", [1, 20])
def test_a_few_spoiled_voxels_are_seen(value: float, voxels: int) -> None:
    array = brain()
    array.reshape(-1)[np.flatnonzero(array)[:voxels]] = value
    assert intensity_problem(array) is not None


@pytest.mark.parametrize("scale", [1e38, 1e300, 1e-38, 1e-300, -1e35])
def test_a_scale_beyond_32_bits_is_seen(scale: float) -> None:
    assert intensity_problem(brain() * scale) is not None


@settings(max_examples=100, deadline=None)
@given(
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e4, 1e20]),
    shift=st.sampled_from([0.0, -1024.0, 1.0, 100.0]),
    noise=st.sampled_from([0.0, 1e-4, 1.0, 5.0]),
    power=st.integers(1, 4),
)
def test_usual_images_are_left_alone(scale: float, shift: float, noise: float, power: int) -> None:
    # Raised to a power, a few voxels are far brighter than the rest, as vessels are.
    array = (brain() / 300) ** power * 300 + np.random.default_rng(1).normal(0, noise, (20, 30, 30)) + shift
    assert intensity_problem(array * scale) is None
    assert intensity_problem((array - array.mean()) / array.std()) is None


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_number_types_do_not_matter(dtype: type) -> None:
    assert intensity_problem(brain(dtype)) is None
    assert intensity_problem(np.zeros((2, 2), dtype)) is None
    assert intensity_problem(np.zeros((0, 2), dtype)) is None


def spoil(folder: Path, kind: str) -> Path:
    """A folder with one case whose t1ce is spoiled."""
    file = next(folder.rglob("*_t1ce.nii.gz"))
    image = nib.load(file)
    values = np.ascontiguousarray(image.get_fdata())
    if kind.startswith("slope"):
        nib.save(nib.Nifti1Image(values.astype(np.int16), image.affine), file.with_suffix(""))
        content = bytearray(file.with_suffix("").read_bytes())
        content[112:116] = struct.pack("<f", float(kind.partition(" ")[2]))
        file.unlink()
        file.with_suffix("").write_bytes(content)
        return file.with_suffix("")
    values.reshape(-1)[np.flatnonzero(values)[0]] = float(kind)
    nib.save(nib.Nifti1Image(values, image.affine), file)
    return file


@pytest.mark.parametrize("kind", ["1e300", "-1e200", "nan", "inf", "1e20", "slope 1e38", "slope inf", "slope -inf"])
def test_every_reader_names_case_and_file(write_cases, tmp_path: Path, kind: str) -> None:
    root = tmp_path / "data"
    shutil.copytree(write_cases(count=1), root)
    file = spoil(root, kind)
    (case,) = read_cases(root)
    with pytest.raises(DataError) as caught:
        arrange_case(case, PrepareOptions(case.modalities))
    assert caught.value.where == file
    assert case.id in caught.value.found or "scales" in caught.value.found
    report = check_dataset(root)
    assert [finding.file for finding in report.findings if finding.severity == "error"] == [
        file.relative_to(root).as_posix()
    ]
    if "inf" not in kind.partition(" ")[2]:
        with pytest.warns(DataWarning, match=f"case {case.id}: t1ce"):
            summarise([case])


def test_a_scale_of_nan_is_taken_as_1_and_said(write_cases, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(write_cases(count=1), root)
    before = read_cases(root)[0].read_images(("t1ce",))
    file = spoil(root, "slope nan")
    with pytest.warns(DataWarning, match=rf"(?s)scales intensities by NaN.*{file.name}"):
        after = read_cases(root)[0].read_images(("t1ce",))
    assert np.array_equal(before, after)
