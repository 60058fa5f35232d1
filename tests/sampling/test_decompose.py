from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.filters import threshold_otsu

from metaseg.errors import UsageError
from metaseg.sampling import decompose

dice_scores = arrays(np.float64, st.integers(2, 40), elements=st.floats(0, 1))
rules = st.one_of(st.sampled_from(["median", "otsu"]), st.floats(-0.5, 1.5))


@given(dice_scores, rules, st.integers(1, 4))
def test_the_sides_partition_the_slices_and_neither_is_empty(scores: np.ndarray, rule: float | str, fill: int):
    split = decompose(scores, rule, fill=fill)
    assert split.learned.size >= 1
    assert split.unlearned.size >= 1
    np.testing.assert_array_equal(np.sort(np.concatenate([split.learned, split.unlearned])), np.arange(scores.size))
    assert np.all(np.diff(split.learned) > 0)
    assert np.all(np.diff(split.unlearned) > 0)
    assert scores[split.learned].min() >= scores[split.unlearned].max()
    if split.filled is None:
        assert np.all(scores[split.learned] >= split.threshold)
        assert np.all(scores[split.unlearned] < split.threshold)


@given(arrays(np.float64, st.integers(2, 40), elements=st.floats(0, 1), unique=True))
def test_the_median_halves_distinct_scores(scores: np.ndarray):
    split = decompose(scores)
    assert split.threshold == np.median(scores)
    # The middle one of an odd count is learned.
    if np.sort(scores)[(scores.size - 1) // 2] < split.threshold or scores.size % 2:
        assert split.learned.size - split.unlearned.size == scores.size % 2


def test_by_hand():
    scores = np.array([0.9, 0.1, 0.6, 0.4])
    split = decompose(scores)
    assert split.threshold == 0.5
    assert split.learned.tolist() == [0, 2]
    assert split.unlearned.tolist() == [1, 3]
    assert split.filled is None
    at_the_threshold = decompose(scores, 0.6)
    assert at_the_threshold.learned.tolist() == [0, 2]


def test_ties_at_the_median_are_learned_together():
    split = decompose(np.array([0.0, 0.5, 0.5, 0.5, 1.0]))
    assert split.learned.tolist() == [1, 2, 3, 4]
    assert split.unlearned.tolist() == [0]


@pytest.mark.parametrize(
    ("scores", "threshold", "learned", "unlearned", "filled"),
    [
        ([0.9, 0.8, 0.7], 0.5, [0, 1], [2], "unlearned"),
        ([0.3, 0.4, 0.1], 0.5, [1], [0, 2], "learned"),
        ([0.0, 0.0, 0.0, 0.7], "median", [1, 2, 3], [0], "unlearned"),
        ([0.5, 0.5], "median", [1], [0], "unlearned"),
        ([0.5, 0.5, 0.5], "otsu", [1, 2], [0], "unlearned"),
    ],
)
def test_an_empty_side_is_filled_with_the_nearest_slice(scores, threshold, learned, unlearned, filled):
    split = decompose(np.array(scores), threshold)
    assert (split.learned.tolist(), split.unlearned.tolist(), split.filled) == (learned, unlearned, filled)


def test_more_slices_may_fill_but_one_always_stays():
    assert decompose(np.array([0.9, 0.6, 0.8, 0.7]), 0.5, fill=2).unlearned.tolist() == [1, 3]
    assert decompose(np.array([0.9, 0.6]), 0.5, fill=9).unlearned.tolist() == [1]


def test_otsu_is_scikit_images_threshold():
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.normal(0.2, 0.05, 15), rng.normal(0.8, 0.05, 10)]).clip(0, 1)
    split = decompose(scores, "otsu")
    assert split.threshold == threshold_otsu(scores)
    assert split.unlearned.tolist() == list(range(15))


def test_what_cannot_be_split_is_refused():
    with pytest.raises(UsageError, match="1 slice"):
        decompose(np.array([0.5]))
    with pytest.raises(UsageError, match="1 of 2 slice scores are not finite"):
        decompose(np.array([0.5, np.nan]))
    with pytest.raises(UsageError, match="unknown threshold 'mean'"):
        decompose(np.array([0.5, 0.6]), "mean")
    with pytest.raises(UsageError, match="unknown threshold 'nan'"):
        decompose(np.array([0.5, 0.6]), float("nan"))
    with pytest.raises(ValueError, match="shape"):
        decompose(np.zeros((2, 2)))
