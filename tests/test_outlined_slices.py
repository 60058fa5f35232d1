"""Slices that nobody outlined: whatever their labels hold, nothing is learned from them, scored or measured there."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import metaseg
from metaseg.models import load_checkpoint
from metaseg.store.prepare import open_data

OUTLINED = (4, 6, 7, 9)
"""Of slices 0 to 11; the lesions of the cases reach from 3 to 9."""
TINY = {"model_options": {"channels": [4, 8], "strides": [2]}, "batch_size": 4, "slices_per_epoch": 16, "jobs": 1}


def with_labels(source: Path, target: Path, fill: int | None) -> Path:
    """A copy of cases of which slices that are not outlined hold one value, or garbage."""
    shutil.copytree(source, target)
    others = [number for number in range(12) if number not in OUTLINED]
    rng = np.random.default_rng(0)
    for path in sorted(target.rglob("*_seg.nii.gz")):
        image = nib.load(path)
        label = np.asarray(image.dataobj).copy()
        garbage = rng.choice([0, 1, 2, 4, 99], size=(*label.shape[:2], len(others)))
        label[..., others] = garbage if fill is None else fill
        nib.save(nib.Nifti1Image(label, image.affine), path)
    return target


def table(folder: Path, cases: Path) -> Path:
    rows = [f"{path.name},{' '.join(map(str, OUTLINED))}" for path in sorted(cases.iterdir())]
    (folder / "outlined.csv").write_text("\n".join(["case,slice", *rows]))
    return folder / "outlined.csv"


@pytest.fixture(scope="module")
def copies(write_cases, tmp_path_factory):
    """The same cases with background, with garbage, and with ``ignore`` where nobody outlined; and the list."""
    root = tmp_path_factory.mktemp("copies")
    cases = write_cases("MET", 6, centre=0.35)
    fills = {"empty": 0, "garbage": None, "ignore": 9}
    return {name: with_labels(cases, root / name / "MET", fill) for name, fill in fills.items()}, table(root, cases)


def reading(copies, name):
    made, listed = copies
    if name == "ignore":
        return {"data": [made[name]], "label_scheme": "1=NCR,2=ED,4=ET,9=ignore"}
    return {"data": [made[name]], "outlined_slices": listed}


def weights(run):
    return torch.cat([p.flatten() for p in load_checkpoint(run / "checkpoints" / "last")[0].parameters()])


def logged(run, name):
    """A table of a run without the times in it."""
    return [
        {column: cell for column, cell in row.items() if column not in ("time", "seconds")}
        for row in csv.DictReader((run / name).open())
    ]


def test_pretraining_learns_and_measures_the_same_to_the_bit(copies, tmp_path):
    # The last takes the same labels for whole ones: background where the lesion goes on.
    data = [reading(copies, name) for name in ("empty", "garbage", "ignore")] + [{"data": [copies[0]["empty"]]}]
    empty, garbage, ignore, whole = (
        metaseg.pretrain(**named, cache=tmp_path / "c", out=tmp_path / str(number), epochs=1, **TINY)
        for number, named in enumerate(data)
    )
    for other in (garbage, ignore):
        assert torch.equal(weights(empty.run), weights(other.run))
        assert empty.metrics == other.metrics
    assert not torch.equal(weights(empty.run), weights(whole.run))
    assert empty.metrics != whole.metrics
    told = [json.loads((result.run / "patients.json").read_text())["train"] for result in (empty, whole)]
    assert [{row.get("outlined_slices") for row in rows} for rows in told] == [{len(OUTLINED)}, {None}]


@pytest.mark.parametrize("verb", ["metatune", "tune"])
def test_tuning_scores_and_measures_the_same_to_the_bit(copies, domains, tmp_path, verb):
    settings = {**domains["shared"], "from_run": domains["from"], "cache": domains["cache"], "classes": ["MET"]}
    settings |= {"shots": 2, "budget": 24, "marks": 1}
    runs = {}
    for name in ("empty", "garbage"):
        with pytest.warns(match="names none of 6 cases"):
            runs[name] = getattr(metaseg, verb)(**settings, **reading(copies, name), out=tmp_path / name, effort="none")
    first, second = runs["empty"], runs["garbage"]
    assert torch.equal(weights(first.run), weights(second.run))
    assert (first.before, first.after) == (second.before, second.after)
    for name in ("selection.csv", "marks.csv"):
        assert logged(first.run, name) == logged(second.run, name)
    taken = {int(row["slice"]) for row in logged(first.run, "selection.csv") if row["case"].startswith("Brats18_MET")}
    assert taken
    assert taken <= {*OUTLINED}


def test_evaluation_counts_outlined_slices_alone(copies, domains, tmp_path):
    rows = {}
    for name in ("empty", "garbage", "ignore"):
        result = metaseg.evaluate(
            domains["from"], **reading(copies, name), out=tmp_path / name, cache=domains["cache"], tta=False
        )
        rows[name] = result.cases
    assert rows["empty"].equals(rows["garbage"])
    assert rows["empty"].equals(rows["ignore"])
    found = rows["empty"]
    assert set(found["outlined_slices"]) == {len(OUTLINED)}
    assert found["undefined"].str.contains(f"{len(OUTLINED)} of 12 slices are outlined").all()
    assert found[["hd95", "label_ml", "predicted_ml"]].isna().all(axis=None)
    assert not [name for name in found if "lesion" in name or name.startswith("mist")]
    assert (tmp_path / "empty" / "metrics.csv").read_text().splitlines()[1].count(f",{len(OUTLINED)},") == 1


def test_every_outlined_slice_is_drawn_and_no_other(copies, tmp_path):
    from metaseg.cases.labels import SUBREGIONS
    from metaseg.training.augment import Augmentation
    from metaseg.training.slices import TrainingSlices

    store = open_data(**reading(copies, "ignore"), cache=tmp_path)
    slices = TrainingSlices(store, ("t1",), SUBREGIONS, (16, 16), 4, 400, 0.5, Augmentation("none"), 0)
    drawn = {(int(slices.owners[row]), int(slices.indices[row])) for row in slices._epoch(0)}
    start = store.cases[0].info.crop[0][0]
    assert drawn == {(owner, number - start) for owner in range(6) for number in OUTLINED}
    with pytest.raises(ValueError, match="nobody outlined"):
        store.cases[0].labels(slice(None))
