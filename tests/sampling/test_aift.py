from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy

from metaseg.sampling import aift_score, aift_scores
from metaseg.sampling.scores import majority_patches

GOLDEN = Path(__file__).parents[1] / "golden" / "zhou2017_table1.csv"
COLUMNS = {
    "entropy": (1, 0, 1),
    "entropy_quarter": (1, 0, 0.25),
    "diversity": (0, 1, 1),
    "diversity_quarter": (0, 1, 0.25),
    "both": (1, 1, 1),
    "both_quarter": (1, 1, 0.25),
}


def table() -> list[dict[str, str]]:
    lines = [line for line in GOLDEN.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def binary(positive: str) -> np.ndarray:
    values = np.array([float(one) for one in positive.split()])
    return np.stack([1 - values, values], axis=1)


def by_the_matrix(probabilities: np.ndarray, entropy: float, diversity: float) -> float:
    """Eq. 1 to 3 word by word, for patches that are all kept."""
    clipped = np.maximum(probabilities, np.finfo(np.float64).eps)
    matrix = np.empty((len(clipped),) * 2)
    for j, one in enumerate(clipped):
        for k, other in enumerate(clipped):
            matrix[j, k] = diversity * np.sum((one - other) * np.log(one / other))
        matrix[j, j] = entropy * -np.sum(one * np.log(one))
    return float(matrix.sum())


def draw(seed: int, samples: int, patches: int, classes: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.5), size=(samples, patches))


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", table(), ids=lambda row: row["pattern"])
def test_table_1_of_the_paper_to_the_printed_digits(row: dict[str, str], column: str):
    assert f"{aift_score(binary(row['patches']), *COLUMNS[column]):.2f}" == row[column]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_mean_of_a_half_up_to_rounding_keeps_the_bottom(dtype: type):
    # Pattern B, its patches in many sequences: some of the sums exceed 5.5 by rounding.
    turns = [np.random.default_rng(seed).permutation(binary(table()[1]["patches"])).astype(dtype) for seed in range(50)]
    assert any(patches.astype(np.float64).mean(axis=0)[1] > 0.5 for patches in turns)
    assert {f"{aift_score(patches):.2f}" for patches in turns} == {"21.62"}


def test_majority_patches_by_hand():
    top = binary("0.9 0.2 0.8 0.7")  # mean 0.65
    bottom = binary("0.9 0.2 0.1 0.3")  # mean 0.375
    np.testing.assert_array_equal(majority_patches(np.stack([top, bottom]), 0.5), [[0, 2], [2, 1]])


def test_more_than_two_classes_go_by_the_class_with_the_largest_mean():
    sure = np.array([[0.1, 0.2, 0.7], [0.1, 0.0, 0.9], [0.3, 0.3, 0.4], [0.2, 0.2, 0.6]])  # class 2: mean 0.65
    unsure = np.array([[0.5, 0.2, 0.3], [0.4, 0.3, 0.3], [0.3, 0.3, 0.4], [0.6, 0.2, 0.2]])  # class 0: mean 0.45
    np.testing.assert_array_equal(majority_patches(np.stack([sure, unsure]), 0.5), [[1, 0], [2, 1]])


@pytest.mark.parametrize(
    ("patches", "share", "kept"), [(11, 0.25, 3), (10, 0.25, 3), (6, 0.25, 2), (3, 0.1, 1), (5, 1, 5)]
)
def test_halves_are_rounded_up_and_one_patch_is_always_kept(patches: int, share: float, kept: int):
    assert majority_patches(draw(0, 2, patches, 2), share).shape == (2, kept)


def test_entropies_are_scipys_and_divergences_count_twice():
    values = draw(1, 1, 2, 4)[0]
    np.testing.assert_allclose(aift_score(values, 1, 0, 1), scipy_entropy(values, axis=1).sum())
    both_ways = scipy_entropy(values[0], values[1]) + scipy_entropy(values[1], values[0])
    np.testing.assert_allclose(aift_score(values, 0, 1, 1), 2 * both_ways)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(0, 5), st.integers(1, 12), st.integers(2, 4), st.sampled_from([0.25, 0.5, 1.0]))
def test_many_samples_are_scored_as_one_by_one_and_by_the_matrix(seed, samples, patches, classes, share):
    values = draw(seed, samples, patches, classes)
    scores = aift_scores(values, 0.7, 1.3, share)
    assert scores.shape == (samples,)
    np.testing.assert_allclose(scores, [aift_score(one, 0.7, 1.3, share) for one in values], rtol=1e-12)
    kept = majority_patches(values, share)
    expected = [by_the_matrix(one[places], 0.7, 1.3) for one, places in zip(values, kept, strict=True)]
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(1, 12), st.sampled_from([0.25, 1.0]))
def test_the_score_is_not_negative_and_the_classes_are_alike(seed: int, patches: int, share: float):
    values = draw(seed, 1, patches, 2)[0]
    assert aift_score(values, patch_fraction=share) >= 0
    np.testing.assert_allclose(
        aift_score(values[:, ::-1], patch_fraction=share), aift_score(values, patch_fraction=share)
    )


def test_patches_that_agree_and_are_sure_score_nothing():
    np.testing.assert_allclose(aift_score(np.tile([0.0, 1.0], (8, 1))), 0, atol=1e-12)
    np.testing.assert_allclose(aift_score(np.full((4, 2), 0.5), patch_fraction=1), 4 * np.log(2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[np.nan, 0.5]], "softmax"),
        ([[1.5, -0.5]], "softmax"),
        ([[0.5, 0.6]], "sum to 1"),
        ([0.5, 0.5], "patches, classes"),
        (np.empty((0, 2)), "patches, classes"),
    ],
)
def test_what_is_no_probability_is_refused(values: list, message: str):
    with pytest.raises(ValueError, match=message):
        aift_score(np.array(values))


def test_a_fraction_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="fraction"):
        aift_score(np.full((4, 2), 0.5), patch_fraction=1.2)
