import numpy as np
import pytest
from scipy import integrate

from metaseg.metrics.curves import retention_area, steps_to_fraction
from metaseg.metrics.forgetting import (
    backward_transfer,
    balanced_mean,
    forgetting,
    forgetting_metrics,
    forward_transfer,
)


def test_losing_dice_is_positive_forgetting():
    assert forgetting(0.66, 0.40) == pytest.approx(0.26)
    assert backward_transfer(0.66, 0.40) == pytest.approx(-0.26)
    assert forgetting(0.5, 0.6) < 0


def test_balanced_mean_counts_domains_alike():
    assert balanced_mean(0.6, 0.4) == pytest.approx(0.5)


@pytest.mark.parametrize("constant", [0.0, 0.37, 1.0])
def test_constant_curve_scores_its_constant(constant):
    assert retention_area(np.array([0, 3, 100, 2000]), np.array([constant] * 4)) == pytest.approx(constant)


def test_straight_line_scores_its_middle_whatever_the_steps():
    steps = np.array([5.0, 6.0, 40.0, 41.5, 105.0])
    assert retention_area(np.array(steps), np.array(1.0 - (steps - 5.0) / 100.0)) == pytest.approx(0.5)


def test_equals_scipy():
    generator = np.random.default_rng(0)
    steps, dice = np.cumsum(generator.random(20) + 0.1), generator.random(20)
    assert retention_area(steps, dice) == pytest.approx(integrate.trapezoid(dice, steps) / (steps[-1] - steps[0]))


def test_single_point_scores_itself():
    assert retention_area(np.array([7]), np.array([0.4])) == 0.4


def test_knowing_the_source_helps_if_it_beats_a_start_from_scratch():
    assert forward_transfer(0.45, 0.3) == pytest.approx(0.15)
    assert forward_transfer(0.2, 0.3) < 0


@pytest.mark.parametrize(
    ("steps", "dice", "budget"),
    [
        ([0, 100, 200], [0.0, 0.45, 0.5], 100.0),  # 90 % of 0.5, right at a mark
        ([0, 10], [0.0, 1.0], 9.0),  # on the straight line between two marks
        ([0, 10, 30], [0.2, 0.3, 0.6], 26.0),  # 0.54 = 0.3 + 0.8 * 0.3, that is at 10 + 0.8 * 20
        ([0, 10, 20, 30], [0.1, 0.8, 0.2, 0.5], 5.0),  # the first time counts: 0.45 is half way up to 0.8
        ([0, 10, 20], [0.6, 0.5, 0.4], 0.0),  # a falling curve begins above
        ([5, 10], [0.46, 0.5], 5.0),
        ([0, 10], [0.3, 0.0], 0.0),
        ([7], [0.4], 7.0),
    ],
)
def test_budget_to_90_percent_by_hand(steps, dice, budget):
    assert steps_to_fraction(np.array(steps), np.array(dice)) == pytest.approx(budget)


def test_budget_to_a_fraction_inverts_rising_curves():
    generator = np.random.default_rng(1)
    for fraction in (0.5, 0.9, 1.0):
        steps, dice = np.cumsum(generator.random(12) + 0.1), np.sort(generator.random(12))
        expected = np.interp(fraction * dice[-1], dice, steps)
        assert steps_to_fraction(np.array(steps), np.array(dice), fraction) == pytest.approx(expected)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1])
def test_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(ValueError, match="fraction"):
        steps_to_fraction(np.array([0, 1]), np.array([0.1, 0.2]), fraction)


@pytest.mark.parametrize("metric", [retention_area, steps_to_fraction])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_unknown_marks_give_no_metric(metric, place):
    dice = [0.1, 0.2, 0.3]
    dice[place] = np.nan
    assert np.isnan(metric(np.arange(3.0), np.array(dice)))


@pytest.mark.parametrize("metric", [retention_area, steps_to_fraction])
def test_many_curves_at_once_equal_each_alone(metric):
    generator = np.random.default_rng(2)
    steps, dice = np.cumsum(generator.random((3, 6)) + 0.1, axis=1), generator.random((4, 3, 6))
    lengths = [6, 4, 1]
    for curve, length in enumerate(lengths):
        steps[curve, length:] = dice[:, curve, length:] = np.nan
    expected = [
        [metric(steps[curve, :length], row[curve, :length]) for curve, length in enumerate(lengths)] for row in dice
    ]
    np.testing.assert_allclose(metric(steps, dice), expected)
    assert np.isnan(metric(np.full((1, 2), np.nan), np.full((1, 2), np.nan))).all()


def test_record_holds_every_metric():
    record = forgetting_metrics(0.8, 0.6, 0.1, 0.5)
    assert record["forgetting"] == pytest.approx(0.2)
    assert record["backward_transfer"] == pytest.approx(-0.2)
    assert record["plasticity"] == pytest.approx(0.4)
    assert record["balanced_mean"] == pytest.approx(0.55)
    assert (record["source_before"], record["source_after"]) == (0.8, 0.6)
    assert (record["target_before"], record["target_after"]) == (0.1, 0.5)
