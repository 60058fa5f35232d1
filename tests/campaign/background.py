"""Kind C: backgrounds that are not 0, modalities without content, and voxel sizes that no scan has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from campaign.bench import Bench
from campaign.dropped import words
from campaign.trial import Result, Trial, Words

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def scans(data: Path) -> list[Path]:
    return [path for path in sorted(data.rglob("*.nii.gz")) if "seg" not in path.name]


def change_all(data: Path, change: Change, only: tuple[str, ...] = ()) -> None:
    """Change the images of every case, or those of some modalities."""
    rng = np.random.default_rng(0)
    for path in scans(data):
        if not only or any(path.name.endswith(f"_{name}.nii.gz") for name in only):
            image = nib.load(path)
            nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj), rng), image.affine), path)


BACKGROUNDS: dict[str, Change] = {
    "spline noise of 1e-4": lambda array, rng: np.where(array == 0, 1e-4 * rng.standard_normal(array.shape), array),
    "spline noise of 0.01": lambda array, rng: np.where(array == 0, 1e-2 * rng.standard_normal(array.shape), array),
    "-1024": lambda array, rng: np.where(array == 0, -1024, array).astype(np.int16),
    "-1": lambda array, rng: np.where(array == 0, -1, array).astype(np.int16),
    "1": lambda array, rng: np.where(array == 0, 1, array).astype(np.int16),
    "a positive level of 7": lambda array, rng: np.where(array == 0, 7, array).astype(np.int16),
    "air noise": lambda array, rng: np.where(array == 0, np.abs(3 * rng.standard_normal(array.shape)), array).astype(np.float32),
    "rounded air noise": lambda array, rng: np.where(array == 0, rng.integers(0, 6, array.shape), array).astype(np.int16),
    "z-scored": lambda array, rng: ((array - array[array > 0].mean()) / array[array > 0].std()).astype(np.float32),
    "z-scored over all": lambda array, rng: ((array - array.mean()) / array.std()).astype(np.float32),
    "scaled to 0 and 1": lambda array, rng: (array / array.max()).astype(np.float32),
    "scaled to -1 and 1": lambda array, rng: (2 * array / array.max() - 1).astype(np.float32),
    "shifted by 1000": lambda array, rng: (array + 1000).astype(np.int16),
    "NaN outside": lambda array, rng: np.where(array == 0, np.nan, array).astype(np.float32),
}  # fmt: skip


def dice(result: Result) -> dict[str, float]:
    """Dice by case and region of an evaluation in ``out``."""
    table = pd.read_csv(result.place / "out" / "metrics.csv")
    return {
        f"{row.case}/{row.target}": row.dice
        for row in table.itertuples()
        if row.target in ("WT", "TC", "ET") and row.network == "after"
    }


def backgrounds() -> Iterator[Trial]:
    def evaluate(bench: Bench, data: Path) -> Words:
        return "evaluate", bench.assets.pretrained, "--data", data, "--out", "out", "--pictures", 0, "--no-surface"

    for name, change in BACKGROUNDS.items():

        def use(bench: Bench, change: Change = change) -> Words:
            data = bench.data("brats2023", 3)
            change_all(data, change)
            return evaluate(bench, data)

        def like(bench: Bench) -> Words:
            return evaluate(bench, bench.data("brats2023", 3))

        if name == "NaN outside":
            yield Trial("C", f"background {name}, evaluate", use, "refused", ("NaN|finite", "00001"), may_leave=True)
        else:
            yield Trial("C", f"background {name}, evaluate", use, "same", like=like, metrics=dice, tolerance=0.01)
    for name in ("-1024", "air noise", "1", "z-scored", "spline noise of 1e-4"):

        def one_modality(bench: Bench, name: str = name) -> Words:
            data = bench.data("brats2023", 3)
            for path in scans(data):
                if path.name.endswith("-t2f.nii.gz"):
                    image = nib.load(path)
                    rng = np.random.default_rng(1)
                    nib.save(nib.Nifti1Image(BACKGROUNDS[name](np.asarray(image.dataobj), rng), image.affine), path)
            return evaluate(bench, data)

        yield Trial(
            "C", f"background {name} in FLAIR alone, evaluate", one_modality, "same",
            like=lambda bench: evaluate(bench, bench.data("brats2023", 3)), metrics=dice, tolerance=0.01,
        )  # fmt: skip


def write_affine(path: Path, affine: np.ndarray, unit: str = "mm") -> None:
    image = nib.load(path)
    changed = nib.Nifti1Image(np.asarray(image.dataobj), affine)
    changed.header.set_xyzt_units(xyz=unit)
    nib.save(changed, path)


def all_affine(spacing: tuple[float, float, float], unit: str = "mm") -> Callable[[Path], None]:
    def spoil(data: Path) -> None:
        for path in data.rglob("*.nii.gz"):
            write_affine(path, np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]), unit)

    return spoil


def modality(change: Change, name: str = "t2") -> Callable[[Path], None]:
    return lambda data: change_all(data, change, (name,))


def doubled(data: Path) -> None:
    for path in scans(data):
        if path.name.endswith("_t2.nii.gz"):
            path.write_bytes(path.with_name(path.name.replace("_t2", "_t1")).read_bytes())


def doubled_and_scaled(data: Path) -> None:
    for path in scans(data):
        if path.name.endswith("_t2.nii.gz"):
            image = nib.load(path.with_name(path.name.replace("_t2", "_t1")))
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), path)


POOR: dict[str, tuple[Callable[[Path], None], str]] = {
    "t2 filled with zeros": (modality(lambda array, rng: np.zeros_like(array)), "t2"),
    "t1ce filled with zeros": (modality(lambda array, rng: np.zeros_like(array), "t1ce"), "t1ce"),
    "t2 constant in the brain": (modality(lambda array, rng: np.where(array > 0, 100, 0).astype(np.int16)), "t2"),
    "t2 constant everywhere": (modality(lambda array, rng: np.full_like(array, 5)), "t2"),
    "t1 given as t2": (doubled, "t[12]"),
    "t1 written anew as t2": (doubled_and_scaled, "t[12]"),
    "voxels of 50 mm": (all_affine((50, 50, 50)), "50"),
    "voxels in metres": (all_affine((0.001, 0.001, 0.002), "meter"), r"0\.001|met(re|er)|unit"),
    "voxels of a thousandth": (all_affine((0.001, 0.001, 0.002)), r"0\.001"),
    "voxels in micrometres": (all_affine((1000, 1000, 2000), "micron"), "1000|micro|unit"),
    "in-plane anisotropy": (all_affine((1, 3, 2)), "3"),
    "one zero slice pixel size": (all_affine((0.01, 1, 2)), r"0\.01"),
}


def poor() -> Iterator[Trial]:
    for name, (spoil, named) in POOR.items():
        for verb in ("check", "predict", "evaluate", "pretrain", "naivetune", "tune"):
            if verb == "tune" and name not in ("t2 filled with zeros", "voxels of 50 mm"):
                continue

            def use(bench: Bench, spoil: Callable[[Path], None] = spoil, verb: str = verb) -> Words:
                data = bench.data("brats", 3)
                spoil(data)
                return words(bench, verb, data)

            yield Trial("C", f"{name}, {verb}", use, "told", (named, "Brats18_X_"), may_leave=True)

    def prepared_before(bench: Bench) -> Words:
        """The second evaluation finds the cases in the cache, and must say the same."""
        data = bench.data("brats", 2)
        modality(lambda array, rng: np.zeros_like(array))(data)
        from campaign.runner import run

        place = bench.place.with_name(bench.place.name + "-first")
        place.mkdir()
        run(words(bench, "pretrain", data), bench.assets, place)
        return words(bench, "pretrain", data)

    yield Trial(
        "C", "t2 filled with zeros, found in the cache, pretrain", prepared_before, "told", ("t2",), may_leave=True
    )


TRIALS = [*backgrounds(), *poor()]
