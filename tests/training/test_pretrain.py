from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

import metaseg
from metaseg.cases.splits import make_split
from metaseg.errors import DataError, ExistsError, RunError, UsageError
from metaseg.models import load_checkpoint
from metaseg.runs.networks import load_network
from metaseg.store.prepare import open_data
from metaseg.training.fitted_run import smoothed_score

TINY = {"model_options": {"channels": [4, 8], "strides": [2]}, "batch_size": 4, "slices_per_epoch": 16, "jobs": 1}


@pytest.fixture(scope="module")
def folder(write_cases):
    return str(write_cases(count=5))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


class TestPretrain:
    def test_learns_and_leaves_a_whole_run(self, folder, cache, tmp_path, draw_at_marks):
        result = metaseg.pretrain(
            data=folder, cache=cache, out=tmp_path / "run", epochs=14, slices_per_epoch=64, validate_every=7,
            learning_rate=0.01, ema=0.9, augment="light", model_options={"channels": [8, 16], "strides": [2]}, jobs=1,
        )  # fmt: skip
        assert result.metrics["dice/val/WT"] > 0.6
        assert result.steps == 14 * (64 // 8)
        for name in ("config.yaml", "manifest.json", "state.json", "metrics.csv", "progress.png", "patients.json"):
            assert (tmp_path / "run" / name).stat().st_size > 0
        patients = json.loads((tmp_path / "run" / "patients.json").read_text())
        assert {row["patient"] for row in patients["train"]} & {row["patient"] for row in patients["val"]} == set()
        names = {row["name"] for row in csv.DictReader((tmp_path / "run" / "metrics.csv").open())}
        assert {"train/loss", "dice/val/WT", "dice/val/TC", "dice/val/ET"} <= names
        network = load_network(result.run)
        assert network.card.modalities == ("flair", "t1", "t1ce", "t2")
        assert network.card.trained_on == ("HGG",)
        assert network.trained_patients == {row["patient"] for row in patients["train"]}

    def test_same_seed_same_bits_other_seed_other_bits(self, folder, cache, tmp_path):
        weights = []
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            run = metaseg.pretrain(
                data=folder, cache=cache, out=tmp_path / name, epochs=2, seed=seed, val_fraction=0, **TINY
            )
            weights.append(
                torch.cat([p.flatten() for p in load_checkpoint(run.run / "checkpoints" / "last")[0].parameters()])
            )
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])

    def test_whole_lesion_and_fewer_modalities(self, folder, cache, tmp_path):
        run = metaseg.pretrain(
            data=folder, cache=cache, out=tmp_path / "r", epochs=1, labels="whole-lesion", modalities="t1ce", **TINY
        )
        card = load_network(run.run).card
        assert (card.num_classes, card.modalities, card.label_space) == (2, ("t1ce",), "whole-lesion")

    def test_split_file_is_obeyed(self, folder, cache, tmp_path):
        store = open_data([folder], cache=cache)
        split = make_split(store.cases, parts={"train": 3, "val": 1, "test": 1}, stratify=None)
        split.save(tmp_path / "split.json")
        metaseg.pretrain(data=folder, cache=cache, split=tmp_path / "split.json", out=tmp_path / "r", epochs=1, **TINY)
        patients = json.loads((tmp_path / "r" / "patients.json").read_text())
        assert [row["case"] for row in patients["train"]] == list(split.parts["train"])
        assert [row["case"] for row in patients["val"]] == list(split.parts["val"])

    def test_folds_validate_on_one_and_train_on_the_others(self, folder, cache, tmp_path):
        split = make_split(open_data([folder], cache=cache).cases, folds=3)
        split.save(tmp_path / "folds.json")
        run = metaseg.pretrain(
            data=folder, cache=cache, split=tmp_path / "folds.json", fold=1, out=tmp_path / "r", epochs=1, **TINY
        )
        patients = json.loads((run.run / "patients.json").read_text())
        assert {row["case"] for row in patients["val"]} == set(split.parts["fold-1"])
        assert {row["case"] for row in patients["train"]} == {*split.parts["fold-0"], *split.parts["fold-2"]}

    @pytest.mark.parametrize("named", ["checkpoints/best", ""])
    def test_weights_of_an_earlier_run_bring_its_patients_along(self, folder, cache, write_cases, tmp_path, named):
        first = metaseg.pretrain(data=folder, cache=cache, out=tmp_path / "a", epochs=1, **TINY)
        second = metaseg.pretrain(
            data=write_cases("MET", 2, centre=0.4), cache=cache, out=tmp_path / "b", epochs=1,
            weights=first.run / named, val_fraction=0, **TINY,
        )  # fmt: skip
        assert load_network(first.run).trained_patients < load_network(second.run).trained_patients

    def test_patience_stops_early(self, folder, cache, tmp_path):
        run = metaseg.pretrain(
            data=folder, cache=cache, out=tmp_path / "r", epochs=40, validate_every=1, patience=2, learning_rate=1e-12,
            ema=0, **TINY,
        )  # fmt: skip
        assert run.steps < 40 * 4

    def test_without_validation_patients_the_last_weights_are_the_best(self, folder, cache, tmp_path):
        run = metaseg.pretrain(
            data=folder, cache=cache, out=tmp_path / "r", epochs=2, val_fraction=0, validate_every=1, **TINY
        )
        best, last = (load_checkpoint(run.run / "checkpoints" / name)[0].state_dict() for name in ("best", "last"))
        assert all(torch.equal(best[name], last[name]) for name in best)


