from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

from metaseg.classify.evaluate import run_classify_evaluate
from metaseg.classify.train import run_classify_train
from metaseg.config.classification import ClassifyEvaluateConfig, ClassifyTrainConfig
from metaseg.config.io import load_config
from metaseg.errors import DataError, RunError, UsageError

from .conftest import write_images


@pytest.fixture(scope="module")
def run(common, tmp_path_factory):
    config = common | {"out": tmp_path_factory.mktemp("trained") / "run", "epochs": 1}
    return run_classify_train(load_config(ClassifyTrainConfig, None, config)).run


@pytest.fixture
def evaluate(run, cache, tmp_path):
    def call(**changes):
        settings = {"run": str(run), "cache": cache, "out": tmp_path / "metrics", "pictures": 0, "resamples": 100}
        return run_classify_evaluate(load_config(ClassifyEvaluateConfig, None, settings | {"jobs": 1} | changes))

    return call


def patients_of(result):
    return set(pd.read_csv(result.folder / "predictions.csv")["patient"])


class TestWhatIsMeasured:
    def test_by_default_the_test_part_of_the_run(self, evaluate, parts_of, run):
        result = evaluate(out=None)
        assert result.folder == run / "evaluation"
        assert patients_of(result) == set(parts_of().test.patients)
        trained = pd.read_csv(run / "test" / "predictions.csv")
        pd.testing.assert_frame_equal(pd.read_csv(result.folder / "predictions.csv"), trained)

    def test_another_part(self, evaluate, parts_of):
        assert patients_of(evaluate(part="val")) == set(parts_of().val.patients)

    def test_training_patients_only_when_asked(self, evaluate, parts_of, images, capsys):
        parts = parts_of()
        assert patients_of(evaluate(data=images)) == set(parts.val.patients) | set(parts.test.patients)
        assert "20 patients were trained on and are left out" in capsys.readouterr().out
        assert len(patients_of(evaluate(data=images, include_training=True, out=None, overwrite=True))) == 28
        with pytest.raises(UsageError, match="no slice is left"):
            evaluate(part="train", out=None, overwrite=True)
        found = evaluate(part="train", include_training=True, out=None, overwrite=True)
        assert patients_of(found) == set(parts.train.patients)

    def test_a_split_of_ones_own(self, evaluate, run, parts_of, images):
        result = evaluate(data=images, split=run / "split.json", part="val")
        assert patients_of(result) == set(parts_of().val.patients)

    def test_other_data(self, evaluate, tmp_path, capsys):
        data = write_images(tmp_path / "set", {"left": 30, "right": 30, "up": 2}, seed=5)
        result = evaluate(data=data, include_training=True)
        assert result.slices == 60
        assert "2 cases are left out: the network does not know their classes (up)" in capsys.readouterr().out

    def test_other_data_of_one_class(self, evaluate, tmp_path):
        data = write_images(tmp_path / "set", {"right": 5}, seed=5)
        table = pd.read_csv(evaluate(data=data, include_training=True).folder / "predictions.csv")
        assert set(table["truth"]) == {"right"}
        assert {"prob_left", "prob_right"} <= set(table)

    def test_data_of_more_modalities(self, common, tmp_path, cache):
        """The network's own are taken, wherever they stand among the data's."""
        data = write_images(tmp_path / "set", {"left": 8, "right": 8})
        rows = ["patient_id,slice_id,image,class,modality"]
        for side in ("left", "right"):
            for file in sorted((data / side).iterdir()):
                shutil.copy(file, data / f"other-{file.name}")
                rows.append(f"{file.stem},{file.stem},other-{file.name},{side},flair")
                rows.append(f"{file.stem},{file.stem},{side}/{file.name},{side},t1ce")
        (data / "index.csv").write_text("\n".join(rows) + "\n")
        settings = common | {"data": data, "modalities": "t1ce", "out": tmp_path / "run", "test": False, "epochs": 1}
        trained = run_classify_train(load_config(ClassifyTrainConfig, None, settings)).run
        config = {"run": str(trained), "data": data, "out": tmp_path / "f", "pictures": 0, "resamples": 100}
        outside = tmp_path / "weights"
        outside.mkdir()
        for suffix in ("safetensors", "json"):
            shutil.copy(trained / "checkpoints" / f"best.{suffix}", outside / f"w.{suffix}")
        for change in ({}, {"run": str(outside / "w.safetensors"), "overwrite": True}):
            settings = config | {"cache": cache} | change
            assert run_classify_evaluate(load_config(ClassifyEvaluateConfig, None, settings)).slices > 0


class TestFigures:
    def test_are_scikit_learns(self, evaluate, images):
        result = evaluate(data=images, include_training=True)
        table = pd.read_csv(result.folder / "predictions.csv")
        truth, predicted = table["truth"], table["predicted"]
        expected = {
            "accuracy": accuracy_score(truth, predicted),
            "balanced_accuracy": balanced_accuracy_score(truth, predicted),
            "f1_macro": f1_score(truth, predicted, average="macro"),
            "auc_macro": roc_auc_score(truth == "right", table["prob_right"]),
        }
        for name, value in expected.items():
            assert result.metrics["slice"][name] == pytest.approx(value, abs=1e-6), name
        assert np.allclose(table[["prob_left", "prob_right"]].sum(axis=1), 1, atol=1e-6)

    def test_the_worst_mistakes_are_drawn(self, evaluate):
        result = evaluate(pictures=2)
        table = pd.read_csv(result.folder / "predictions.csv")
        true = np.where(table["truth"] == "left", table["prob_left"], table["prob_right"])
        drawn = sorted((result.folder / "grad_cam").iterdir())
        assert [path.stem.partition("-")[2] for path in drawn] == table["slice"][
            np.argsort(true, kind="stable")[:2]
        ].tolist()


class TestErrors:
    def test_metrics_of_another_evaluation_stay(self, evaluate, tmp_path):
        evaluate()
        before = (tmp_path / "metrics" / "metrics.csv").read_bytes()
        with pytest.raises(UsageError, match="exists already"):
            evaluate(part="val")
        assert (tmp_path / "metrics" / "metrics.csv").read_bytes() == before
        evaluate(part="val", overwrite=True)

    @pytest.mark.parametrize(
        ("changes", "error", "match"),
        [
            ({"part": "tset"}, UsageError, "unknown part of the split 'tset'"),
            ({"label": "colour"}, UsageError, "--label colour"),
            ({"run": "nothing"}, RunError, "no such run"),
            ({"data": "nowhere"}, DataError, "nowhere"),
        ],
    )
    def test_are_told_and_nothing_is_written(self, evaluate, tmp_path, changes, error, match):
        with pytest.raises(error, match=match):
            evaluate(**changes)
        assert not (tmp_path / "metrics").exists()

    def test_a_checkpoint_outside_of_a_run_needs_data_and_out(self, evaluate, run, tmp_path, images):
        for suffix in ("safetensors", "json"):
            shutil.copy(run / "checkpoints" / f"best.{suffix}", tmp_path / f"weights.{suffix}")
        weights = str(tmp_path / "weights.safetensors")
        with pytest.raises(UsageError, match="needs --data"):
            evaluate(run=weights)
        with pytest.raises(UsageError, match="needs --out"):
            evaluate(run=weights, data=images, out=None)
        assert evaluate(run=weights, data=images).slices == 28
