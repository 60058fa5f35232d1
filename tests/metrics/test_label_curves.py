from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from metaseg.metrics.curves import area_under_budget_curve, labels_saved, labels_to_reach


@st.composite
def curves(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    rounds = draw(st.integers(2, 8))
    steps = draw(st.lists(st.integers(1, 50), min_size=rounds, max_size=rounds))
    metrics = draw(st.lists(st.integers(0, 100), min_size=rounds, max_size=rounds))
    return np.cumsum(steps), np.array(metrics) / 100


@settings(max_examples=60, deadline=None)
@given(curve=curves(), constant=st.integers(0, 1000), scale=st.integers(1, 9), shift=st.integers(0, 99))
def test_area_is_scipys_of_the_rescaled_budget(curve, constant, scale, shift):
    labels, metrics = curve
    area = area_under_budget_curve(labels, metrics)
    np.testing.assert_allclose(area, trapezoid(metrics, (labels - labels[0]) / (labels[-1] - labels[0])))
    assert metrics.min() - 1e-12 <= area <= metrics.max() + 1e-12
    np.testing.assert_allclose(area_under_budget_curve(scale * labels + shift, metrics), area)
    level = np.full(len(labels), constant / 1000)
    np.testing.assert_allclose(area_under_budget_curve(labels, level), constant / 1000)


def test_area_by_hand():
    assert area_under_budget_curve([10, 20, 40], [0.0, 0.6, 0.9]) == pytest.approx((10 * 0.3 + 20 * 0.75) / 30)
    assert area_under_budget_curve([0, 100], [0.5, 1.0]) == pytest.approx(0.75)


def test_labels_to_reach_by_hand():
    labels, metrics = [10, 20, 40, 50], [0.5, 0.7, 0.9, 0.8]
    for target, expected in ((0.4, 10), (0.5, 10), (0.6, 15), (0.7, 20), (0.8, 30), (0.9, 40)):
        assert labels_to_reach(labels, metrics, target) == pytest.approx(expected)
    assert math.isnan(labels_to_reach(labels, metrics, 0.91))
    assert labels_to_reach([5], [0.6], 0.6) == 5


@settings(max_examples=60, deadline=None)
@given(curve=curves(), target=st.integers(0, 100).map(lambda x: x / 100))
def test_the_curve_is_at_the_target_where_it_is_reached_and_below_before(curve, target):
    labels, metrics = curve
    reached = labels_to_reach(labels, metrics, target)
    if math.isnan(reached):
        assert metrics.max() < target
    else:
        assert np.interp(reached, labels, metrics) >= target - 1e-9
        assert np.all(metrics[labels < reached] < target)


def test_labels_saved_by_hand():
    # The baseline ends at 0.8 with 100 labels; the method is there half-way between 20 and 60.
    assert labels_saved([20, 60], [0.7, 0.9], [50, 100], [0.6, 0.8]) == pytest.approx(0.6)
    assert labels_saved([100, 200], [0.6, 0.8], [50, 100], [0.6, 0.8]) == pytest.approx(-1)
    assert math.isnan(labels_saved([20, 60], [0.5, 0.7], [50, 100], [0.6, 0.8]))
    # The baseline was at its final metric with 50 labels already.
    assert labels_saved([25], [0.8], [50, 80, 100], [0.8, 0.9, 0.8]) == pytest.approx(0.5)
    assert math.isnan(labels_saved([0], [0.8], [0, 10], [0.8, 0.8]))


@settings(max_examples=60, deadline=None)
@given(curve=curves())
def test_a_curve_saves_nothing_against_itself(curve):
    assert labels_saved(*curve, *curve) == 0


@pytest.mark.parametrize(
    ("labels", "metrics", "message"),
    [
        ([], [], "same rounds"),
        ([1, 2], [0.5], "same rounds"),
        ([2, 2], [0.5, 0.6], "rise"),
        ([-1, 2], [0.5, 0.6], "rise"),
        ([1, 2], [0.5, math.nan], "not finite"),
        ([1], [0.5], "two rounds"),
    ],
)
def test_what_is_no_curve_is_refused(labels, metrics, message):
    with pytest.raises(ValueError, match=message):
        area_under_budget_curve(labels, metrics)


def test_a_target_must_be_a_number():
    with pytest.raises(ValueError, match="target of nan"):
        labels_to_reach([1, 2], [0.5, 0.6], math.nan)
