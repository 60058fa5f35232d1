from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.metrics import DiceMetric
from PIL import Image

from metaseg.cases.splits import Split
from metaseg.config.segmentation import EvaluateConfig, MetatuneConfig, PretrainConfig
from metaseg.errors import DataError, RunError, UsageError
from metaseg.inference import evaluation_cases
from metaseg.inference.evaluate import evaluate_network, find_parent, run_evaluate
from metaseg.models import load_checkpoint, save_checkpoint
from metaseg.pictures.overlay import AMBER
from metaseg.runs.folder import RunFolder

MISSED = {"edema": (slice(6, 12), slice(7, 13), slice(3, 8)), "enhancing": (slice(7, 10), slice(8, 11), slice(4, 7))}


@pytest.fixture
def config(workshop):
    def make(*data: Path, **options) -> EvaluateConfig:
        root = workshop.root
        values = {"data": data or (root / "data",), "out": root / "out", "cache": root / "cache", "tta": False}
        return EvaluateConfig(**(values | {"device": "cpu", "jobs": 1, "pictures": 0, "surface": False} | options))

    return make


def row(frame: pd.DataFrame, **wanted) -> pd.Series:
    chosen = frame[np.logical_and.reduce([frame[name] == value for name, value in wanted.items()])]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_a_perfect_network_has_perfect_metrics(workshop, config):
    workshop.case("HGG", "a_1")
    workshop.case("HGG", "b_1", affine=np.diag([-1.0, -1.0, 1.0, 1.0]), **MISSED)
    result = evaluate_network(workshop.network(), None, config(surface=True))
    assert set(result.cohorts["target"]) == {"WT", "TC", "ET", "NCR", "ED"}
    for target in ("WT", "TC", "ET", "ED"):
        metrics = row(result.cohorts, target=target, network="after")
        assert (metrics["dice_mean"], metrics["hd95_mean"]) == (1.0, 0.0)
        assert (metrics["n_valid"], metrics["n_missed"], metrics["n_false"]) == (2, 0, 0)
    assert row(result.cohorts, target="WT")["lesionwise_f1_mean"] == 1.0
    # There is no necrosis in label or prediction: nothing to average.
    assert row(result.cohorts, target="NCR")["n_empty_both"] == 2
    assert math.isnan(row(result.cohorts, target="NCR")["dice_mean"])


def test_dice_agrees_with_monai_on_the_files_own_arrays(workshop, config):
    folder = workshop.case("HGG", "a_1")
    rolled = np.roll(np.asarray(nib.load(folder / "a_1_seg.nii.gz").dataobj), 2, axis=1)
    nib.save(nib.Nifti1Image(rolled, np.diag([1.0, 1.0, 2.0, 1.0])), folder / "a_1_seg.nii.gz")
    result = evaluate_network(workshop.network(), None, config(surface=True))
    predicted = np.asarray(nib.load(folder / "a_1_flair.nii.gz").dataobj) > 500
    metric = DiceMetric(include_background=True)
    expected = metric(torch.tensor(predicted)[None, None].float(), torch.tensor(rolled > 0)[None, None].float())
    assert row(result.cases, target="WT")["dice"] == pytest.approx(float(expected), abs=1e-6)
    # The label was moved by two voxels of 1 mm.
    assert row(result.cases, target="WT")["hd95"] == pytest.approx(2.0)


def test_a_missed_lesion_costs_the_whole_grids_diagonal(workshop, config):
    workshop.case("MET", "a_1", affine=np.diag([1.5, 1.0, 2.0, 1.0]))
    network = workshop.network()
    network.model.threshold.data.fill_(99.0)
    result = evaluate_network(network, None, config(surface=True))
    metrics = row(result.cases, target="ET")
    assert (metrics["status"], metrics["dice"]) == ("missed", 0.0)
    assert metrics["hd95"] == pytest.approx(math.hypot(24 * 1.5, 22 * 1.0, 12 * 2.0))
    summary = row(result.cohorts, target="ET")
    assert (summary["dice_mean"], summary["n_missed"], summary["lesionwise_f1_mean"]) == (0.0, 1, 0.0)


