"""What the metrics of whole cases cost against reading the cases.

The unit is reading label and prediction of one case from NIfTI files (both as they lie on disk, compressed). ``Dice``
is that of all regions from one joint histogram; ``all metrics`` are those of ``metaseg evaluate``: Dice, HD95,
lesion-wise and areas. MONAI's DiceMetric on one-hot maps stands beside as a peer. A second table holds the choice of
the class from scores, and the counting, per slice. Without ``--data``, phantoms are made; the prediction is the label
moved by a voxel.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from ratios import cases_or_phantoms, compare, parser, show, write_json

from metaseg.cases.case import Case
from metaseg.cases.labels import SUBREGIONS
from metaseg.inference.evaluate import score_case
from metaseg.inference.logits import largest_class
from metaseg.metrics.overlap import joint_histogram, region_counts
from metaseg.store.prepare import build_store, common_modalities
from metaseg.store.prepare_case import PrepareOptions

CLASSES = SUBREGIONS.num_classes


def read(path: Path) -> np.ndarray:
    """Class values of a label file with BraTS' numbers, ``(slices, height, width)``, ``uint8``."""
    values = np.asarray(nib.load(path).dataobj).astype(np.uint8)
    values[values == 4] = 3
    return np.ascontiguousarray(values.transpose(2, 1, 0))


def dice(label: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Dice of every region."""
    histogram = joint_histogram(label, predicted, CLASSES)
    return {name: float(region_counts(histogram, values).dice()) for name, values in SUBREGIONS.regions.items()}


def one_hot_dice(label: np.ndarray, predicted: np.ndarray) -> object:
    """MONAI's Dice of every class."""
    from monai.metrics import DiceMetric
    from monai.networks.utils import one_hot

    maps = [one_hot(torch.from_numpy(part)[None, None].long(), CLASSES) for part in (predicted, label)]
    return DiceMetric(include_background=False)(*maps)


def many_cases(label: Path, prediction: Path, cases: int) -> tuple[float, float]:
    """CPU seconds of reading and of counting, over so many cases one after the other."""
    reading = counting = 0.0
    for _ in range(cases):
        start = time.process_time()
        maps = read(label), read(prediction)
        middle = time.process_time()
        dice(*maps)
        reading, counting = reading + middle - start, counting + time.process_time() - middle
    return reading, counting


def write_moved(case: Case, path: Path) -> Path:
    """The case's label moved by a voxel, as a prediction."""
    image = nib.load(case.label.files[0])
    nib.save(nib.Nifti1Image(np.roll(np.asarray(image.dataobj), 1, axis=0), image.affine, image.header), path)
    return path


def main() -> None:
    """Print the tables."""
    found = parser(__doc__, rounds=5)
    found.add_argument("--data", type=Path, help="folder of cases with BraTS labels, as .nii.gz")
    found.add_argument("--cases", type=int, default=100, help="cases of the long run")
    chosen = found.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cases = cases_or_phantoms(chosen.data, folder, 1)
        stored = build_store(cases, folder / "store", PrepareOptions(common_modalities(cases)), jobs=1).cases[0]
        truth, prediction = cases[0].label.files[0], write_moved(cases[0], folder / "prediction.nii.gz")
        label, predicted = read(truth), read(prediction)
        native = stored.native_label()
        moved = np.roll(native, 1, axis=2)
        scores = torch.randn(8, CLASSES, *stored.info.shape[1:], generator=torch.Generator().manual_seed(0))
        one = label[len(label) // 2], predicted[len(label) // 2]
        tables = {
            "case": compare(
                {
                    "reading": lambda: (read(truth), read(prediction)),
                    "Dice": lambda: dice(label, predicted),
                    "MONAI, one-hot": lambda: one_hot_dice(label, predicted),
                    "all metrics": lambda: score_case(stored, native, moved, SUBREGIONS, surface=True),
                },
                chosen.rounds,
                clock="cpu",
                limits={"Dice": 1.0},
            ),
            "slice": compare(
                {
                    "largest_class, 8 slices": lambda: largest_class(scores),
                    "max(1).indices, 8 slices": lambda: scores.max(dim=1).indices,
                    "argmax(1), 8 slices": lambda: scores.argmax(dim=1),
                    "joint histogram, 1 slice": lambda: joint_histogram(*one, CLASSES),
                },
                chosen.rounds,
                clock="cpu",
                scale={"largest_class, 8 slices": 8, "max(1).indices, 8 slices": 8, "argmax(1), 8 slices": 8},
            ),
        }
        reading, counting = many_cases(truth, prediction, chosen.cases)
    show(f"one case {label.shape}, CPU time, in readings of its two label maps", tables["case"])
    show("choosing and counting, CPU time per slice", tables["slice"])
    share = counting / (reading + counting)
    print(f"\n{chosen.cases} cases: reading {reading:.1f} s, Dice {counting:.2f} s of CPU time, {share:.1%} for Dice")
    settings = {"data": chosen.data, "cases": chosen.cases, "reading": reading, "dice": counting, "share": share}
    write_json(chosen.json, settings, tables)


if __name__ == "__main__":
    main()
