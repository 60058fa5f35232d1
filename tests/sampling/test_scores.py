from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_dice
from scipy.stats import entropy as scipy_entropy

from metaseg.sampling import predictive_entropy, slice_dice, slice_entropy


def counts(label: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    one_hot = np.arange(1, classes)[None, :, None, None]
    in_label, in_prediction = label[:, None] == one_hot, predicted[:, None] == one_hot
    return tuple(mask.sum(axis=(2, 3)) for mask in (in_label & in_prediction, in_label, in_prediction))


def test_slice_dice_by_hand():
    # Class by class: 2*3/(4+4) = 0.75 and 2*0/(0+5) = 0; absent everywhere; one class present in both; prediction only.
    overlap = np.array([[3, 0], [0, 0], [0, 2], [0, 0]])
    label = np.array([[4, 0], [0, 0], [0, 2], [0, 0]])
    predicted = np.array([[4, 5], [0, 0], [0, 2], [7, 0]])
    np.testing.assert_array_equal(slice_dice(overlap, label, predicted), [0.375, 1.0, 1.0, 0.0])


def test_slice_dice_is_the_mean_of_monai_over_present_classes():
    rng = np.random.default_rng(0)
    label, predicted = rng.integers(0, 4, (2, 6, 8, 8))
    label[0], predicted[1] = 0, 0
    found = slice_dice(*counts(label, predicted, 4))
    one_hot = [torch.from_numpy(np.moveaxis(np.eye(4)[maps], -1, 1)) for maps in (predicted, label)]
    per_class = compute_dice(*one_hot, include_background=False, ignore_empty=False).numpy()
    present = (
        (label[:, None] == np.arange(1, 4)[:, None, None]) | (predicted[:, None] == np.arange(1, 4)[:, None, None])
    ).any(axis=(2, 3))
    expected = np.where(present, per_class, np.nan)
    np.testing.assert_allclose(found, np.nanmean(expected, axis=1), rtol=1e-6)


@given(arrays(np.int64, (2, 5, 4, 4), elements=st.integers(0, 2)))
def test_slice_dice_lies_in_the_unit_interval_and_is_symmetric(maps: np.ndarray):
    overlap, label, predicted = counts(maps[0], maps[1], 3)
    dice = slice_dice(overlap, label, predicted)
    assert np.all((dice >= 0) & (dice <= 1))
    np.testing.assert_array_equal(dice, slice_dice(overlap, predicted, label))
    np.testing.assert_array_equal(slice_dice(label, label, label), 1)


@pytest.mark.parametrize(
    ("overlap", "label", "predicted"),
    [([[3]], [[2]], [[4]]), ([[-1]], [[2]], [[4]]), ([1], [2], [2]), ([[1]], [[2, 3]], [[2]])],
)
def test_slice_dice_refuses_impossible_counts(overlap: list, label: list, predicted: list):
    with pytest.raises(ValueError, match=r"intersection|need three"):
        slice_dice(np.array(overlap), np.array(label), np.array(predicted))


def test_entropy_of_known_distributions():
    probabilities = np.array([[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    np.testing.assert_allclose(predictive_entropy(probabilities), [0.0, np.log(2), np.log(4)], atol=1e-12)


def test_entropy_is_scipys_over_any_axis():
    probabilities = np.random.default_rng(1).dirichlet(np.ones(4), size=(3, 5))
    np.testing.assert_allclose(predictive_entropy(probabilities, axis=-1), scipy_entropy(probabilities, axis=-1))
    moved = np.moveaxis(probabilities, -1, 0)
    np.testing.assert_allclose(predictive_entropy(moved, axis=0), scipy_entropy(moved, axis=0))


def test_slice_entropy_averages_over_pixels():
    probabilities = np.zeros((2, 2, 1, 2), dtype=np.float32)
    probabilities[0, :, 0, 0], probabilities[0, :, 0, 1] = 0.5, (1, 0)
    probabilities[1] = 0.5
    np.testing.assert_allclose(slice_entropy(probabilities), [np.log(2) / 2, np.log(2)], atol=1e-12)


def test_logits_are_not_taken_for_probabilities():
    with pytest.raises(ValueError, match="softmax"):
        predictive_entropy(np.array([[3.0, -1.0]]))
    with pytest.raises(ValueError, match="softmax"):
        predictive_entropy(np.array([[np.nan, 0.5]]))
    with pytest.raises(ValueError, match="slices, class"):
        slice_entropy(np.full((2, 4), 0.5))