def test_shrunken_slices_are_compared_on_the_full_grid(workshop, config):
    workshop.case("HGG", "a_1", shape=(64, 60, 6), edema=(slice(11, 26), slice(11, 26), slice(2, 4)), enhancing=None)
    network = workshop.network(normalisation={"image_size": 32})
    result = evaluate_network(network, None, config(workshop.root / "data"))
    metrics = row(result.cases, target="WT")
    assert metrics["tp"] + metrics["fn"] == 15 * 15 * 2
    assert 0.7 < metrics["dice"] < 1.0


def trained_run(workshop, *patients: str, name: str = "run") -> Path:
    run = workshop.root / name
    run.mkdir()
    rows = [{"case": patient, "patient": patient, "cohort": "HGG"} for patient in patients]
    (run / "patients.json").write_text(json.dumps({"train": rows, "val": []}))
    return run


def test_training_patients_are_left_out_or_marked(workshop, config, capsys):
    for name in ("a_1", "b_1", "c_1"):
        workshop.case("HGG", name)
    network = workshop.network(run=trained_run(workshop, "a_1", "c_1"))
    result = evaluate_network(network, None, config())
    assert set(result.cases["case"]) == {"b_1"}
    assert "2 cases left out" in capsys.readouterr().out
    both = evaluate_network(network, None, config(out=workshop.root / "all", include_training=True))
    marked = both.cases.drop_duplicates("case").set_index("case")["trained_on"]
    assert marked.to_dict() == {"a_1": True, "b_1": False, "c_1": True}
    assert row(both.cohorts, target="WT", trained_on=True)["n_cases"] == 2
    printed = capsys.readouterr().out
    assert "TRAINED ON" in printed
    assert "HGG (trained on)" in printed


def test_no_case_left_is_an_error(workshop, config):
    workshop.case("HGG", "a_1")
    network = workshop.network(run=trained_run(workshop, "a_1"))
    with pytest.raises(DataError, match="trained on") as left:
        evaluate_network(network, None, config())
    assert "--include-training" in str(left.value.remedy)


def test_cases_without_label_are_told_and_never_counted(workshop, config, capsys):
    workshop.case("HGG", "a_1")
    workshop.case("HGG", "b_1", label=False)
    assert set(evaluate_network(workshop.network(), None, config()).cases["case"]) == {"a_1"}
    assert "1 cases without label" in capsys.readouterr().out
    with pytest.raises(DataError, match="none of the cases has a label"):
        evaluate_network(workshop.network(), None, config(workshop.root / "data" / "HGG" / "b_1"))


def two_domains(workshop):
    """A parent that sees everything; a tuned network that sees no edema."""
    for name in ("s1_1", "s2_1"):
        workshop.case("HGG", name)
    workshop.case("MET", "t_1", **MISSED)
    before = workshop.network(trained_on=("HGG",))
    after = workshop.network(trained_on=("HGG", "MET"))

    class OnlyEnhancing(type(after.model)):
        def forward(self, images):
            logits = super().forward(images)
            logits[:, 2] = -99.0
            return logits

    return before, replace(after, model=OnlyEnhancing())


def test_forgetting_is_the_source_dice_that_was_lost(workshop, config, capsys):
    before, after = two_domains(workshop)
    result = evaluate_network(after, before, config())
    edema, enhancing = 8 * 8 * 5, 3 * 3 * 3
    left = 2 * enhancing / (edema + enhancing)
    lost = row(result.changes, cohort="HGG", target="WT")
    assert (lost["domain"], lost["n_cases"]) == ("source", 2)
    assert (lost["before"], lost["after"]) == (1.0, pytest.approx(left))
    assert lost["forgetting"] == pytest.approx(1.0 - left)
    # Both cases lost the same, so that no resample differs: no interval.
    assert math.isnan(lost["forgetting_low"])
    assert math.isnan(lost["forgetting_high"])
    assert math.isnan(lost["gain"])
    kept = row(result.changes, cohort="HGG", target="ET")
    assert kept["forgetting"] == 0.0
    target = row(result.changes, cohort="MET", target="WT")
    assert target["domain"] == "target"
    assert target["gain"] == pytest.approx(target["after"] - 1.0)
    assert math.isnan(target["forgetting"])
    assert set(result.cases["network"]) == {"before", "after"}
    record = json.loads((workshop.root / "out" / "metrics.json").read_text())
    assert record["domains"]["WT"]["forgetting"] == pytest.approx(1.0 - left)
    assert record["domains"]["WT"]["source_before"] == 1.0
    assert set(record["evaluation"]["networks"]) == {"before", "after"}
    assert "forgetting" in capsys.readouterr().out


