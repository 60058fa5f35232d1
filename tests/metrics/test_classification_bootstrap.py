import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseg.metrics.classification import (
    HEADLINES,
    bootstrap_metrics,
    classification_metrics,
    weighted_metrics,
    weighted_ranking,
)
from metaseg.metrics.statistics import draw_weights


def example(classes=3, slices=40, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=slices)
    chance = generator.dirichlet(np.ones(classes), slices) + np.eye(classes)[labels]
    return chance / chance.sum(1, keepdims=True), labels


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 25))
def test_weights_are_repeated_samples(seed, classes, slices):
    generator = np.random.default_rng(seed)
    # Of few values, so that scores tie.
    chance = generator.multinomial(8, np.full(classes, 1 / classes), slices) / 8
    labels = generator.integers(classes, size=slices)
    names = [f"c{one}" for one in range(classes)]
    weights = draw_weights(slices, 3, generator)
    found = weighted_metrics(chance, labels, weights, names)
    for resample, row in enumerate(weights):
        repeated = np.repeat(np.arange(slices), row.astype(int))
        expected = classification_metrics(chance[repeated], labels[repeated], names)
        expected = {name: value for name, value in expected.items() if not name.startswith("support/")}
        assert {name: values[resample] for name, values in found.items()} == pytest.approx(expected, nan_ok=True)


def test_ranking_agrees_with_scikit_learn_for_any_weights():
    from sklearn.metrics import average_precision_score, roc_auc_score

    generator = np.random.default_rng(1)
    scores, positive = generator.integers(12, size=60) / 12, generator.random(60) < 0.4
    weights = generator.random((5, 60))
    auc, average = weighted_ranking(scores, positive, weights)
    for row in range(5):
        assert auc[row] == pytest.approx(roc_auc_score(positive, scores, sample_weight=weights[row]))
        assert average[row] == pytest.approx(average_precision_score(positive, scores, sample_weight=weights[row]))


def test_slices_of_a_patient_are_drawn_together():
    # Ten patients of one slice, or of 30 equal ones: the slices add nothing.
    chance, labels = example(slices=10)
    patients = np.arange(10).astype(str)
    few = bootstrap_metrics(chance, labels, patients, "abc", np.random.default_rng(0), names=None)
    many = bootstrap_metrics(
        np.repeat(chance, 30, 0),
        np.repeat(labels, 30),
        np.repeat(patients, 30),
        "abc",
        np.random.default_rng(0),
        names=None,
    )
    assert {name: pytest.approx(pair, nan_ok=True) for name, pair in few.items()} == many


def test_accuracy_has_the_binomial_interval():
    labels = np.zeros(500, dtype=int)
    right = np.arange(500) < 400
    chance = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
    patients = np.arange(500).astype(str)
    for level, width in ((0.95, 1.96), (0.8, 1.2816)):
        pair = bootstrap_metrics(chance, labels, patients, "ab", np.random.default_rng(0), 4000, ("accuracy",), level)[
            "accuracy"
        ]
        error = width * math.sqrt(0.8 * 0.2 / 500)
        assert pair == pytest.approx((0.8 - error, 0.8 + error), abs=0.003)


def test_parts_of_the_resamples_change_nothing(monkeypatch):
    chance, labels = example()
    patients = [f"p{one // 4}" for one in range(40)]
    whole = bootstrap_metrics(chance, labels, patients, "abc", np.random.default_rng(0), 100)
    monkeypatch.setattr("metaseg.metrics.classification._AT_ONCE", 40 * 7)
    assert bootstrap_metrics(chance, labels, patients, "abc", np.random.default_rng(0), 100) == whole
    assert tuple(whole) == HEADLINES


def test_intervals_hold_the_metric_and_lie_in_range():
    chance, labels = example(slices=200, seed=3)
    labels[::4] = (labels[::4] + 1) % 3
    patients = np.arange(200) // 2
    metrics = classification_metrics(chance, labels, "abc")
    pairs = bootstrap_metrics(chance, labels, patients.astype(str), "abc", np.random.default_rng(0), names=None)
    assert set(pairs) == {name for name in metrics if not name.startswith("support/")}
    for name, (low, high) in pairs.items():
        assert 0.0 <= low <= high <= (2.0 if name == "brier" else 1.0)
        # The error of a resample is biased upwards, as that of a small sample is.
        assert name == "ece" or low <= metrics[name] <= high


def test_one_patient_has_no_interval():
    chance, labels = example()
    pairs = bootstrap_metrics(chance, labels, ["p"] * 40, "abc", np.random.default_rng(0), 10)
    assert all(math.isnan(one) for pair in pairs.values() for one in pair)


def test_a_metric_that_no_resample_changes_has_no_interval():
    labels = np.arange(40) % 2
    one_class = np.tile([0.9, 0.1], (40, 1))
    pairs = bootstrap_metrics(one_class, labels, np.arange(40).astype(str), "ab", np.random.default_rng(0), 50)
    for name in ("balanced_accuracy", "auc_macro"):
        assert all(map(math.isnan, pairs[name])), name
    assert pairs["accuracy"][0] < 0.5 < pairs["accuracy"][1]


def test_unknown_metrics_are_refused():
    chance, labels = example()
    with pytest.raises(ValueError, match="no interval of support/a"):
        bootstrap_metrics(chance, labels, ["p"] * 40, "abc", np.random.default_rng(0), 10, ["support/a"])


def test_a_thousand_resamples_are_quick():
    chance, labels = example(slices=400)
    patients = np.arange(400) // 5
    begin = time.process_time()
    bootstrap_metrics(chance, labels, patients.astype(str), "abc", np.random.default_rng(0), 1000, None)
    assert time.process_time() - begin < 4.0
