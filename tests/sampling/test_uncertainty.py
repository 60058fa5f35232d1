from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseg.sampling import bald_score, least_confidence, margin_score, predictive_entropy


def draw(seed: int, *shape: int, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.5), size=shape)


def test_margin_and_confidence_by_hand():
    values = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.7, 0.1], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(margin_score(values), [1, 0, 0.5, 1])
    np.testing.assert_allclose(least_confidence(values), [0.5, 0, 0.3, 2 / 3])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999))
def test_with_two_classes_the_unsure_scores_agree_on_the_order(seed: int):
    values = draw(seed, 8, classes=2)
    order = np.argsort(predictive_entropy(values))
    np.testing.assert_array_equal(np.argsort(margin_score(values)), order)
    np.testing.assert_array_equal(np.argsort(least_confidence(values)), order)
    np.testing.assert_allclose(margin_score(values), 2 * least_confidence(values))


def test_passes_that_are_the_same_tell_nothing_however_unsure():
    values = np.tile(draw(0, 6), (5, 1, 1))
    np.testing.assert_allclose(bald_score(values), 0, atol=1e-12)
    np.testing.assert_allclose(bald_score(np.full((4, 1, 2), 0.5)), 0, atol=1e-12)


def test_certain_passes_that_disagree_tell_all():
    values = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    np.testing.assert_allclose(bald_score(values), np.log(2))
    three = np.eye(3)[:, None, :]
    np.testing.assert_allclose(bald_score(three), np.log(3))


def test_bald_of_two_passes_in_closed_form():
    # The mean is 1/2 with entropy ln 2, and each pass has the entropy of 1/4.
    values = np.array([[[0.25, 0.75]], [[0.75, 0.25]]])
    np.testing.assert_allclose(bald_score(values), np.log(2) + 0.25 * np.log(0.25) + 0.75 * np.log(0.75))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 999), st.integers(1, 6), st.integers(0, 5), st.integers(2, 4))
def test_bald_lies_between_nothing_and_the_entropy_of_the_mean(seed: int, passes: int, samples: int, classes: int):
    values = draw(seed, passes, samples, classes=classes)
    score = bald_score(values)
    assert np.all(score >= 0)
    assert np.all(score <= predictive_entropy(values.mean(axis=0)) + 1e-12)
    np.testing.assert_allclose(score, bald_score(values[::-1]), atol=1e-12)


@pytest.mark.parametrize("score", [margin_score, least_confidence, lambda values: bald_score(values[None])])
@pytest.mark.parametrize("values", [[[np.nan, 0.5]], [[1.2, -0.2]], [[0.5, 0.6]]])
def test_what_is_no_probability_is_refused(score: Callable, values: list):
    with pytest.raises(ValueError, match="softmax"):
        score(np.array(values))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="samples, classes"):
        margin_score(np.array([0.5, 0.5]))
    with pytest.raises(ValueError, match="two classes"):
        margin_score(np.ones((3, 1)))
    with pytest.raises(ValueError, match="passes, samples, classes"):
        bald_score(np.full((3, 2), 0.5))