def test_without_source_cases_no_forgetting_is_claimed(workshop, config, capsys):
    before, after = two_domains(workshop)
    result = evaluate_network(after, before, config(workshop.root / "data" / "MET"))
    assert result.changes["forgetting"].isna().all()
    assert "No forgetting: none of the cohorts" in capsys.readouterr().out


def test_patients_of_either_training_are_left_out_of_the_comparison(workshop, config):
    before, after = two_domains(workshop)
    before = replace(before, run=trained_run(workshop, "s1_1", name="first"))
    after = replace(after, run=trained_run(workshop, "t_1", name="second"))
    assert set(evaluate_network(after, before, config()).cases["case"]) == {"s2_1"}


def test_a_parent_of_another_kind_is_refused(workshop, config):
    network = workshop.network()
    other = workshop.network(modalities=("t1ce",))
    with pytest.raises(UsageError, match="modalities differ"):
        find_parent(config(parent=str(other.checkpoint)), network)
    coarse = workshop.network(label_space="whole-lesion")
    with pytest.raises(UsageError, match="label space differ"):
        find_parent(config(parent=str(coarse.checkpoint)), network)
    assert find_parent(config(), network) is None


def test_a_lost_parent_is_told_and_a_wrong_one_refused(workshop, config, capsys):
    network = workshop.network(parent="runs/gone")
    assert find_parent(config(), network) is None
    assert "Forgetting is not computed" in capsys.readouterr().out
    with pytest.raises(RunError):
        find_parent(config(parent="runs/gone"), network)


@pytest.mark.parametrize("coarse", ["label", "network", "asked"])
def test_where_the_whole_lesion_alone_is_known_it_alone_is_compared(workshop, config, coarse):
    folder = workshop.case("HGG", "a_1")
    network, options = workshop.network(), {}
    if coarse == "label":
        seg = nib.load(folder / "a_1_seg.nii.gz")
        whole = (np.asarray(seg.dataobj) > 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(whole, seg.affine), folder / "a_1_seg.nii.gz")
        options = {"label_scheme": "whole-lesion"}
    elif coarse == "network":
        network = workshop.network(label_space="whole-lesion")
    else:
        options = {"labels": "whole-lesion"}
    result = evaluate_network(network, None, config(pictures=1, **options))
    assert result.cases["target"].iloc[0] == "WT"
    assert not set(result.cases["target"]) & {"TC", "ET", "NCR", "ED"}
    assert row(result.cases, target="WT")["dice"] == 1.0
    assert len(result.pictures) == 1


def test_finer_classes_than_the_network_knows_are_refused(workshop, config):
    workshop.case("HGG", "a_1")
    with pytest.raises(UsageError, match="whole lesion alone"):
        evaluate_network(workshop.network(label_space="whole-lesion"), None, config(labels="subregions"))


def test_other_modalities_are_refused(workshop, config):
    workshop.case("HGG", "a_1")
    with pytest.raises(UsageError, match="differ from the network's"):
        evaluate_network(workshop.network(), None, config(modalities=("t1",)))
    with pytest.raises(DataError, match="case a_1 lacks modality t2"):
        evaluate_network(workshop.network(modalities=("flair", "t2")), None, config())


