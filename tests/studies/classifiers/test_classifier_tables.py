from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

from metaseg.studies.classifiers.tables import (
    Predictions,
    against_baseline,
    entry_summary,
    final_metrics,
    label_metrics,
    mean_curve,
    seed_curves,
)
from metaseg.studies.workers import Unit


def predictions(seed, classes=3, patients=12, shift=0):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(patients) % classes, 5)
    chance = rng.dirichlet(np.ones(classes), size=len(truth)) + 0.4 * np.eye(classes)[truth]
    names = np.repeat([f"p{number + shift:02d}" for number in range(patients)], 5)
    return Predictions(chance / chance.sum(1, keepdims=True), truth, names, tuple("abc"[:classes]))


@pytest.mark.parametrize("classes", [2, 3])
def test_final_metrics_are_the_mean_over_seeds_of_scikit_learns(classes):
    of_seeds = {seed: predictions(seed, classes) for seed in range(3)}
    row = final_metrics(of_seeds, 200)
    theirs = {
        "accuracy": lambda y, p: accuracy_score(y, p.argmax(1)),
        "balanced_accuracy": lambda y, p: balanced_accuracy_score(y, p.argmax(1)),
        "f1": lambda y, p: f1_score(y, p.argmax(1), average="macro"),
        "auc": lambda y, p: roc_auc_score(y, p[:, 1] if classes == 2 else p, multi_class="ovr", average="macro"),
    }
    for name, metric in theirs.items():
        values = [metric(found.labels, found.probabilities) for found in of_seeds.values()]
        assert row[name] == pytest.approx(np.mean(values)), name
        assert row[f"{name}_sd_seeds"] == pytest.approx(np.std(values, ddof=1)), name
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"], name


def test_final_metrics_of_seeds_with_patients_of_their_own():
    row = final_metrics({seed: predictions(seed, shift=20 * seed) for seed in range(2)}, 200)
    assert row["auc_low"] < row["auc"] < row["auc_high"]


def curves(**of_entries):
    """Label curves of entries: for each a list of seeds, each ``{labels: auc}``."""
    rows = [
        {"entry": entry, "seed": seed, "round": number, "labels": labels, "part": "test", "auc": value}
        for entry, seeds in of_entries.items()
        for seed, points in enumerate(seeds)
        for number, (labels, value) in enumerate(points.items(), start=1)
    ]
    return pd.DataFrame(rows)


class TestLabels:
    def test_saved_of_curves_made_by_hand(self):
        table = curves(random=[{10: 0.5, 20: 0.6, 30: 0.7, 40: 0.8}], clever=[{10: 0.6, 20: 0.8, 30: 0.9, 40: 0.9}])
        row = label_metrics(table, "clever", "random", "auc", 200)
        assert row["labels"] == 40
        assert row["labels_needed"] == 20
        assert row["labels_saved"] == pytest.approx(0.5)
        assert row["labels_saved_low"] == row["labels_saved_high"] == pytest.approx(0.5)

    def test_area_is_numpys_trapezoid(self):
        points = {10: 0.5, 20: 0.7, 40: 0.8}
        row = label_metrics(curves(random=[points, points]), "random", "random", "auc", 200)
        expected = np.trapezoid(list(points.values()), list(points)) / 30
        assert row["area"] == pytest.approx(expected)
        assert "labels_saved" not in row

    def test_never_reached_saves_nothing(self):
        table = curves(random=[{10: 0.5, 20: 0.9}], poor=[{10: 0.4, 20: 0.6}])
        row = label_metrics(table, "poor", "random", "auc", 200)
        assert math.isnan(row["labels_needed"])
        assert math.isnan(row["labels_saved"])

    def test_a_curve_saves_nothing_against_its_like(self):
        points = [{10: 0.5, 20: 0.7, 30: 0.8}] * 2
        assert label_metrics(curves(random=points, same=points), "same", "random", "auc", 200)["labels_saved"] == 0

    def test_unknown_metrics_are_left_out(self):
        nothing = {10: math.nan, 20: math.nan}
        table = curves(random=[nothing, {10: 0.5, 20: 0.6}], empty=[nothing])
        assert list(seed_curves(table, "random", "auc")) == [1]
        assert label_metrics(table, "empty", "random", "auc", 200) == {}
        assert label_metrics(table, "random", "random", "auc", 200)["labels"] == 20

    def test_an_entry_that_trains_has_none(self):
        assert label_metrics(curves(random=[{10: 0.5}]), "full", "random", "auc", 200) == {}

    def test_mean_curve_at_shared_labels(self):
        one, other = pd.Series({10: 0.2, 20: 0.4, 30: 0.6}), pd.Series({10: 0.4, 15: 0.0, 30: 1.0})
        assert mean_curve([one, other]).to_dict() == pytest.approx({10: 0.3, 30: 0.8})

    def test_mean_curve_between_labels_that_differ(self):
        one, other = pd.Series({10: 0.0, 30: 1.0}), pd.Series({14: 0.5, 24: 0.5})
        assert mean_curve([one, other]).to_dict() == pytest.approx({14: 0.35, 24: 0.6})


class TestPairwise:
    @pytest.fixture
    def found(self):
        return {
            Unit("cell", "", label, seed=seed): predictions(10 * number + seed)
            for number, label in enumerate("abc")
            for seed in (0, 1)
        }

    def test_is_scipys_test_of_patients(self, found):
        work = SimpleNamespace(entries=dict.fromkeys("abc"))
        table = against_baseline(work, found, "a").set_index("entry")

        def of_patients(label):
            frames = [
                pd.DataFrame({"patient": one.patients, "right": one.probabilities.argmax(1) == one.labels})
                for cell, one in found.items()
                if cell.label == label
            ]
            return pd.concat(frames).groupby("patient")["right"].mean()

        assert table.index.tolist() == ["b", "c"]
        for label in "bc":
            difference = (of_patients(label) - of_patients("a")).round(9)
            assert table.loc[label, "n_patients"] == 12
            assert table.loc[label, "difference"] == pytest.approx(difference.mean())
            unequal = difference[difference != 0]
            assert table.loc[label, "p"] == pytest.approx(wilcoxon(unequal).pvalue, abs=0.02)
        assert (table["p_holm"] >= table["p"]).all()

    def test_without_a_baseline_there_is_none(self, found):
        without = {cell: one for cell, one in found.items() if cell.label != "a"}
        assert against_baseline(SimpleNamespace(entries=dict.fromkeys("abc")), without, "a").empty

    def test_summary_has_the_entries_that_are_done(self, found):
        work = SimpleNamespace(entries=dict.fromkeys("abcd"), study=SimpleNamespace(resamples=200, metric="auc"))
        table = entry_summary(work, found, curves(a=[{10: 0.5, 20: 0.6}] * 2), "a").set_index("entry")
        assert table.index.tolist() == ["a", "b", "c"]
        assert table.loc["a", "labels"] == 20
        assert np.isnan(table.loc["b", "labels"])
