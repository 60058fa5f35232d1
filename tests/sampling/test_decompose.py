from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.filters import threshold_otsu

from metaseg.errors import UsageError
from metaseg.sampling import decompose
from metaseg.sampling.decompose import THRESHOLD_RULES

dice_scores = arrays(np.float64, st.integers(2, 40), elements=st.floats(0, 1))
coarse_scores = arrays(np.float64, st.integers(2, 40), elements=st.integers(0, 4).map(lambda step: step / 4))
rules = st.one_of(st.sampled_from(THRESHOLD_RULES), st.floats(-0.5, 1.5))


@given(st.one_of(dice_scores, coarse_scores), rules)
def test_the_sides_partition_the_slices_and_neither_is_empty(scores: np.ndarray, rule: float | str):
    split = decompose(scores, rule)
    assert split.learned.size >= 1
    assert split.unlearned.size >= 1
    np.testing.assert_array_equal(np.sort(np.concatenate([split.learned, split.unlearned])), np.arange(scores.size))
    assert np.all(np.diff(split.learned) > 0)
    assert np.all(np.diff(split.unlearned) > 0)


@given(st.one_of(dice_scores, coarse_scores), rules)
def test_slices_tied_at_the_lowest_score_are_never_learned(scores: np.ndarray, rule: float | str):
    split = decompose(scores, rule)
    if np.ptp(scores) == 0:
        assert split.unlearned.size == scores.size // 2
        return
    assert scores[split.learned].min() > scores.min()
    assert np.all(scores[split.learned] >= split.threshold)
    assert np.all(scores[split.unlearned] < split.threshold)


@given(st.one_of(dice_scores, coarse_scores), rules)
def test_a_threshold_that_parts_is_kept_and_another_replaced(scores: np.ndarray, rule: float | str):
    split = decompose(scores, rule)
    asked = {"median": np.median(scores)}.get(rule, rule) if rule not in ("otsu", "rank") else None
    if asked is not None and scores.min() < asked <= scores.max():
        assert (split.fallback, split.threshold) == (None, asked)
    elif asked is not None:
        assert split.fallback == "rank"


@given(st.one_of(dice_scores, coarse_scores))
def test_no_parting_threshold_halves_a_case_more_nearly_than_rank(scores: np.ndarray):
    def uneven(threshold: float) -> int:
        return abs(int(np.sum(scores >= threshold)) - int(np.sum(scores < threshold)))

    split = decompose(scores, "rank")
    parting = [tau for tau in scores if scores.min() < tau]
    assert not parting or uneven(split.threshold) == min(map(uneven, parting))


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
    assert split.fallback is None
    at_the_threshold = decompose(scores, 0.6)
    assert at_the_threshold.learned.tolist() == [0, 2]


def test_ties_at_the_median_are_learned_together():
    split = decompose(np.array([0.0, 0.5, 0.5, 0.5, 1.0]))
    assert split.learned.tolist() == [1, 2, 3, 4]
    assert split.unlearned.tolist() == [0]


MISSED = [0.0] * 14 + [0.05, 0.1, 0.5, 0.6, 0.6, 0.65, 0.7, 0.7, 0.75, 0.8, 0.8]
"""A case of which a network misses more than half of the slices wholly."""


@pytest.mark.parametrize(
    ("scores", "threshold", "learned", "unlearned", "fallback"),
    [
        (MISSED, "median", list(range(14, 25)), list(range(14)), "rank"),
        (MISSED, "otsu", list(range(16, 25)), list(range(16)), None),
        ([0.9, 0.8, 0.7], 0.5, [0, 1], [2], "rank"),
        ([0.3, 0.4, 0.1], 0.5, [0, 1], [2], "rank"),
        ([0.0, 0.0, 0.0, 0.7], "median", [3], [0, 1, 2], "rank"),
        ([0.5, 0.5], "median", [1], [0], "rank"),
        ([0.0, 0.0, 0.0], "otsu", [1, 2], [0], "rank"),
        ([0.0, 0.0, 1e-12], "otsu", [2], [0, 1], "rank"),
    ],
)
def test_where_the_threshold_parts_nothing_rank_does(scores, threshold, learned, unlearned, fallback):
    split = decompose(np.array(scores), threshold)
    assert (split.learned.tolist(), split.unlearned.tolist(), split.fallback) == (learned, unlearned, fallback)


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
