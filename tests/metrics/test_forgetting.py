import numpy as np
import pytest
from scipy import integrate

from metaseg.metrics.forgetting import (
    Forgetting,
    backward_transfer,
    balanced_mean,
    forgetting,
    forward_transfer,
    retention_area,
    retention_areas,
    steps_to_share,
    steps_to_shares,
)


def test_losing_dice_is_positive_forgetting():
    assert forgetting(0.66, 0.40) == pytest.approx(0.26)
    assert backward_transfer(0.66, 0.40) == pytest.approx(-0.26)
    assert forgetting(0.5, 0.6) < 0


def test_balanced_mean_counts_domains_alike():
    assert balanced_mean(0.6, 0.4) == pytest.approx(0.5)


@pytest.mark.parametrize("constant", [0.0, 0.37, 1.0])
def test_constant_curve_scores_its_constant(constant):
    assert retention_area([0, 3, 100, 2000], [constant] * 4) == pytest.approx(constant)


def test_straight_line_scores_its_middle_whatever_the_steps():
    steps = np.array([5.0, 6.0, 40.0, 41.5, 105.0])
    assert retention_area(steps, 1.0 - (steps - 5.0) / 100.0) == pytest.approx(0.5)


def test_equals_scipy():
    generator = np.random.default_rng(0)
    steps, dice = np.cumsum(generator.random(20) + 0.1), generator.random(20)
    assert retention_area(steps, dice) == pytest.approx(integrate.trapezoid(dice, steps) / (steps[-1] - steps[0]))


def test_single_point_scores_itself():
    assert retention_area([7], [0.4]) == 0.4


@pytest.mark.parametrize("metric", [retention_area, steps_to_share])
@pytest.mark.parametrize(("steps", "dice"), [([], []), ([1, 2], [0.5]), ([1, 1], [0.5, 0.6]), ([2, 1], [0.5, 0.6])])
def test_curves_that_make_no_sense_are_refused(metric, steps, dice):
    with pytest.raises(ValueError, match="steps"):
        metric(steps, dice)


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
    assert steps_to_share(steps, dice) == pytest.approx(budget)


def test_budget_to_a_share_inverts_rising_curves():
    generator = np.random.default_rng(1)
    for share in (0.5, 0.9, 1.0):
        steps, dice = np.cumsum(generator.random(12) + 0.1), np.sort(generator.random(12))
        expected = np.interp(share * dice[-1], dice, steps)
        assert steps_to_share(steps, dice, share) == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(ValueError, match="share"):
        steps_to_share([0, 1], [0.1, 0.2], share)


@pytest.mark.parametrize("metric", [retention_area, steps_to_share])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_unknown_marks_give_no_metric(metric, place):
    dice = [0.1, 0.2, 0.3]
    dice[place] = np.nan
    assert np.isnan(metric([0, 1, 2], dice))


@pytest.mark.parametrize(("together", "alone"), [(retention_areas, retention_area), (steps_to_shares, steps_to_share)])
def test_many_curves_at_once_equal_each_alone(together, alone):
    generator = np.random.default_rng(2)
    steps, dice = np.cumsum(generator.random((3, 6)) + 0.1, axis=1), generator.random((4, 3, 6))
    lengths = [6, 4, 1]
    for curve, length in enumerate(lengths):
        steps[curve, length:] = dice[:, curve, length:] = np.nan
    expected = [
        [alone(steps[curve, :length], row[curve, :length]) for curve, length in enumerate(lengths)] for row in dice
    ]
    np.testing.assert_allclose(together(steps, dice), expected)
    assert np.isnan(together(np.full((1, 2), np.nan), np.full((1, 2), np.nan))).all()


def test_record_holds_every_metric():
    record = Forgetting(0.8, 0.6, 0.1, 0.5).as_dict()
    assert record["forgetting"] == pytest.approx(0.2)
    assert record["backward_transfer"] == pytest.approx(-0.2)
    assert record["plasticity"] == pytest.approx(0.4)
    assert record["balanced_mean"] == pytest.approx(0.55)
    assert (record["source_before"], record["source_after"]) == (0.8, 0.6)
    assert (record["target_before"], record["target_after"]) == (0.1, 0.5)
