from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from metaseg.studies.classifiers.classes import by_entry, class_table, confusion_table, write_classes
from metaseg.studies.classifiers.tables import Predictions, resample_metrics
from metaseg.studies.workers import Unit

CLASSES = ("glioma", "meningioma", "none", "pituitary")


def predictions(seed: int, patients: int = 24) -> Predictions:
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(patients) % 4, 3)
    chance = rng.dirichlet(np.ones(4), size=len(truth)) + 0.4 * np.eye(4)[truth]
    names = np.repeat([f"p{number:02d}" for number in range(patients)], 3)
    return Predictions(chance / chance.sum(1, keepdims=True), truth, names, CLASSES)


@pytest.fixture
def found():
    return by_entry({Unit("cell", "", label, seed=seed): predictions(seed) for label in "ab" for seed in range(3)})


def test_confusion_matrices_are_scikit_learns_summed_over_seeds(found):
    table = confusion_table(found).set_index(["entry", "truth", "predicted"])
    theirs = sum(confusion_matrix(one.labels, one.probabilities.argmax(1)) for one in found["a"].values())
    ours = [[table.loc[("a", true, given), "slices"] for given in CLASSES] for true in CLASSES]
    assert (np.array(ours) == theirs).all()
    assert table.groupby(["entry", "truth"])["fraction"].sum().to_numpy() == pytest.approx(1.0)


def test_metrics_of_classes_are_the_mean_over_seeds_of_scikit_learns(found):
    table = class_table(found, 300)
    rows = table[table["entry"] == "a"].set_index("class")
    of_seeds = [precision_recall_fscore_support(one.labels, one.probabilities.argmax(1)) for one in found["a"].values()]
    for number, name in enumerate(("precision", "recall", "f1")):
        assert rows.loc[list(CLASSES), name].to_numpy() == pytest.approx(np.mean([one[number] for one in of_seeds], 0))
        assert (rows[f"{name}_low"] < rows[name]).all()
        assert (rows[name] < rows[f"{name}_high"]).all()
    assert rows["support"].tolist() == [54] * 4


def test_the_least_of_the_classes_is_summarised(found):
    row = resample_metrics(found["a"], 200).row()
    for number, name in enumerate(("precision", "recall")):
        lowest = [
            precision_recall_fscore_support(one.labels, one.probabilities.argmax(1))[number].min()
            for one in found["a"].values()
        ]
        assert row[f"{name}_least"] == pytest.approx(np.mean(lowest))
        assert row[f"{name}_least_low"] < row[f"{name}_least"] < row[f"{name}_least_high"]


def test_a_class_that_is_never_predicted_has_no_precision_to_speak_of(found):
    blind = {}
    for seed, one in found["a"].items():
        chance = np.where(np.arange(4) == 2, 0.0, one.probabilities)
        blind[seed] = replace(one, probabilities=chance / chance.sum(axis=1, keepdims=True))
    row = class_table({"a": blind}, 100).set_index("class").loc["none"]
    assert row[["precision", "recall", "f1"]].tolist() == [0.0, 0.0, 0.0]
    assert np.isnan(row["recall_low"]), "it does not vary"
    assert resample_metrics(blind, 100).row()["recall_least"] == 0.0


def test_files_of_a_study(found, tmp_path):
    table = write_classes(found, tmp_path, {"a": "First", "b": "Second"}, 100, synthetic=True)
    written = pd.read_csv(tmp_path / "classes.csv")
    assert written[["entry", "class"]].equals(table[["entry", "class"]])
    assert len(pd.read_csv(tmp_path / "confusion.csv")) == 2 * 16
    assert (tmp_path / "confusion.png").read_bytes()[:4] == b"\x89PNG"