class TestBadInput:
    def test_missing_modality_names_case_and_modality(self, folder, cache, tmp_path):
        with pytest.raises(DataError, match=r"cases without adc \(5\): Brats18_HGG00_1_1"):
            metaseg.pretrain(data=folder, cache=cache, modalities="t1,adc", out=tmp_path / "r", **TINY)

    def test_existing_run_is_not_overwritten(self, folder, cache, tmp_path):
        metaseg.pretrain(data=folder, cache=cache, out=tmp_path / "r", epochs=1, **TINY)
        with pytest.raises(ExistsError, match="holds a run"):
            metaseg.pretrain(data=folder, cache=cache, out=tmp_path / "r", epochs=1, **TINY)

    def test_resume_of_nothing_is_an_error(self, folder, cache, tmp_path):
        with pytest.raises(RunError, match="no run to resume"):
            metaseg.pretrain(data=folder, cache=cache, out=tmp_path / "nothing", resume=True, **TINY)

    def test_unknown_network_setting_and_folder(self, folder, cache, tmp_path):
        with pytest.raises(UsageError, match="unet3d"):
            metaseg.pretrain(data=folder, cache=cache, out=tmp_path / "a", model="unet3d", epochs=1)
        with pytest.raises(UsageError, match="epochs"):
            metaseg.pretrain(data=folder, cache=cache, out=tmp_path / "b", epochs=0)
        with pytest.raises(UsageError, match="epoch"):
            metaseg.pretrain(data=folder, cache=cache, out=tmp_path / "b", epoch=3)
        with pytest.raises(DataError, match="does not exist"):
            metaseg.pretrain(data=tmp_path / "none", out=tmp_path / "c")

    def test_patient_standing_in_two_parts_is_refused(self, folder, cache, tmp_path):
        split = make_split(open_data([folder], cache=cache).cases, parts={"train": 4, "val": 1}, stratify=None)
        split.save(tmp_path / "s.json")
        content = json.loads((tmp_path / "s.json").read_text())
        content["patients"][content["parts"]["val"][0]] = content["patients"][content["parts"]["train"][0]]
        (tmp_path / "s.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match="patient"):
            metaseg.pretrain(data=folder, cache=cache, split=tmp_path / "s.json", out=tmp_path / "r", epochs=1, **TINY)


def test_smoothed_score():
    assert smoothed_score({"WT": 0.5, "ET": float("nan")}, None) == pytest.approx(0.25)
    assert smoothed_score({"WT": 1.0}, 0.5) == pytest.approx(0.7 * 0.5 + 0.3)
    assert np.isfinite(smoothed_score({}, None))
