"""Generated patients in every layout that metaseg reads, small enough that a verb takes a fraction of a second."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from PIL import Image

MODALITIES = ("flair", "t1", "t1ce", "t2")
SHAPE = (24, 20, 10)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
SIDE = 24
KINDS = ("glioma", "meningioma")
_BRIGHTNESS = {"flair": (150, 60, -50), "t1": (-60, -80, -90), "t1ce": (0, 250, -80), "t2": (120, 40, 200)}
"""What edema, enhancing tumour and necrosis add to a brain of 200."""


def subject(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Images by modality and the outline (1 necrosis, 2 edema, 3 enhancing), ``SHAPE`` each; 0 outside the brain."""
    rng = np.random.default_rng([seed, 12])
    centre = np.array([12, 10, 5]) + rng.integers(-2, 3, 3)
    offset = np.indices(SHAPE) - centre[:, None, None, None]
    distance = np.sqrt(((offset / np.array([1, 1, 0.6])[:, None, None, None]) ** 2).sum(axis=0))
    label = np.zeros(SHAPE, np.uint8)
    label[distance < 5.5], label[distance < 4], label[distance < 1.8] = 2, 3, 1
    brain = np.zeros(SHAPE, bool)
    brain[3:-3, 3:-3, 1:-1] = True
    label *= brain
    images = {}
    for modality, (edema, enhancing, necrosis) in _BRIGHTNESS.items():
        image = 200 + 20 * rng.standard_normal(SHAPE)
        image += edema * (label == 2) + enhancing * (label == 3) + necrosis * (label == 1)
        images[modality] = np.where(brain, np.clip(np.rint(image), 1, None), 0).astype(np.int16)
    return images, label


