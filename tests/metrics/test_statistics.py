import itertools
import math

import numpy as np
import pytest
from scipy import stats

from metaseg.metrics.statistics import (
    draw_weights,
    hierarchical_interval,
    holm,
    known_deviation,
    known_mean,
    paired_wilcoxon,
    percentile_interval,
)

# The worked example of the article "Wilcoxon signed-rank test" in Wikipedia: nine unequal pairs of ten, W = 9.
SECOND = [125, 115, 130, 140, 140, 115, 140, 125, 140, 135]
FIRST = [110, 122, 125, 120, 140, 124, 123, 137, 135, 145]


def test_holm_on_the_textbook_example():
    # Of the article "Holm-Bonferroni method" in Wikipedia.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_follows_its_definition():
    p = np.random.default_rng(0).random(7) ** 3
    order = np.sort(p)
    expected = [max(min(1.0, (7 - j) * order[j]) for j in range(int(np.sum(order < one)) + 1)) for one in p]
    assert holm(p) == pytest.approx(expected)
    assert holm(p).max() == 1.0


def test_holm_counts_no_test_that_was_not_made():
    adjusted = holm([np.nan, 0.02, 0.03])
    assert adjusted[1:] == pytest.approx([0.04, 0.04])
    assert math.isnan(adjusted[0])
    assert holm([]).shape == (0,)


def test_signed_ranks_on_the_textbook_example():
    test = paired_wilcoxon(SECOND, FIRST)
    assert (test.n, test.statistic) == (10, 18.0)
    assert test.rank_biserial == pytest.approx(9 / 45)
    assert test.mean_difference == pytest.approx(np.mean(SECOND) - np.mean(FIRST))
    assert paired_wilcoxon(FIRST, SECOND).rank_biserial == pytest.approx(-9 / 45)


def test_p_is_the_share_of_signs_that_are_as_far_from_even():
    generator = np.random.default_rng(3)
    difference = generator.normal(0.4, 1.0, 9)
    ranks = np.argsort(np.argsort(np.abs(difference))) + 1
    even = ranks.sum() / 2
    found = abs(ranks[difference > 0].sum() - even)
    sums = [np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=9)]
    expected = np.mean([abs(one - even) >= found for one in sums])
    test = paired_wilcoxon(difference, np.zeros(9))
    assert test.p == pytest.approx(expected)
    assert paired_wilcoxon(np.zeros(9), difference).p == test.p


def test_standardised_difference_is_the_paired_t_over_root_n():
    generator = np.random.default_rng(4)
    a, b = generator.random(12), generator.random(12)
    assert paired_wilcoxon(a, b).cohens_dz == pytest.approx(stats.ttest_rel(a, b).statistic / math.sqrt(12))


def test_one_sided_differences_have_rank_biserial_one():
    a = np.linspace(0.5, 0.9, 8)
    test = paired_wilcoxon(a, a - np.linspace(0.01, 0.05, 8))
    assert test.rank_biserial == pytest.approx(1.0)
    assert test.p == pytest.approx(2 / 2**8)


def test_equal_pairs_give_p_one():
    # A mean over seeds may leave a rounding error.
    test = paired_wilcoxon([0.3, 0.5, 0.1 + 0.2], [0.3, 0.5, 0.3])
    assert (test.n, test.p, test.rank_biserial, test.mean_difference) == (3, 1.0, 0.0, 0.0)
    assert math.isnan(test.cohens_dz)


def test_pairs_with_an_unknown_value_are_dropped():
    a, b = [0.5, np.nan, 0.7, 0.2, 0.9], [0.4, 0.3, np.nan, 0.1, 0.5]
    assert paired_wilcoxon(a, b) == paired_wilcoxon([0.5, 0.2, 0.9], [0.4, 0.1, 0.5])


@pytest.mark.parametrize(("values", "n"), [([], 0), ([0.25], 1), ([np.nan, 0.25], 1)])
def test_less_than_two_pairs_are_no_test(values, n):
    test = paired_wilcoxon(values, np.zeros(len(values)))
    assert test.n == n
    assert all(math.isnan(one) for one in (test.p, test.statistic, test.rank_biserial, test.cohens_dz))
    assert test.mean_difference == 0.25 if n else math.isnan(test.mean_difference)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="as many"):
        paired_wilcoxon([0.1, 0.2], [0.1])


