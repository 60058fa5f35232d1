import math

import pytest

from metaseg.errors import UsageError
from metaseg.metrics.empties import EMPTY_POLICIES, Status, empty_policy, image_diagonal, settle_empties

# (label voxels, predicted voxels) and what is expected under each policy, with a diagonal of 99 mm.
MISSED, FALSE, NEITHER = (5, 0), (0, 5), (0, 0)


@pytest.mark.parametrize(
    ("policy", "sizes", "status", "dice", "hd95"),
    [
        ("exclude", MISSED, "missed", 0.0, 99.0),
        ("exclude", FALSE, "false", 0.0, 99.0),
        ("exclude", NEITHER, "empty-both", math.nan, math.nan),
        ("brats", MISSED, "missed", 0.0, 374.0),
        ("brats", FALSE, "false", 0.0, 374.0),
        ("brats", NEITHER, "empty-both", 1.0, 0.0),
        ("mist", MISSED, "missed", 0.0, 99.0),
        ("mist", FALSE, "false", 0.0, 99.0),
        ("mist", NEITHER, "empty-both", 1.0, 0.0),
    ],
)
def test_undefined_metrics(policy, sizes, status, dice, hd95):
    verdict = settle_empties(*sizes, 99.0, EMPTY_POLICIES[policy])
    assert str(verdict.status) == status
    assert verdict.dice == pytest.approx(dice, nan_ok=True)
    assert verdict.hd95 == pytest.approx(hd95, nan_ok=True)


@pytest.mark.parametrize("policy", EMPTY_POLICIES)
def test_defined_metrics_are_left_to_be_computed(policy):
    verdict = settle_empties(1, 1, 99.0, EMPTY_POLICIES[policy])
    assert (verdict.status, verdict.dice, verdict.hd95) == (Status.VALID, None, None)


def test_only_exclude_leaves_cases_empty_in_both_out():
    assert {name: not math.isnan(policy.dice_empty_both) for name, policy in EMPTY_POLICIES.items()} == {
        "exclude": False,
        "brats": True,
        "mist": True,
    }


def test_unknown_policy_names_the_known_ones():
    with pytest.raises(UsageError, match="exclude, brats, mist"):
        empty_policy("ignore")


def test_diagonal_of_the_brats_grid_lies_under_its_penalty():
    diagonal = image_diagonal((155, 240, 240), (1.0, 1.0, 1.0))
    assert diagonal == pytest.approx(373.13, abs=0.01)
    assert diagonal < EMPTY_POLICIES["brats"].penalty(diagonal)


def test_diagonal_of_a_planar_stack_is_that_of_one_slice():
    assert image_diagonal((50, 30, 40), (9.0, 1.0, 1.0), planar=True) == pytest.approx(50.0)
