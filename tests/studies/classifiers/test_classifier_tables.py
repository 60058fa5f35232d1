from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import sem, t, wilcoxon
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from metaseg.config.io import load_config
from metaseg.config.studies import ClassifyCompareConfig
from metaseg.metrics.classification import classification_metrics
from metaseg.metrics.statistics import draw_weights, percentile_interval
from metaseg.studies.classifiers.plan import make_classifier_plan
from metaseg.studies.classifiers.tables import (
    CURVE_COLUMNS,
    Predictions,
    against_baseline,
    entry_summary,
    highest_entry,
    label_bands,
    label_metrics,
    mean_curve,
    resample_metrics,
    seed_curves,
    summary_notes,
)
from metaseg.studies.tables import intervals_text
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
    row = resample_metrics(of_seeds, 200).row()
    theirs = {
        "accuracy": lambda y, p: accuracy_score(y, p.argmax(1)),
        "balanced_accuracy": lambda y, p: balanced_accuracy_score(y, p.argmax(1)),
        "f1": lambda y, p: f1_score(y, p.argmax(1), average="macro"),
        "auc": lambda y, p: roc_auc_score(y, p[:, 1] if classes == 2 else p, multi_class="ovr", average="macro"),
    }
    theirs |= {
        "precision_least": lambda y, p: min(precision_score(y, p.argmax(1), average=None)),
        "recall_least": lambda y, p: min(recall_score(y, p.argmax(1), average=None)),
    }
    if classes == 2:
        theirs |= {
            "precision_positive": lambda y, p: precision_score(y, p.argmax(1)),
            "recall_positive": lambda y, p: recall_score(y, p.argmax(1)),
            "f1_positive": lambda y, p: f1_score(y, p.argmax(1)),
            "specificity": lambda y, p: recall_score(y, p.argmax(1), pos_label=0),
        }
    assert {name for name in row if f"{name}_low" in row} == set(theirs)
    for name, metric in theirs.items():
        values = [metric(found.labels, found.probabilities) for found in of_seeds.values()]
        assert row[name] == pytest.approx(np.mean(values)), name
        assert row[f"{name}_sd_seeds"] == pytest.approx(np.std(values, ddof=1)), name
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"], name


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
def test_intervals_cover_seeds_from_three_on(seeds):
    # The same network in each seed but one, so that drawing seeds widens the interval.
    found = {seed: predictions(7) for seed in range(1, seeds)} | {0: predictions(3, patients=12)}
    row = resample_metrics(found, 25).row()
    over = [row["auc_low_seeds"], row["auc_high_seeds"]]
    assert np.isnan(over).tolist() == [seeds < 3] * 2
    if seeds >= 3:
        values = [roc_auc_score(one.labels, one.probabilities, multi_class="ovr") for one in found.values()]
        assert over == pytest.approx(t.interval(0.95, seeds - 1, np.mean(values), sem(values)))
    fixed = [metric_of_patients(found, 25), (row["auc_low"], row["auc_high"])]
    assert (fixed[0] == pytest.approx(fixed[1])) == (seeds < 3)


def metric_of_patients(found, resamples):
    """The percentile interval of the mean AUC of these very networks, patients drawn."""
    of_patients = draw_weights(12, resamples, np.random.default_rng(0))
    names = np.unique(found[0].patients)
    samples = []
    for weights in of_patients.astype(int):
        rows = np.concatenate([np.flatnonzero(found[0].patients == name) for name in np.repeat(names, weights)])
        samples.append(
            np.mean(
                [
                    classification_metrics(one.probabilities[rows], one.labels[rows], one.classes)["auc_macro"]
                    for one in found.values()
                ]
            )
        )
    return percentile_interval(np.array(samples))


def degenerate(patients=12, pictures=False):
    """Predictions of a network that gives everything the same class."""
    found = predictions(0, 2, patients)
    return replace(found, probabilities=np.tile([0.8, 0.2], (len(found.labels), 1)), pictures=pictures)


@pytest.mark.parametrize(
    ("steps", "before", "text"),
    [
        ([90.0, 90.0], [0.0, 0.0], "Each network was trained for 90 steps."),
        ([90.0, math.nan], [0.0, 0.0], "Each network of all labels was trained for 90 steps."),
        ([1440.0, 90.0], [0.0, 0.0], "Trained for differing numbers of steps: A 1,440, B 90."),
        (
            [90.0, 90.0],
            [0.0, 1440.0],
            "Each network was trained for 90 steps; B after 1,440 of the network it starts from.",
        ),
    ],
)
def test_whether_entries_were_trained_for_equally_long_is_said(steps, before, text):
    table = pd.DataFrame({"entry": ["a", "b"], "steps": steps, "steps_before": before, "n_seeds": 5})
    assert text in summary_notes(table.assign(unit="patient", one_class=0, base="none"), {"a": "A", "b": "B"})