def write_volume(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """A NIfTI file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def write_brats_case(
    folder: Path, case: str, seed: int, modalities: tuple[str, ...] = MODALITIES, label: bool = True
) -> Path:
    """``<folder>/<case>_<modality>.nii.gz`` and ``_seg``, with enhancing tumour as 4."""
    images, outline = subject(seed)
    for modality in modalities:
        write_volume(folder / f"{case}_{modality}.nii.gz", images[modality])
    if label:
        write_volume(folder / f"{case}_seg.nii.gz", np.where(outline == 3, 4, outline).astype(np.uint8))
    return folder


def brats(root: Path, count: int = 2) -> Path:
    """A folder per case, below ``HGG``."""
    for number in range(count):
        case = f"Brats18_X_{number}_1"
        write_brats_case(root / "HGG" / case, case, number)
    return root


def brats2023(root: Path, count: int = 2) -> Path:
    """A folder per case, metastases."""
    suffixes = {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w"}
    for number in range(count):
        case = f"BraTS-MET-{number + 1:05}-000"
        images, label = subject(number)
        for modality, suffix in suffixes.items():
            write_volume(root / case / f"{case}-{suffix}.nii.gz", images[modality])
        write_volume(root / case / f"{case}-seg.nii.gz", label)
    return root


def nnunet(root: Path, count: int = 2) -> Path:
    """nnU-Net's raw format: a file per channel and a ``dataset.json``."""
    labels = {"background": 0, "necrotic core": 1, "edema": 2, "enhancing tumor": 3}
    description = {
        "channel_names": {str(index): name for index, name in enumerate(("FLAIR", "T1", "T1Gd", "T2"))},
        "labels": labels,
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    write_json(root / "dataset.json", description)
    for number in range(count):
        images, label = subject(number)
        for index, modality in enumerate(MODALITIES):
            write_volume(root / "imagesTr" / f"P{number}_{index:04}.nii.gz", images[modality])
        write_volume(root / "labelsTr" / f"P{number}.nii.gz", label)
    return root


def decathlon(root: Path, count: int = 2) -> Path:
    """The Medical Segmentation Decathlon: a 4-D file per case, listed in ``dataset.json``."""
    description = {
        "name": "BRATS",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "training": [
            {"image": f"./imagesTr/BRATS_{number:03}.nii.gz", "label": f"./labelsTr/BRATS_{number:03}.nii.gz"}
            for number in range(count)
        ],
        "test": [],
    }
    write_json(root / "dataset.json", description)
    for number in range(count):
        images, label = subject(number)
        stack = np.stack([images[modality] for modality in MODALITIES], axis=-1)
        write_volume(root / "imagesTr" / f"BRATS_{number:03}.nii.gz", stack)
        write_volume(root / "labelsTr" / f"BRATS_{number:03}.nii.gz", np.array([0, 2, 1, 3], np.uint8)[label])
    return root


def table(root: Path, count: int = 2) -> Path:
    """Volumes under names that no convention covers, listed in ``cases.csv``."""
    rows = []
    for number in range(count):
        images, label = subject(number)
        row = {"case": f"case{number}", "patient": f"pat{number}", "cohort": "MET", "label_scheme": "brats2023"}
        for modality in MODALITIES:
            row[modality] = f"scans/{number}/{modality.upper()}_reg.nii.gz"
            write_volume(root / row[modality], images[modality])
        row["label"] = f"outlines/{number}.nii.gz"
        write_volume(root / row["label"], label)
        rows.append(row)
    write_table(root / "cases.csv", rows)
    return root


def picture(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A slice and its outline, ``(SIDE, SIDE)`` ``uint8``: a bright disc on the left or, of the second kind, right."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    down, across = np.indices((SIDE, SIDE))
    middle = 7 if kind == KINDS[0] else SIDE - 8
    mask = (down - rng.integers(8, 16)) ** 2 + (across - middle - rng.integers(-1, 2)) ** 2 < 16
    grey = 70 + 12 * rng.standard_normal((SIDE, SIDE)) + 130 * mask
    grey[[0, -1]] = grey[:, [0, -1]] = 0
    return np.clip(grey, 0, 255).astype(np.uint8), (255 * mask).astype(np.uint8)


def slices(root: Path, count: int = 2, each: int = 2) -> Path:
    """Pictures and masks listed in ``index.csv``, ``count`` patients of each kind."""
    rows = []
    for kind in KINDS:
        for patient in range(count):
            for one in range(each):
                grey, mask = picture(kind, 10 * patient + one)
                name = f"{kind}{patient}-{one}.png"
                for folder, array in (("images", grey), ("masks", mask)):
                    (root / folder).mkdir(parents=True, exist_ok=True)
                    Image.fromarray(array).save(root / folder / name)
                row = {"patient_id": f"{kind}{patient}", "image": f"images/{name}", "mask": f"masks/{name}"}
                rows.append(row | {"class": kind})
    write_table(root / "index.csv", rows)
    return root


def cheng_mat(root: Path, count: int = 2) -> Path:
    """Cheng's MATLAB files, two slices of each patient, ``count`` patients of each kind."""
    root.mkdir(parents=True, exist_ok=True)
    number = 0
    for kind, code in (("glioma", 2), ("meningioma", 1)):
        for patient in range(count):
            for one in range(2):
                number += 1
                grey, mask = picture(kind, 10 * patient + one)
                write_mat(root / f"{number}.mat", grey.astype(np.int16), mask > 0, f"{kind[0].upper()}{patient}", code)
    return root


def write_mat(path: Path, grey: np.ndarray, mask: np.ndarray, patient: str, code: float) -> None:
    """One of Cheng's files as MATLAB writes it: transposed, text as codes, numbers as 1 x 1 matrices."""
    with h5py.File(path, "w") as file:
        group = file.create_group("cjdata")
        group["label"] = np.array([[code]], np.float64)
        group["PID"] = np.array([[ord(letter)] for letter in patient], np.uint16)
        group["image"] = grey.T
        group["tumorMask"] = mask.astype(np.uint8).T


def image_folder(root: Path, count: int = 6) -> Path:
    """A folder of pictures for each class."""
    for kind in KINDS:
        (root / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(picture(kind, number)[0]).save(root / kind / f"{kind}{number:02}.png")
    return root


LAYOUTS: dict[str, Callable[[Path, int], Path]] = {
    writer.__name__.replace("_", "-"): writer
    for writer in (brats, brats2023, nnunet, decathlon, slices, cheng_mat, image_folder, table)
}
"""Writers by the name of the reader; the Decathlon is read by ``nnunet``."""

_FIRST_FILES = {
    "brats": "HGG/Brats18_X_0_1/Brats18_X_0_1_{}.nii.gz",
    "brats2023": "BraTS-MET-00001-000/BraTS-MET-00001-000-{}.nii.gz",
    "nnunet": "imagesTr/P0_{}.nii.gz",
    "decathlon": "imagesTr/BRATS_000.nii.gz",
    "table": "scans/0/{}_reg.nii.gz",
    "slices": "images/glioma0-0.png",
    "cheng-mat": "1.mat",
    "image-folder": "glioma/glioma00.png",
}
_SUFFIXES = {"brats2023": "t1c", "nnunet": "0002", "table": "T1CE"}
_FIRST_LABELS = {
    "brats": "HGG/Brats18_X_0_1/Brats18_X_0_1_seg.nii.gz",
    "brats2023": "BraTS-MET-00001-000/BraTS-MET-00001-000-seg.nii.gz",
    "nnunet": "labelsTr/P0.nii.gz",
    "decathlon": "labelsTr/BRATS_000.nii.gz",
    "table": "outlines/0.nii.gz",
    "slices": "masks/glioma0-0.png",
}


def first_image(layout: str, root: Path) -> Path:
    """The T1ce image, or the picture, of a layout's first case."""
    return root / _FIRST_FILES[layout].format(_SUFFIXES.get(layout, "t1ce"))


def first_label(layout: str, root: Path) -> Path:
    """The outline of a layout's first case."""
    return root / _FIRST_LABELS[layout]


def write_json(path: Path, content: object) -> Path:
    """A JSON file and its folders; NaN and infinities as Python writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    """A CSV file with the columns of the first row."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path
