"""Print Dice of phantoms whose background is not 0, predicted by one network; see docs/results.md.

Usage: background_table.py RUN CASE..., where CASE is the folder of a phantom with its outline.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

import metaseg
from metaseg.errors import DataWarning

SEQUENCES = ("flair", "t1", "t1ce", "t2")
Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def outside(fill: Callable[[np.ndarray, np.random.Generator], np.ndarray | float]) -> Change:
    """A change that writes ``fill`` outside the head, which is where the phantom is not 0."""
    return lambda image, head, rng: np.where(head, image, fill(image, rng))


def rician(share: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Noise of air whose standard deviation in either channel is a share of the brightest voxel."""
    return lambda image, rng: np.hypot(*rng.normal(0, share * image.max(), (2, *image.shape)))


def moved(array: np.ndarray, order: int) -> np.ndarray:
    """An array resampled by splines of an order, a third of a voxel further."""
    return ndimage.shift(array.astype(np.float64), 0.3, order=order)


BACKGROUNDS: dict[str, Change] = {
    "0": outside(lambda image, rng: 0),
    "noise of 1e-4": outside(lambda image, rng: rng.normal(0, 1e-4, image.shape)),
    "-1024": outside(lambda image, rng: -1024),
    "1": outside(lambda image, rng: 1),
    "air (Rician, 1 %)": outside(rician(0.01)),
    "air (Rician, 3 %)": outside(rician(0.03)),
    "z-scored": lambda image, head, rng: (image - image.mean()) / image.std(),
    "all less 1024": lambda image, head, rng: image - 1024,
    "air in a padded field of view": lambda image, head, rng: np.pad(
        np.where(head, image, rician(0.02)(image, rng))[3:-3, 3:-3, 3:-3], 3
    ),
    "0, moved by 0.3 voxels": lambda image, head, rng: np.where(moved(head, 1) > 0.5, moved(image, 3), 0),
    "what cubic splines leave, moved alike": lambda image, head, rng: moved(image, 3),
}


def write(case: Path, folder: Path, change: Change) -> None:
    """Write a phantom's images with another background."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in SEQUENCES:
        image = nib.load(case / f"{case.name}_{name}.nii.gz")
        values = np.asarray(image.dataobj, dtype=np.float64)
        changed = change(values, values != 0, rng).astype(np.float32)
        nib.save(nib.Nifti1Image(changed, image.affine), folder / f"{case.name}_{name}.nii.gz")


def whole_tumour_dice(case: Path, predicted: Path) -> float:
    """Dice of everything that is outlined."""
    truth, found = (np.asarray(nib.load(file).dataobj) > 0 for file in (case / f"{case.name}_seg.nii.gz", predicted))
    return 2 * np.count_nonzero(truth & found) / (np.count_nonzero(truth) + np.count_nonzero(found))


def main(run: str, cases: list[Path]) -> None:
    warnings.simplefilter("ignore", DataWarning)
    print(f"| outside the head | {' | '.join(case.name for case in cases)} | warned |")
    print(f"|---|{'---|' * len(cases)}---|")
    for name, change in BACKGROUNDS.items():
        row, warned = [], 0
        with tempfile.TemporaryDirectory() as work:
            for case in cases:
                write(case, Path(work) / case.name, change)
                with contextlib.redirect_stdout(io.StringIO()):
                    result = metaseg.predict(
                        run=run, cases=[Path(work) / case.name], out=Path(work) / "out", pictures=False, tta=False
                    )
                files = result.cases[0].files
                row.append(f"{whole_tumour_dice(case, files['label']):.3f}")
                warned += bool(json.loads(files["summary"].read_text())["warnings"])
        print(f"| {name} | {' | '.join(row)} | {warned} of {len(cases)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], [Path(case) for case in sys.argv[2:]])