def test_a_degenerate_network_is_said_and_has_no_interval():
    assert degenerate().one_class == "a"
    assert predictions(0).one_class == ""
    work = SimpleNamespace(
        entries=dict.fromkeys("ab"), study=SimpleNamespace(resamples=100, metric="auc"), base=lambda _: "none"
    )
    found = {Unit("cell", "", "a", seed=seed): degenerate() for seed in range(3)}
    found |= {Unit("cell", "", "b", seed=seed): predictions(seed, 2) for seed in range(3)}
    table = entry_summary(work, found, curves(), "a").set_index("entry")
    assert table["one_class"].to_dict() == {"a": 3, "b": 0}
    assert table.loc["a", ["auc_low", "auc_high", "balanced_accuracy_low"]].isna().all()
    assert table.loc["b", "auc_low"] < table.loc["b", "auc"]
    notes = " ".join(summary_notes(table.reset_index(), {"a": "first", "b": "second"}))
    assert "first (3 of 3 seeds)" in notes
    assert "second" not in notes


@pytest.mark.parametrize(("pictures", "seeds", "over"), [(False, 3, "patients and seeds"), (True, 2, "pictures")])
def test_what_the_intervals_are_over_is_said(pictures, seeds, over):
    work = SimpleNamespace(
        entries=dict.fromkeys("a"), study=SimpleNamespace(resamples=50, metric="auc"), base=lambda _: "none"
    )
    found = {Unit("cell", "", "a", seed=seed): replace(predictions(seed), pictures=pictures) for seed in range(seeds)}
    table = entry_summary(work, found, curves(), "a")
    assert table[["unit", "n_units", "interval_over"]].iloc[0].tolist() == ["picture" * pictures or "patient", 12, over]
    notes = " ".join(summary_notes(table, {"a": "a"}))
    assert ("name no patients" in notes) == pictures
    assert ("Fewer than 3 seeds" in notes) == (seeds < 3)
    assert intervals_text(table) == f"95 % interval over {over}"


