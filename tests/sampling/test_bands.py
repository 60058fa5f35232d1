from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseg.errors import UsageError
from metaseg.sampling import band, draw_from_band, fraction_count, trim

GOLDEN = Path(__file__).parents[1] / "golden" / "hao2021_table5.csv"


def table() -> list[dict[str, str]]:
    lines = [line for line in GOLDEN.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


@pytest.mark.parametrize("row", table(), ids=lambda row: row["share"])
def test_table_5_of_the_paper(row: dict[str, str]):
    assert fraction_count(203 * 20, float(row["share"])) == int(row["imbalanced"])
    assert fraction_count(259 * 10 + 76 * 30, float(row["share"])) == int(row["balanced"])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 5000), st.integers(0, 1000))
def test_a_share_is_that_of_whole_numbers(total: int, thousandths: int):
    assert fraction_count(total, thousandths / 1000) == (2 * total * thousandths + 1000) // 2000


def test_halves_are_rounded_up_in_spite_of_float_error():
    assert 50 * 0.29 < 14.5
    assert [fraction_count(50, 0.29), fraction_count(5, 0.3), fraction_count(10, 0.25), fraction_count(0, 0.5)] == [
        15,
        2,
        3,
        0,
    ]
    for total, share in ((-1, 0.5), (3, 1.1), (3, -0.1), (3, float("nan"))):
        with pytest.raises(ValueError, match="fraction in 0"):
            fraction_count(total, share)


def test_bands_of_ten_by_hand():
    ranking = np.arange(9, -1, -1)
    assert band(ranking, 0.1, 0.4).tolist() == [8, 7, 6]
    assert band(ranking, 0.7, 1.0).tolist() == [2, 1, 0]
    assert band(ranking, 0.5, 0.5).tolist() == []
    assert trim(ranking).tolist() == [8, 7, 6, 5, 4, 3, 2, 1]
    assert trim(ranking, 0.0, 0.3).tolist() == [9, 8, 7, 6, 5, 4, 3]
    assert trim(ranking, 0.6, 0.6).tolist() == []
    with pytest.raises(ValueError, match="band"):
        band(ranking, 0.4, 0.1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.lists(st.floats(0, 1), max_size=4))
def test_bands_that_share_edges_part_the_ranking(size: int, edges: list[float]):
    ranking = np.random.default_rng(size).permutation(size)
    cuts = [0.0, *sorted(edges), 1.0]
    parts = [band(ranking, low, high) for low, high in itertools.pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(parts), ranking)


@settings(max_examples=60, deadline=None)
@given(st.integers(10, 60), st.floats(0, 0.3), st.floats(0, 0.3), st.integers(0, 999))
def test_a_draw_is_from_the_rest_without_repeats_and_the_seed_fixes_it(size: int, top: float, bottom: float, seed: int):
    ranking = np.random.default_rng(1).permutation(size)
    rest = trim(ranking, top, bottom)
    drawn = draw_from_band(ranking, rest.size // 2, np.random.default_rng(seed), top, bottom)
    assert len(set(drawn.tolist())) == rest.size // 2
    assert set(drawn.tolist()) <= set(rest.tolist())
    again = draw_from_band(ranking, rest.size // 2, np.random.default_rng(seed), top, bottom)
    np.testing.assert_array_equal(drawn, again)
    everything = draw_from_band(ranking, rest.size, np.random.default_rng(seed), top, bottom)
    assert sorted(everything.tolist()) == sorted(rest.tolist())


def test_every_sample_of_the_rest_is_drawn_equally_often():
    rng = np.random.default_rng(0)
    drawn = np.concatenate([draw_from_band(np.arange(10), 2, rng) for _ in range(8000)])
    np.testing.assert_allclose(np.bincount(drawn, minlength=10) / 8000, [0, *[0.25] * 8, 0], atol=0.02)


def test_a_draw_of_more_than_is_left_says_what_to_do():
    with pytest.raises(UsageError, match=r"(?s)9 samples are wanted, but 8 of 10 are left.*drop less than 0.1"):
        draw_from_band(np.arange(10), 9, np.random.default_rng(0))
    with pytest.raises(ValueError, match="-1"):
        draw_from_band(np.arange(10), -1, np.random.default_rng(0))