def test_files_hold_every_case_and_what_they_came_from(workshop, config):
    workshop.case("HGG", "a_1")
    workshop.case("LGG", "b_1", **MISSED)
    network = workshop.network()
    result = evaluate_network(network, None, config(pictures=5, surface=True))
    table = pd.read_csv(result.out / "metrics.csv")
    assert list(table["case"].unique()) == ["a_1", "b_1"]
    assert {"cohort", "network", "trained_on", "dice", "hd95", "lesionwise_dice", "mist_f1", "status"} <= set(table)
    assert "1.0" not in (result.out / "metrics.csv").read_text().splitlines()[1].split(",")[-1]
    record = json.loads((result.out / "metrics.json").read_text())
    assert record["evaluation"]["networks"]["after"]["checkpoint_digest"] != "none"
    assert record["evaluation"]["options"]["empty_policy"] == "exclude"
    assert record["evaluation"]["versions"]["torch"]
    assert len(record["cases"]) == len(table)
    assert [Path(name).name for name in record["pictures"]] == [picture.name for picture in result.pictures]
    assert len(result.pictures) == 2
    assert not [path for path in result.out.rglob("*") if path.name.startswith(".")]


def test_the_same_evaluation_may_be_repeated_another_may_not_replace_it(workshop, config):
    workshop.case("HGG", "a_1")
    workshop.case("MET", "b_1", **MISSED)
    network = workshop.network()
    evaluate_network(network, None, config(pictures=2))
    before = {path.name: path.read_bytes() for path in (workshop.root / "out").rglob("*") if path.is_file()}
    evaluate_network(network, None, config(pictures=2))
    again = {path.name: path.read_bytes() for path in (workshop.root / "out").rglob("*") if path.is_file()}
    assert again == before
    evaluate_network(network, None, config(pictures=1))
    assert len(list((workshop.root / "out" / "pictures").iterdir())) == 1
    with pytest.raises(UsageError, match="another evaluation") as refused:
        evaluate_network(network, None, config(workshop.root / "data" / "MET"))
    assert refused.value.where == workshop.root / "out"
    with pytest.raises(UsageError, match="another evaluation"):
        evaluate_network(workshop.network(), None, config())
    replaced = evaluate_network(network, None, config(workshop.root / "data" / "MET", overwrite=True))
    assert set(replaced.cases["case"]) == {"b_1"}


def test_pictures_show_the_worst_cases_first(workshop, config):
    workshop.case("HGG", "fine_1")
    bad = workshop.case("HGG", "bad_1")
    worse = workshop.case("HGG", "worse_1")
    for folder, shift in ((bad, 3), (worse, 8)):
        path = next(folder.glob("*_seg*"))
        seg = nib.load(path)
        nib.save(nib.Nifti1Image(np.roll(np.asarray(seg.dataobj), shift, axis=1), seg.affine), path)
    result = evaluate_network(workshop.network(), None, config(pictures=2))
    assert [picture.name for picture in result.pictures] == ["01-worse_1.png", "02-bad_1.png"]


@pytest.mark.parametrize("origin", ["network", "case"])
def test_phantoms_mark_everything_that_is_made_from_them(workshop, config, capsys, origin):
    workshop.case("HGG", "a_1")
    if origin == "case":
        (workshop.root / "data" / "metaseg-phantoms.json").write_text("{}")
    result = evaluate_network(workshop.network(synthetic=origin == "network"), None, config(pictures=1))
    assert result.synthetic
    assert json.loads((result.out / "metrics.json").read_text())["synthetic"] is True
    assert pd.read_csv(result.out / "metrics.csv")["synthetic"].all()
    picture = np.asarray(Image.open(result.pictures[0]).convert("RGB"))
    assert (picture == AMBER).all(axis=-1).sum() > 100
    assert capsys.readouterr().out.count("SYNTHETIC") >= 2