def test_the_highest_is_tested_against_all_others():
    work = SimpleNamespace(
        entries=dict.fromkeys("abc"), study=SimpleNamespace(resamples=300, metric="auc"), base=lambda _: "none"
    )
    good, alike = {"a": 0, "b": 100}, {"c": 30}
    found = {
        Unit("cell", "", label, seed=seed): predictions(start + seed, patients=30)
        for label, start in (good | alike).items()
        for seed in range(3)
    }
    for cell, one in list(found.items()):
        if cell.label == "c":
            found[cell] = replace(one, labels=(one.labels + np.arange(len(one.labels)) // 5 % 2) % 3)
    table = entry_summary(work, found, curves(), "a")
    rows = table.set_index("entry")
    best = rows["auc"].idxmax()
    assert math.isnan(rows.loc[best, "auc_p_best"])
    assert rows.loc["c", "auc_p_best"] < 0.05 < rows.drop(index=[best, "c"])["auc_p_best"].item()
    told = highest_entry(table, dict(zip("abc", "ABC", strict=True)), "auc")
    assert told.startswith(f"{best.upper()} has the highest macro AUC: shown to be higher than C")
    few = entry_summary(work, {cell: one for cell, one in found.items() if cell.seed < 2}, curves(), "a")
    assert few["auc_p_best"].isna().all()
    assert "not tested" in highest_entry(few, dict(zip("abc", "ABC", strict=True)), "auc")


def test_final_metrics_of_seeds_with_patients_of_their_own():
    row = resample_metrics({seed: predictions(seed, shift=20 * seed) for seed in range(2)}, 200).row()
    assert row["auc_low"] < row["auc"] < row["auc_high"]


def curves(**of_entries):
    """Label curves of entries: for each a list of seeds, each ``{labels: auc}``."""
    rows = [
        {"entry": entry, "seed": seed, "round": number, "labels": labels, "part": "test", "auc": value}
        for entry, seeds in of_entries.items()
        for seed, points in enumerate(seeds)
        for number, (labels, value) in enumerate(points.items(), start=1)
    ]
    return pd.DataFrame(rows, columns=None if rows else list(CURVE_COLUMNS))


class TestLabels:
    def test_saved_of_curves_made_by_hand(self):
        table = curves(random=[{10: 0.5, 20: 0.6, 30: 0.7, 40: 0.8}], clever=[{10: 0.6, 20: 0.8, 30: 0.9, 40: 0.9}])
        row = label_metrics(table, "clever", "random", "auc", 200)
        assert row["labels"] == 40
        assert row["labels_needed"] == 20
        assert row["labels_saved"] == pytest.approx(0.5)

    @pytest.mark.parametrize("seeds", [1, 2, 3, 5])
    def test_intervals_over_seeds_take_three(self, seeds):
        rng = np.random.default_rng(seeds)
        noisy = [{10: 0.5 + one, 20: 0.8 + one, 30: 0.9 + one} for one in rng.normal(0, 0.05, seeds)]
        plain = [{10: 0.3, 20: 0.6 + one, 30: 0.85 + one} for one in rng.normal(0, 0.05, seeds)]
        row = label_metrics(curves(random=plain, clever=noisy), "clever", "random", "auc", 200)
        ends = [row[name] for name in ("area_low", "area_high", "labels_saved_low", "labels_saved_high")]
        assert np.isnan(ends).tolist() == [seeds < 3] * 4
        assert math.isnan(row["labels_saved_p"]) == (seeds < 3)
        bands = label_bands(curves(random=plain), "auc", {"random": "random"})
        assert bands[["low", "high"]].isna().to_numpy().all() == (seeds < 3)

    def test_saving_in_every_seed_and_in_none(self):
        rng = np.random.default_rng(0)
        random = [{10: 0.5 + one, 20: 0.6 + one, 30: 0.7 + one} for one in rng.normal(0, 0.01, 5)]
        clever = [{10: 0.68 + one, 20: 0.9 + one, 30: 0.9 + one} for one in rng.normal(0, 0.01, 5)]
        same = [dict(points) for points in random[::-1]]
        table = curves(random=random, clever=clever, same=same)
        assert label_metrics(table, "clever", "random", "auc", 500)["labels_saved_p"] < 0.01
        assert label_metrics(table, "same", "random", "auc", 500)["labels_saved_p"] > 0.2

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
        work = SimpleNamespace(
            entries=dict.fromkeys("abcd"), study=SimpleNamespace(resamples=200, metric="auc"), base=lambda _: "none"
        )
        table = entry_summary(work, found, curves(a=[{10: 0.5, 20: 0.6}] * 2), "a").set_index("entry")
        assert table.index.tolist() == ["a", "b", "c"]
        assert table.loc["a", "labels"] == 20
        assert np.isnan(table.loc["b", "labels"])


BASES = {
    "none": (["none", "none"], "All entries began with random weights."),
    "one": (["ImageNet", "ImageNet"], "All entries began with ImageNet."),
    "scratch beside": (["ImageNet", "none"], "Began with ImageNet: first; none: second."),
    "mixed": (["ImageNet, first", "runs/base"], "ImageNet and other bases in one table"),
}


@pytest.mark.parametrize(("bases", "told"), BASES.values(), ids=BASES)
def test_what_entries_began_with_is_said_and_mixed_bases_are_pointed_out(bases, told):
    table = pd.DataFrame({"entry": ["a", "b"], "base": bases, "n_seeds": 3, "unit": "patient", "one_class": 0})
    notes = summary_notes(table, {"a": "first", "b": "second"})
    assert told in notes[0]
    assert ("in one table" in notes[0]) == ("one table" in told)


def test_the_base_of_an_entry_is_followed_through_the_networks_of_the_study(tmp_path):
    shared = {"model": "2d-cnn", "data": "pictures", "transfer": "finetune"}
    entries = {
        "scratch": {"transfer": "scratch"},
        "all": {"model": "alexnet", "weights": "imagenet"},
        "file": {"weights": "runs/base"},
        "first": {"weights": "from:earlier"},
        "second": {"weights": "from:all", "model": "alexnet"},
    }
    given = {
        "shared": shared,
        "entries": entries,
        "pretrain": {"earlier": shared | {"transfer": "scratch"}},
        "out": tmp_path,
    }
    work = make_classifier_plan(load_config(ClassifyCompareConfig, None, given))
    found = {label: work.base(label) for label in entries}
    expected = {
        "scratch": "none",
        "all": "ImageNet",
        "file": "runs/base",
        "first": "earlier",
        "second": "ImageNet, all",
    }
    assert found == expected
