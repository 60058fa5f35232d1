import itertools
import math

import numpy as np
import pytest
from scipy import stats

from metaseg.metrics.statistics import (
    draw_seeds,
    draw_weights,
    hierarchical_interval,
    holm,
    interval_over,
    known_deviation,
    known_mean,
    p_against_best,
    paired_wilcoxon,
    percentile_interval,
    seeds_interval,
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
    values = np.array([[0.2, np.nan, 0.4, np.nan], [0.2, 0.9, 0.4, np.nan], [0.2, np.nan, 0.4, np.nan], [np.nan] * 4])
    interval = hierarchical_interval(values, np.random.default_rng(0), 3000)
    # The patient with one value counts like the others where its seed is drawn; the last patient and seed do not.
    assert interval == hierarchical_interval(values[:3, :3], np.random.default_rng(0), 3000)
    assert interval[0] == pytest.approx(0.2)
    assert 0.6 < interval[1] <= 0.9


@pytest.mark.parametrize("values", [np.zeros((0, 0)), np.zeros((3, 0)), np.full((2, 3), np.nan), np.ones((4, 1))])
def test_fewer_than_two_patients_have_no_interval(values):
    assert all(math.isnan(end) for end in hierarchical_interval(values, np.random.default_rng(0)))


@pytest.mark.parametrize("seeds", [1, 2, 3, 6])
def test_fewer_than_three_seeds_are_never_drawn(seeds):
    # Patients that do not differ: whatever an interval shows comes from seeds.
    values = np.tile(np.linspace(0.2, 0.8, seeds)[:, np.newaxis], (1, 8))
    low, high = hierarchical_interval(values, np.random.default_rng(0), 500)
    assert math.isnan(low) == (seeds < 3)
    assert seeds < 3 or low < 0.5 < high
    drawn = draw_seeds(seeds, 200, np.random.default_rng(0))
    assert (drawn == 1).all() == (seeds < 3)
    assert (drawn.sum(axis=1) == seeds).all()
    assert interval_over(8, seeds) == ("patients and seeds" if seeds > 2 else "patients")
    assert interval_over(1, seeds) == ""


def test_interval_over_runs_is_student_s():
    runs = np.array([0.78, 0.81, np.nan, 0.84, 0.8])
    known = runs[~np.isnan(runs)]
    expected = stats.t.interval(0.95, 3, known.mean(), stats.sem(known))
    assert seeds_interval(runs) == pytest.approx(expected)
    assert all(map(math.isnan, seeds_interval(runs[:3])))


def test_interval_over_runs_ends_where_the_metric_does():
    runs = np.array([0.99, 0.9, 0.7])
    low, high = stats.t.interval(0.95, 2, runs.mean(), stats.sem(runs))
    assert high > 1
    assert seeds_interval(runs) == pytest.approx((low, 1.0))
    assert seeds_interval(1 - runs) == pytest.approx((0.0, 1 - low))
    low, high = stats.t.interval(0.95, 2, (runs - 0.9).mean(), stats.sem(runs))
    assert low < 0
    assert seeds_interval(runs - 0.9, least=-1.0) == pytest.approx((low, high))


def test_runs_that_do_not_differ_have_no_interval_over_them():
    assert all(map(math.isnan, seeds_interval([0.5, 0.5, 0.5 + 1e-15])))


class TestBestOfMany:
    def found(self, generator, entries=6, patients=12, seeds=5, better=0.0, of_seeds=0.3, resamples=200):
        """Values of runs and of resampled patients, of entries that do not differ but for the first."""
        values = generator.normal(0, 1, (1, patients, 1)) + generator.normal(0, 1, (1, patients, entries))
        values = values + generator.normal(0, of_seeds, (seeds, 1, entries))
        values[..., 0] += better
        drawn = draw_weights(patients, resamples, generator) @ values.mean(axis=0) / patients
        return values.mean(axis=1), drawn, patients

    @pytest.mark.parametrize(("patients", "of_seeds"), [(8, 0.0), (8, 0.3), (30, 0.3)])
    def test_chance_makes_no_best(self, patients, of_seeds):
        generator = np.random.default_rng(0)
        found = [self.found(generator, patients=patients, of_seeds=of_seeds) for _ in range(200)]
        # Three standard errors of 200 trials are 0.046.
        assert np.mean([np.nanmin(p_against_best(*one)) < 0.05 for one in found]) < 0.096
        # An interval of the difference between the highest and the lowest finds one in many of the same trials.
        ends = [(drawn, np.argsort(means.mean(axis=0))[[0, -1]]) for means, drawn, _ in found]
        gaps = [drawn[:, highest] - drawn[:, lowest] for drawn, (lowest, highest) in ends]
        assert np.mean([np.percentile(gap, 2.5) > 0 for gap in gaps]) > 0.3

    def test_a_better_one_is_found(self):
        p = p_against_best(*self.found(np.random.default_rng(1), better=4.0))
        assert math.isnan(p[0])
        assert (p[1:] < 0.01).all()

    def test_the_sequence_of_entries_changes_nothing(self):
        of_seeds, of_patients, patients = self.found(np.random.default_rng(2), better=1.0)
        order = np.array([3, 0, 5, 1, 4, 2])
        p = p_against_best(of_seeds, of_patients, patients)
        np.testing.assert_allclose(p_against_best(of_seeds[:, order], of_patients[:, order], patients), p[order])
        np.testing.assert_allclose(p_against_best(10 * of_seeds, 10 * of_patients, patients), p)

    def test_of_two_without_spread_over_seeds_it_is_the_paired_t_test(self):
        generator = np.random.default_rng(3)
        values = generator.normal(0, 1, (15, 2))
        of_patients = draw_weights(15, 50_000, generator) @ values / 15
        p = p_against_best(np.tile(values.mean(axis=0), (3, 1)), of_patients, 15)
        assert np.nanmin(p) == pytest.approx(stats.ttest_rel(*values.T).pvalue, rel=0.05)

    def test_of_two_without_spread_over_patients_it_is_the_paired_t_test_of_seeds(self):
        values = np.random.default_rng(4).normal(0, 1, (6, 2))
        p = p_against_best(values, np.zeros((10, 2)), 50)
        assert np.nanmin(p) == pytest.approx(stats.ttest_rel(*values.T).pvalue)

    def test_more_entries_never_make_p_smaller(self):
        of_seeds, of_patients, patients = self.found(np.random.default_rng(5), better=3.0)
        few = p_against_best(of_seeds[:, :3], of_patients[:, :3], patients)
        assert (p_against_best(of_seeds, of_patients, patients)[1:3] >= few[1:]).all()

    def test_what_is_not_tested(self):
        of_seeds, of_patients, patients = self.found(np.random.default_rng(6), better=3.0)
        of_seeds[2:, 2] = np.nan
        assert np.flatnonzero(np.isnan(p_against_best(of_seeds, of_patients, patients))).tolist() == [0, 2]
        assert np.isnan(p_against_best(of_seeds[:2], of_patients, patients)).all()
        assert np.isnan(p_against_best(of_seeds, of_patients, 5)).all()
        assert np.isnan(p_against_best(of_seeds[:, :1], of_patients[:, :1], patients)).all()

    def test_without_spread(self):
        of_seeds = np.tile([0.9, 0.5, 0.9], (3, 1))
        assert p_against_best(of_seeds, np.tile(of_seeds[:1], (20, 1)), 8)[1:].tolist() == [0.0, 1.0]


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
