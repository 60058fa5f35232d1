import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaseg.metrics.probabilities import expected_calibration_error, reliability_bins


def two_classes(confidence):
    confidence = np.asarray(confidence, dtype=float)
    return np.stack([confidence, 1.0 - confidence], axis=1)


def test_hand_worked_bins():
    # Two samples at 0.75, one of them right; three at 0.95, all right.
    chance = two_classes([0.75, 0.75, 0.95, 0.95, 0.95])
    labels = np.array([0, 1, 0, 0, 0])
    assert expected_calibration_error(chance, labels, 10) == pytest.approx((2 * 0.25 + 3 * 0.05) / 5)
    found = reliability_bins(chance, labels, 10)
    assert found.count.tolist() == [0, 0, 0, 0, 0, 0, 0, 2, 0, 3]
    assert found.confidence[[7, 9]] == pytest.approx([0.75, 0.95])
    assert found.accuracy[[7, 9]] == pytest.approx([0.5, 1.0])
    assert np.isnan(found.confidence[:7]).all()
    assert found.edges == pytest.approx(np.arange(11) / 10)


def test_the_border_belongs_to_the_lower_bin():
    found = reliability_bins(two_classes([0.5, 0.75, 0.75 + 1e-9, 1.0]), np.zeros(4, dtype=int), 4)
    assert found.count.tolist() == [0, 1, 1, 2]


def test_one_bin_compares_the_means():
    generator = np.random.default_rng(0)
    chance, labels = generator.dirichlet(np.ones(3), 50), generator.integers(3, size=50)
    accuracy = np.mean(chance.argmax(1) == labels)
    assert expected_calibration_error(chance, labels, 1) == pytest.approx(abs(accuracy - chance.max(1).mean()))


@pytest.mark.parametrize(("label", "error"), [(0, 0.0), (1, 1.0)])
def test_the_best_and_the_worst(label, error):
    assert expected_calibration_error(two_classes([1.0] * 4), np.full(4, label)) == error


def test_samples_drawn_from_the_probabilities_are_calibrated():
    generator = np.random.default_rng(1)
    chance = generator.dirichlet(np.ones(3), 60_000)
    labels = (generator.random((60_000, 1)) > chance.cumsum(1)).sum(1)
    assert expected_calibration_error(chance, labels) < 0.01
    # Sharpening makes it too sure of itself.
    sharp = chance**4 / (chance**4).sum(1, keepdims=True)
    accuracy = np.mean(chance.argmax(1) == labels)
    assert expected_calibration_error(sharp, labels) == pytest.approx(sharp.max(1).mean() - accuracy, abs=0.01)


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 40), st.integers(1, 20))
def test_the_definition_bin_by_bin(seed, classes, samples, bins):
    generator = np.random.default_rng(seed)
    chance = generator.dirichlet(np.ones(classes), samples)
    labels = generator.integers(classes, size=samples)
    expected = 0.0
    for m in range(bins):
        rows = [i for i in range(samples) if m / bins < max(chance[i]) <= (m + 1) / bins]
        if rows:
            right = sum(int(np.argmax(chance[i]) == labels[i]) for i in rows) / len(rows)
            expected += len(rows) / samples * abs(right - sum(max(chance[i]) for i in rows) / len(rows))
    assert expected_calibration_error(chance, labels, bins) == pytest.approx(expected, abs=1e-9)
    found = reliability_bins(chance, labels, bins)
    assert found.count.sum() == samples
    gap = np.nansum(found.count * np.abs(found.accuracy - found.confidence)) / samples
    assert gap == pytest.approx(expected, abs=1e-9)


def test_binary_bins_agree_with_scikit_learn():
    from sklearn.calibration import calibration_curve

    generator = np.random.default_rng(2)
    confidence, right = generator.uniform(0.5, 1.0, 300), generator.random(300) < 0.8
    accuracy, mean = calibration_curve(right, confidence, n_bins=10)
    found = reliability_bins(two_classes(confidence), np.where(right, 0, 1), 10)
    held = found.count > 0
    assert found.accuracy[held] == pytest.approx(accuracy)
    assert found.confidence[held] == pytest.approx(mean)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        expected_calibration_error(two_classes([0.7]), [0], 0)
    with pytest.raises(ValueError, match="sum to 1"):
        expected_calibration_error(np.array([[0.7, 0.7]]), [0])
    with pytest.raises(ValueError, match="finite"):
        expected_calibration_error(np.array([[math.nan, 0.7]]), [0])
