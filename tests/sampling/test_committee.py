from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy

from metaseg.sampling import committee_score


def draw(seed: int, members: int, samples: int, classes: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.7), size=(members, samples))


def test_three_members_by_hand():
    # Sample 0: all say 1/2. Sample 1: 3/4, 3/4 and 1/4; two pairs differ, each by (3/4 - 1/4) ln 3 for either class.
    half, likely, unlikely = [0.5, 0.5], [0.25, 0.75], [0.75, 0.25]
    score = committee_score(np.array([[half, likely], [half, likely], [half, unlikely]]))
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    np.testing.assert_allclose(score, [3 * np.log(2), 3 * entropy + 2 * np.log(3)])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(1, 5), st.integers(0, 6), st.integers(2, 4))
def test_entropies_and_divergences_are_scipys(seed: int, members: int, samples: int, classes: int):
    values = draw(seed, members, samples, classes)
    pairs = list(itertools.combinations(values, 2))
    expected = scipy_entropy(values, axis=-1).sum(axis=0)
    for one, other in pairs:
        expected = expected + scipy_entropy(one, other, axis=-1) + scipy_entropy(other, one, axis=-1)
    np.testing.assert_allclose(committee_score(values), expected, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(1, 4))
def test_the_sequence_of_members_and_of_classes_does_not_matter(seed: int, members: int):
    values = draw(seed, members, 5, 3)
    np.testing.assert_allclose(committee_score(values[::-1]), committee_score(values))
    np.testing.assert_allclose(committee_score(values[..., ::-1]), committee_score(values))


def test_certain_members_that_disagree_score_most_and_stay_finite():
    agree, disagree = np.tile([1.0, 0.0], (3, 1)), np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    score = committee_score(np.stack([agree, disagree], axis=1))
    np.testing.assert_allclose(score, [0, 4 * -np.log(np.finfo(np.float64).eps)], atol=1e-12)


@pytest.mark.parametrize(
    "values", [np.full((2, 2), 0.5), np.full((2, 3, 2), 0.6), np.empty((0, 3, 2)), np.full((1, 1, 2), np.nan)]
)
def test_what_is_no_probability_is_refused(values: np.ndarray):
    with pytest.raises(ValueError, match=r"softmax|members, samples, classes"):
        committee_score(values)