def test_interval_of_one_seed_is_the_normal_one():
    generator = np.random.default_rng(0)
    values = generator.normal(0.5, 0.1, (1, 400))
    error = 1.96 * values.std() / math.sqrt(400)
    low, high = hierarchical_interval(values, generator, 4000)
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.001)


def test_interval_has_the_spread_of_seeds_and_of_patients():
    # The mean of a sum of two effects, each drawn anew: its variance is the sum of those of the two means.
    generator = np.random.default_rng(1)
    seeds, patients = generator.normal(0, 0.3, 50), generator.normal(0.5, 0.4, 80)
    values = seeds[:, None] + patients[None, :]
    error = math.sqrt(seeds.var() / 50 + patients.var() / 80)
    for level, width in ((0.95, 1.96), (0.8, 1.2816)):
        low, high = hierarchical_interval(values, generator, 8000, level)
        assert (low, high) == pytest.approx((values.mean() - width * error, values.mean() + width * error), abs=0.006)


def test_interval_covers_the_truth():
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        values = (
            0.5
            + generator.normal(0, 0.03, (10, 1))
            + generator.normal(0, 0.15, (1, 25))
            + generator.normal(0, 0.05, (10, 25))
        )
        low, high = hierarchical_interval(values, generator, 300)
        covered += low <= 0.5 <= high
    # 0.95 less what percentiles lose on samples of 10 and 25; three standard errors of 300 trials are 0.04.
    assert 0.88 <= covered / 300 <= 0.98


def test_copies_of_a_patient_bring_no_certainty():
    # Twenty seeds that all give the same: as uncertain as one.
    patients = np.random.default_rng(5).random(30)
    one = hierarchical_interval(patients[None], np.random.default_rng(6), 4000)
    many = hierarchical_interval(np.tile(patients, (20, 1)), np.random.default_rng(7), 4000)
    assert many == pytest.approx(one, abs=0.01)


def test_unknown_values_are_in_no_mean():
    values = np.array([[0.2, np.nan, 0.4, np.nan], [0.2, 0.9, 0.4, np.nan], [np.nan] * 4])
    interval = hierarchical_interval(values, np.random.default_rng(0), 3000)
    # The patient with one value counts like the others where its seed is drawn; the last patient and seed do not.
    assert interval == hierarchical_interval(values[:2, :3], np.random.default_rng(0), 3000)
    assert interval[0] == pytest.approx(0.2)
    assert interval[1] == pytest.approx(0.9)


@pytest.mark.parametrize("values", [np.zeros((0, 0)), np.zeros((3, 0)), np.full((2, 3), np.nan), np.ones((4, 1))])
def test_fewer_than_two_patients_have_no_interval(values):
    assert all(math.isnan(end) for end in hierarchical_interval(values, np.random.default_rng(0)))


def test_draws_are_with_replacement_and_repeat_with_the_seed():
    weights = draw_weights(6, 5000, np.random.default_rng(8))
    assert set(weights.sum(axis=1)) == {6.0}
    # Counts of one member are binomial with 6 draws of probability 1/6.
    assert weights.mean(axis=0) == pytest.approx(np.ones(6), abs=0.05)
    assert weights.var(axis=0) == pytest.approx(np.full(6, 5 / 6), abs=0.07)
    np.testing.assert_array_equal(weights, draw_weights(6, 5000, np.random.default_rng(8)))
    assert draw_weights(0, 3, np.random.default_rng(0)).shape == (3, 0)


def test_means_over_what_is_known():
    values = np.array([[0.1, np.nan, 0.5], [np.nan] * 3])
    np.testing.assert_allclose(known_mean(values), [0.3, np.nan])
    np.testing.assert_allclose(known_mean(values, weights=np.array([3.0, 9.0, 1.0])), [0.2, np.nan])
    np.testing.assert_allclose(known_mean(values, axis=0), [0.1, np.nan, 0.5])
    assert known_deviation(np.array([0.1, np.nan, 0.5])) == pytest.approx(np.std([0.1, 0.5], ddof=1))
    assert math.isnan(known_deviation(np.array([0.1, np.nan])))
    assert percentile_interval(np.array([np.nan, *range(101)]), 0.9) == pytest.approx((5.0, 95.0))
