import numpy as np
import pytest
from scipy import integrate

from metaseg.evaluation.forgetting import Forgetting, backward_transfer, balanced_mean, forgetting, retention_area


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


@pytest.mark.parametrize(("steps", "dice"), [([], []), ([1, 2], [0.5]), ([1, 1], [0.5, 0.6]), ([2, 1], [0.5, 0.6])])
def test_curves_that_make_no_sense_are_refused(steps, dice):
    with pytest.raises(ValueError, match="steps"):
        retention_area(steps, dice)


def test_record_holds_every_figure():
    record = Forgetting(0.8, 0.6, 0.1, 0.5).as_dict()
    assert record["forgetting"] == pytest.approx(0.2)
    assert record["backward_transfer"] == pytest.approx(-0.2)
    assert record["plasticity"] == pytest.approx(0.4)
    assert record["balanced_mean"] == pytest.approx(0.55)
    assert (record["source_before"], record["source_after"]) == (0.8, 0.6)
    assert (record["target_before"], record["target_after"]) == (0.1, 0.5)