def test_a_split_chooses_its_part(workshop, config):
    for name in ("a_1", "b_1", "c_1"):
        workshop.case("HGG", name)
    patients = {name: name for name in ("a_1", "b_1", "c_1", "elsewhere_1")}
    parts = {"train": ("a_1",), "test": ("b_1", "elsewhere_1"), "val": ("c_1",)}
    Split(0, None, parts, patients).save(workshop.root / "split.json")
    split = workshop.root / "split.json"
    network = workshop.network()
    assert set(evaluate_network(network, None, config(split=split)).cases["case"]) == {"b_1"}
    out = workshop.root / "val"
    assert set(evaluate_network(network, None, config(split=split, part="val", out=out)).cases["case"]) == {"c_1"}
    with pytest.raises(UsageError, match="unknown part of the split 'tset'"):
        evaluate_network(network, None, config(split=split, part="tset", out=out))
    with pytest.raises(UsageError, match="without a split"):
        evaluate_network(network, None, config(part="val"))


def test_without_surface_only_dice_is_computed(workshop, config, capsys):
    workshop.case("HGG", "a_1")
    result = evaluate_network(workshop.network(), None, config())
    assert result.cases["hd95"].isna().all()
    assert not [name for name in result.cases if "lesion" in name]
    assert row(result.cohorts, target="WT")["dice_mean"] == 1.0
    assert "HD95" not in capsys.readouterr().out


def test_a_checkpoint_alone_needs_data_and_a_folder(workshop, config):
    network = workshop.network()
    with pytest.raises(UsageError, match="no data to evaluate on"):
        evaluate_network(network, None, replace(config(), data=()))
    with pytest.raises(UsageError, match="lies in no run"):
        evaluate_network(network, None, replace(config(), out=None))


def make_run(workshop, settings, name: str, parent: Path | None = None, **card) -> Path:
    run = RunFolder.create(replace(settings, out=workshop.root / name))
    model, own = load_checkpoint(workshop.network(parent=None if parent is None else str(parent), **card).checkpoint)
    save_checkpoint(run.checkpoints / "last", model, own)
    run.close()
    return workshop.root / name


def test_a_run_is_evaluated_on_what_it_recorded(workshop, config, capsys):
    workshop.case("HGG", "s_1")
    workshop.case("MET", "t_1", **MISSED)
    pretraining = PretrainConfig(data=(workshop.root / "data" / "HGG",))
    first = make_run(workshop, pretraining, "first")
    tuning = MetatuneConfig(data=(workshop.root / "data" / "MET",))
    second = make_run(workshop, tuning, "second", parent=first, trained_on=("HGG", "MET"))
    result = run_evaluate(replace(config(), run=str(second), data=(), out=None))
    assert result.out == second / "evaluation"
    assert set(result.cases["cohort"]) == {"HGG", "MET"}
    assert set(result.changes.set_index("cohort")["domain"].items()) == {("HGG", "source"), ("MET", "target")}
    assert "recorded" in capsys.readouterr().out


def test_a_network_of_phantoms_is_evaluated_on_unseen_phantoms(workshop, config, monkeypatch):
    seen = [("hgg", "Phantom_HGG_001"), ("hgg", "Phantom_HGG_002"), ("met", "Phantom_MET_001")]
    for cohort, name in [*seen, ("hgg", "Phantom_HGG_003"), ("met", "Phantom_MET_002")]:
        workshop.case(cohort.upper(), name, edema=MISSED["edema"])
    asked = {}

    def folder(cohort, cases, seed, cache):
        asked[cohort] = cases
        return workshop.root / "data" / cohort.upper()

    monkeypatch.setattr(evaluation_cases, "phantom_folder", folder)
    network = workshop.network(synthetic=True)
    run = make_run(workshop, PretrainConfig(), "run", synthetic=True)
    rows = [{"case": name, "patient": name, "cohort": ""} for _, name in seen]
    (run / "patients.json").write_text(json.dumps({"train": rows}))
    result = evaluate_network(replace(network, run=run), None, replace(config(), data=(), phantom_cases=2))
    assert asked == {"hgg": 4, "met": 3}
    assert set(result.cases["case"]) == {"Phantom_HGG_003", "Phantom_MET_002"}
