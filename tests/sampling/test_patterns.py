from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, wasserstein_distance

from metaseg.sampling import PATTERNS, pattern_counts, prediction_patterns

GOLDEN = Path(__file__).parents[1] / "golden" / "zhou2017_table1.csv"
LINES = [line for line in GOLDEN.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
TABLE = {row["pattern"]: np.array(row["patches"].split(), float) for row in csv.DictReader(LINES)}
MIRRORED = dict(zip("ABCDEFG", "ABCEDGF", strict=True))

# Sixty-fourths, so that one minus a prediction is exact.
predictions = st.lists(st.integers(0, 64).map(lambda number: number / 64), min_size=1, max_size=25).map(np.array)


def pattern(positive: np.ndarray) -> str:
    return str(prediction_patterns(np.stack([1 - positive, positive], axis=1)[None])[0])


@pytest.mark.parametrize("letter", TABLE)
def test_table_1_of_the_paper(letter: str):
    assert pattern(TABLE[letter]) == letter


@pytest.mark.parametrize("letter", TABLE)
def test_examples_that_are_moved_a_little_stay_what_they_are(letter: str):
    rng = np.random.default_rng(0)
    moved = [np.clip(TABLE[letter] + rng.uniform(-0.05, 0.05, 11), 0, 1) for _ in range(200)]
    assert {pattern(one) for one in moved} == {letter}


@pytest.mark.parametrize(
    ("shape", "letter"),
    list(zip(((30, 30), (1, 1), (0.1, 0.1), (1, 30), (30, 1), (0.3, 1), (1, 0.3)), "ABCDEFG", strict=True)),
)
def test_beta_distributions_as_the_paper_describes_them(shape: tuple[float, float], letter: str):
    assert pattern(beta.ppf((np.arange(101) + 0.5) / 101, *shape)) == letter


def test_it_is_mostly_the_example_that_is_nearest():
    """Against another rule: the example of Table 1 that lies nearest by the earth mover's distance."""
    rng = np.random.default_rng(1)
    agreed = 0
    for _ in range(400):
        drawn = rng.beta(*rng.uniform(0.05, 5, size=2), size=21)
        nearest = min(TABLE, key=lambda letter: wasserstein_distance(TABLE[letter], drawn))
        agreed += pattern(drawn) == nearest
    assert agreed > 0.7 * 400


@settings(max_examples=100, deadline=None)
@given(predictions)
def test_swapping_the_classes_swaps_the_ends(positive: np.ndarray):
    assert pattern(1 - positive) == MIRRORED[pattern(positive)]


@settings(max_examples=60, deadline=None)
@given(predictions, st.integers(0, 99))
def test_the_order_and_the_number_of_equal_patches_do_not_matter(positive: np.ndarray, seed: int):
    expected = pattern(positive)
    assert pattern(np.random.default_rng(seed).permutation(positive)) == expected
    assert pattern(np.repeat(positive, 3)) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(predictions.filter(lambda one: len(one) >= 3), min_size=1, max_size=6))
def test_many_samples_are_as_one_by_one(samples: list[np.ndarray]):
    stacked = np.stack([np.stack([1 - one[:3], one[:3]], axis=1) for one in samples])
    found = prediction_patterns(stacked)
    assert found.tolist() == [pattern(one[:3]) for one in samples]
    counts = pattern_counts(found)
    assert list(counts) == list(PATTERNS) == list(TABLE)
    assert sum(counts.values()) == len(samples)


@pytest.mark.parametrize(
    ("value", "letter"), [(0.0, "D"), (0.3, "D"), (1 / 3, "A"), (2 / 3, "A"), (0.7, "E"), (1.0, "E")]
)
def test_equal_predictions_go_by_their_third(value: float, letter: str):
    assert pattern(np.full(7, value)) == letter


def test_more_than_two_classes_go_by_the_class_with_the_largest_mean():
    sure = np.tile([0.05, 0.9, 0.05], (4, 1))
    torn = np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.0, 0.1, 0.9], [0.1, 0.1, 0.8]])
    assert prediction_patterns(np.stack([sure, torn])).tolist() == ["E", "C"]


@pytest.mark.parametrize("values", [np.full((2, 3), 0.5), np.full((1, 3, 2), 0.6), np.empty((1, 0, 2))])
def test_what_is_no_probability_is_refused(values: np.ndarray):
    with pytest.raises(ValueError, match=r"sum to 1|patches"):
        prediction_patterns(values)


def test_no_samples_have_no_patterns():
    assert prediction_patterns(np.empty((0, 3, 2))).shape == (0,)
