from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from metaseg.cases import read_cases, summarise
from metaseg.errors import DataError, UsageError


def write(folder: Path, suffix: str, array: np.ndarray, spacing: tuple[float, float, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1])), folder / f"{folder.name}_{suffix}.nii.gz")


@pytest.fixture
def brats(tmp_path: Path) -> Path:
    """Two HGG cases; the second is larger, coarser and has no label."""
    image = np.zeros((10, 10, 8), np.int16)
    image[2:8, 2:8] = np.arange(1, 6 * 6 * 8 + 1).reshape(6, 6, 8)
    label = np.zeros((10, 10, 8), np.uint8)
    label[4, 4, 2:5] = 1
    label[5, 4, 2:4] = 2
    label[5, 5, 7] = 4
    first = tmp_path / "HGG" / "Brats18_CBICA_ALU_1"
    write(first, "t1ce", image, (1, 1, 2))
    write(first, "seg", label, (1, 1, 2))
    write(tmp_path / "HGG" / "Brats18_TCIA01_2_1", "t1ce", np.full((12, 10, 8), -3.5, np.float32), (2, 2, 2))
    return tmp_path


def test_one_case_by_hand(brats: Path) -> None:
    first, second = summarise(read_cases(brats)).cases
    assert (first.shape, first.spacing, first.unit, first.orientation) == ((8, 10, 10), (2, 1, 1), "mm", "RAS")
    assert first.tumour_slices == 4
    # Voxels of 2 mm³; 6 of the whole tumour, 4 of the core, 1 enhancing.
    assert first.volumes == pytest.approx({"WT": 0.012, "TC": 0.008, "ET": 0.002})
    assert first.volume_unit == "ml"
    values = first.intensities["t1ce"]
    assert [values.p1, values.p50, values.p99] == pytest.approx(np.percentile(np.arange(1, 289), [1, 50, 99]))
    assert (values.max, values.nonzero) == (288, pytest.approx(0.36))
    assert (second.tumour_slices, second.volumes) == (None, {})
    assert second.intensities["t1ce"].max == -3.5


def test_totals(brats: Path) -> None:
    calls: list[tuple[int, int]] = []
    summary = summarise(read_cases(brats), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
    assert summary.counts("cohort") == {"HGG": 2}
    assert summary.counts("site") == {"CBICA": 1, "TCIA01": 1}
    assert summary.counts("shape") == {"8 x 10 x 10": 1, "8 x 10 x 12": 1}
    assert summary.counts("spacing") == {"2 x 1 x 1": 1, "2 x 2 x 2": 1}
    assert summary.modalities() == {"t1ce": 2}
    assert summary.tumour_slices() == {"tumour": 4, "all": 8, "labelled_cases": 1}
    assert summary.intensities()["t1ce"]["max_min"] == -3.5
    assert summary.intensities()["t1ce"]["max_max"] == 288
    assert not summary.synthetic


def test_as_json_and_as_table(brats: Path) -> None:
    summary = summarise(read_cases(brats))
    content = json.loads(json.dumps(summary.to_dict(), allow_nan=False))
    assert content["totals"]["cases"] == content["totals"]["patients"] == 2
    assert content["totals"]["grade"] == {"HGG": 2}
    assert content["totals"]["volumes"]["ml"]["ET"]["median"] == pytest.approx(0.002)
    assert content["cases"][0]["intensities"]["t1ce"]["max"] == 288
    table = summary.table()
    assert list(table["id"]) == ["Brats18_CBICA_ALU_1", "Brats18_TCIA01_2_1"]
    assert table.loc[0, "WT_ml"] == pytest.approx(0.012)
    assert np.isnan(table.loc[1, "WT_ml"])
    assert table.loc[1, "t1ce_p50"] == -3.5
    assert table.loc[0, "spacing"] == "2 x 1 x 1"


def test_a_region_that_is_nowhere(brats: Path) -> None:
    folder = brats / "HGG" / "Brats18_CBICA_ALU_1"
    write(folder, "seg", np.zeros((10, 10, 8), np.uint8), (1, 1, 2))
    summary = summarise(read_cases(folder))
    assert summary.cases[0].tumour_slices == 0
    assert summary.volumes()["ml"]["ET"]["present"] == 0
    assert summary.to_dict()["totals"]["volumes"]["ml"]["ET"]["median"] is None


@pytest.mark.parametrize(("pixel_mm", "unit", "area"), [("", "pixel", 6), ("0.5", "mm2", 1.5)])
def test_separate_slices_have_areas(tmp_path: Path, pixel_mm: str, unit: str, area: float) -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[1:3, 2:5] = 1
    Image.fromarray(mask * 100).save(tmp_path / "a.png")
    (tmp_path / "index.csv").write_text(f"patient_id,image,mask,pixel_mm\np,a.png,a.png,{pixel_mm}\n")
    (case,) = summarise(read_cases(tmp_path)).cases
    assert (case.volume_unit, case.tumour_slices) == (unit, 1)
    assert case.volumes == pytest.approx({"WT": area})


def test_black_and_non_finite_images(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 4), np.float32)
    write(tmp_path / "a", "t1", image, (1, 1, 1))
    image[0, 0, :3] = (np.nan, np.inf, 5)
    write(tmp_path / "a", "t2", image, (1, 1, 1))
    (case,) = summarise(read_cases(tmp_path)).cases
    assert case.intensities["t1"].max == case.intensities["t1"].nonzero == 0
    assert case.intensities["t2"].max == 5


def test_bad_input(brats: Path) -> None:
    with pytest.raises(UsageError, match="no case"):
        summarise([])
    write(brats / "HGG" / "Brats18_CBICA_ALU_1", "seg", np.full((10, 10, 8), 7, np.uint8), (1, 1, 2))
    with pytest.raises(DataError, match="unexpected label values 7"):
        summarise(read_cases(brats))
