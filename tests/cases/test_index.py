"""A first table from names alone: published layouts and home-made ones, as empty files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metaseg.cases import read_cases
from metaseg.cases.readers.index import index_folder
from metaseg.errors import DataError, UsageError

FULL = {"flair", "t1", "t1ce", "t2", "label"}


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


LAYOUTS: dict[str, tuple[list[str], dict[str, tuple[str, set[str]]]]] = {
    # Layout to its files, and to the cases expected: id to patient and columns.
    "open_ms": (
        [f"patient07/{name}.nii.gz" for name in ("FLAIR", "T1", "T1POST", "T2", "GOLD_STANDARD")],
        {"patient07": ("patient07", FULL)},
    ),
    "open_ms, resampled": (
        [f"patient07/{name}.nii.gz" for name in ("FLAIR", "T1W", "T1WKS", "T2W", "consensus_gt", "brainmask")],
        {"patient07": ("patient07", FULL)},
    ),
    "BIDS": (
        [
            *[
                f"sub-01/ses-{n}/anat/sub-01_ses-{n}_{name}.nii.gz"
                for n in "12"
                for name in ("T1w", "ce-gd_T1w", "FLAIR", "T2w")
            ],
            *[
                f"derivatives/manual/sub-01/ses-{n}/anat/sub-01_ses-{n}_space-T1w_label-lesion_mask.nii.gz"
                for n in "12"
            ],
            "derivatives/prep/sub-01/ses-1/anat/sub-01_ses-1_desc-brain_mask.nii.gz",
            "derivatives/prep/sub-01/ses-1/anat/sub-01_ses-1_desc-preproc_T1w.nii.gz",
            "sub-01/ses-1/dwi/sub-01_ses-1_dwi.nii.gz",
        ],
        {f"sub-01_ses-{n}": ("sub-01", FULL) for n in "12"},
    ),
    "UPENN-GBM": (
        [
            *[
                f"images_structural/UPENN-GBM-00002_11/UPENN-GBM-00002_11_{name}.nii.gz"
                for name in ("FLAIR", "T1", "T1GD", "T2")
            ],
            "images_structural_unstripped/UPENN-GBM-00002_11/UPENN-GBM-00002_11_T1_unstripped.nii.gz",
            "images_segm/UPENN-GBM-00002_11_segm.nii.gz",
            "automated_segm/UPENN-GBM-00002_11_automated_approx_segm.nii.gz",
            "images_DTI/UPENN-GBM-00002_11/UPENN-GBM-00002_11_DTI_FA.nii.gz",
        ],
        {"UPENN-GBM-00002_11": ("UPENN-GBM-00002", FULL)},
    ),
    "UCSF-PDGM": (
        [
            f"UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_{name}.nii.gz"
            for name in (
                *(
                    "T1",
                    "T1_bias",
                    "T1c",
                    "T1c_bias",
                    "T2",
                    "T2_bias",
                    "FLAIR",
                    "FLAIR_bias",
                    "ADC",
                    "SWI",
                    "DTI_eddy_FA",
                ),
                *("brain_segmentation", "brain_parenchyma_segmentation", "tumor_segmentation"),
            )
        ],
        {"UCSF-PDGM-0004": ("UCSF-PDGM-0004", FULL)},
    ),
    "labels in their own folder": (
        ["images/P1_T1.nii", "images/P1_T1+C.nii", "images/p1_t2-flair.nii", "labels/P1.nii", "labels/P2.nii"],
        {"P1": ("P1", {"t1", "t1ce", "flair", "label"})},
    ),
    "modalities in their own folders": (
        ["FLAIR/001.nii.gz", "t1ce/001.nii.gz", "masks/001.nii.gz", "FLAIR/002.nii.gz"],
        {"001": ("001", {"flair", "t1ce", "label"}), "002": ("002", {"flair"})},
    ),
    "flat, modality first": (
        ["T1_CE_case12.nrrd", "FLAIR_case12.mha", "tumor_mask_case12.nrrd"],
        {"case12": ("case12", {"t1ce", "flair", "label"})},
    ),
    "sessions in folders": (
        [f"P1/{session}/P1_{name}.nii.gz" for session in ("visit1", "visit2") for name in ("CE", "T2W", "ROI")],
        {f"P1_visit{n}": ("P1", {"t1ce", "t2", "label"}) for n in (1, 2)},
    ),
    "hospitals with equal numbers": (
        ["Oslo/001/T1.nii.gz", "Bergen/001/T1.nii.gz"],
        {"Bergen_001": ("Bergen_001", {"t1"}), "Oslo_001": ("Oslo_001", {"t1"})},
    ),
    "registered and processed": (
        [
            "a1/a1_T1_to_FLAIR.nii.gz",
            "a1/a1_flair_n4_brain.nii.gz",
            "a1/a1_brain_tumor_seg.nii.gz",
            "a1/a1_brain_mask.nii.gz",
        ],
        {"a1": ("a1", {"t1", "flair", "label"})},
    ),
    "a folder of a disease": (
        ["tumor/p3/T2.nii.gz", "tumor/p3/seg.nii.gz"],
        {"tumor_p3": ("tumor_p3", {"t2", "label"})},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str) -> None:
    names, expected = LAYOUTS[layout]
    index = index_folder(touch(tmp_path, *names))
    assert {case.told["case"]: (case.told["patient"], set(case.files)) for case in index.cases} == expected
    files = {file for case in index.cases for file in case.files.values()}
    assert files | set(index.left_out) == {tmp_path / name for name in names}
    assert not files & set(index.left_out)
    for bad in ("brain_mask", "brainmask", "brain_segmentation", "automated", "unstripped", "_bias", "desc-preproc"):
        assert not [file for file in files if bad in file.name]
    # The reader agrees with the writer.
    (tmp_path / "cases.csv").write_text(index.to_csv(tmp_path))
    cases = read_cases(tmp_path)
    assert {case.id: (case.patient, {*case.images, *(["label"] if case.label else [])}) for case in cases} == expected


def test_columns_that_names_tell(tmp_path: Path) -> None:
    names = [
        f"{cohort}/UPENN-GBM-0000{n}_11/UPENN-GBM-0000{n}_11_{name}.nii.gz"
        for n, cohort in ((1, "HGG"), (2, "LGG"))
        for name in ("T1", "seg")
    ]
    index = index_folder(touch(tmp_path, *names))
    assert index.columns == ("case", "patient", "session", "cohort", "t1", "label", "label_scheme")
    assert index.to_csv(tmp_path).splitlines()[1] == ",".join(
        ["UPENN-GBM-00001_11", "UPENN-GBM-00001", "11", "HGG", *names[:2], "brats"]
    )


def test_two_files_for_one_place_are_both_left_out(tmp_path: Path) -> None:
    names = ["sub-1/anat/sub-1_run-1_T1w.nii.gz", "sub-1/anat/sub-1_run-2_T1w.nii.gz", "sub-1/anat/sub-1_FLAIR.nii.gz"]
    index = index_folder(touch(tmp_path, *names))
    assert set(index.cases[0].files) == {"flair"}
    assert set(index.left_out.values()) == {"one of 2 files for the t1 of its case"}


@pytest.mark.parametrize(
    ("names", "patterns", "expected"),
    [
        (["a/T1.nii", "a/x.nii"], ["{case}/{modality}.nii"], {"a": {"t1", "x"}}),
        (["a_b_T1GD.nii.gz"], ["{case}_{modality}.nii.gz"], {"a_b": {"t1ce"}}),
        (
            ["p/1/7.nii", "p/1/roi.nii"],
            ["t1ce={patient}/{session}/7.nii", "label={patient}/{session}/roi.nii"],
            {"p_1": {"t1ce", "label"}},
        ),
        (["x/y/p1/p1-adc.nii"], ["**/{case}/{case}-{modality}.nii"], {"p1": {"adc"}}),
        (["p1/2020_t2_ax.nii"], ["{case}/*_{modality}_ax.nii"], {"p1": {"t2"}}),
        (["p1/seg.nii", "p1/t2.nii"], ["{case}/{modality}.nii"], {"p1": {"label", "t2"}}),
        (["A/p[1]/t2.NII"], [".\\{site}\\{case}\\{modality}.nii"], {"p[1]": {"t2"}}),
    ],
)
def test_patterns(tmp_path: Path, names: list[str], patterns: list[str], expected: dict[str, set[str]]) -> None:
    index = index_folder(touch(tmp_path, *names, "other.nii"), patterns)
    assert {case.told["case"]: set(case.files) for case in index.cases} == expected
    assert index.left_out == {tmp_path / "other.nii": "no pattern fits"}


@pytest.mark.parametrize(
    "pattern",
    ["", "*.nii", "{modality}.nii", "{case}.nii", "{case}/{mod}.nii", "t1={case}/{modality}.nii", "{case", "{case}/{}"],
)
def test_patterns_that_cannot_be_understood(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(UsageError, match="cannot be understood"):
        index_folder(touch(tmp_path, "a/T1.nii"), [pattern])


@pytest.mark.parametrize("names", [[], ["notes.txt"], ["T1.nii.gz"], ["p1/mask.nii.gz"], ["p1/scan.nii.gz"]])
def test_nothing_found(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(DataError, match="no case was found") as caught:
        index_folder(touch(tmp_path, *names))
    assert "--pattern" in str(caught.value.remedy)
    with pytest.raises(DataError, match="no such folder"):
        index_folder(tmp_path / "none")


def test_a_table_elsewhere_has_whole_paths(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    write_nifti(tmp_path / "data" / "p1" / "T1.nii.gz", np.full((4, 5, 3), 3, np.int16))
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/ms.csv").write_text(index_folder(tmp_path / "data").to_csv(tmp_path / "tables"))
    (case,) = read_cases(tmp_path / "tables/ms.csv")
    assert case.read_images(["t1"]).max() == 3
