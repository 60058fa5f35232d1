from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metaseg.errors import UsageError
from metaseg.sampling import class_balanced_draw, foreground_epoch

area_tables = arrays(np.int64, st.tuples(st.integers(1, 15), st.integers(1, 4)), elements=st.integers(0, 2))


@given(area_tables, st.integers(0, 40), st.integers(0, 99))
def test_a_pass_draws_nothing_twice(areas: np.ndarray, count: int, seed: int):
    drawn = class_balanced_draw(areas, count, np.random.default_rng(seed))
    assert drawn.shape == (count,)
    np.testing.assert_array_equal(drawn, class_balanced_draw(areas, count, np.random.default_rng(seed)))
    for start in range(0, count, len(areas)):
        one_pass = drawn[start : start + len(areas)]
        assert np.unique(one_pass).size == one_pass.size


@given(area_tables, st.integers(0, 99))
def test_slices_without_a_class_end_the_pass(areas: np.ndarray, seed: int):
    drawn = class_balanced_draw(areas, len(areas), np.random.default_rng(seed))
    bearing = (areas > 0).any(axis=1)[drawn]
    assert not np.any(np.diff(bearing.astype(int)) > 0)


def test_classes_take_turns_rarest_first():
    areas = np.zeros((12, 3), dtype=np.int64)
    areas[:6, 0], areas[6:10, 1], areas[10:, 2] = 5, 5, 5
    for seed in range(5):
        drawn = class_balanced_draw(areas, 12, np.random.default_rng(seed))
        classes = areas[drawn].argmax(axis=1).tolist()
        assert classes == [2, 1, 0, 2, 1, 0, 1, 0, 1, 0, 0, 0]


def test_a_class_draws_uniformly_from_its_slices():
    areas = np.array([[1, 0], [1, 0], [1, 0], [0, 1]])
    rng = np.random.default_rng(0)
    second = [class_balanced_draw(areas, 2, rng)[1] for _ in range(3000)]
    np.testing.assert_allclose(np.bincount(second, minlength=4) / 3000, [1 / 3, 1 / 3, 1 / 3, 0], atol=0.04)


def test_one_hot_labels_are_balanced_as_classes():
    labels = np.array([0] * 9 + [1] * 3)
    drawn = class_balanced_draw(np.eye(2, dtype=int)[labels], 6, np.random.default_rng(0))
    assert labels[drawn].tolist() == [1, 0, 1, 0, 1, 0]


def test_seeds_differ():
    areas = np.ones((20, 2), dtype=np.int64)
    for draw in (
        lambda seed: class_balanced_draw(areas, 20, np.random.default_rng(seed)),
        lambda seed: foreground_epoch(areas, 20, 0.5, np.random.default_rng(seed)),
    ):
        assert not np.array_equal(draw(0), draw(1))
        np.testing.assert_array_equal(draw(0), draw(0))


def test_nothing_to_draw_from():
    with pytest.raises(UsageError, match="no slices"):
        class_balanced_draw(np.zeros((0, 3)), 1, np.random.default_rng(0))
    assert class_balanced_draw(np.zeros((0, 3)), 0, np.random.default_rng(0)).size == 0
    with pytest.raises(ValueError, match="shape"):
        class_balanced_draw(np.zeros(3), 1, np.random.default_rng(0))


def test_an_epoch_is_uniform_over_classes_then_over_their_slices():
    # Class 0 in slices 0-7, class 1 in slice 8, class 2 nowhere, no tumour in 9-19.
    areas = np.zeros((20, 3), dtype=np.int64)
    areas[:8, 0], areas[8, 1] = 3, 9
    frequency = np.bincount(foreground_epoch(areas, 20_000, 0.6, np.random.default_rng(0)), minlength=20) / 20_000
    expected = np.full(20, 0.4 / 20)
    expected[:8] += 0.6 / 2 / 8
    expected[8] += 0.6 / 2
    np.testing.assert_allclose(frequency, expected, atol=0.012)


@given(area_tables, st.integers(0, 40), st.floats(0, 1), st.integers(0, 99))
def test_an_epoch_holds_its_share_of_tumour(areas: np.ndarray, count: int, share: float, seed: int):
    areas[0, 0] = 1
    drawn = foreground_epoch(areas, count, share, np.random.default_rng(seed))
    assert drawn.shape == (count,)
    assert np.isin(drawn, np.arange(len(areas))).all()
    assert np.count_nonzero((areas[drawn] > 0).any(axis=1)) >= int(np.floor(share * count + 0.5))


def test_an_epoch_without_tumour():
    empty = np.zeros((5, 3))
    assert foreground_epoch(empty, 4, 0.0, np.random.default_rng(0)).shape == (4,)
    with pytest.raises(UsageError, match="none of the 5"):
        foreground_epoch(empty, 4, 0.5, np.random.default_rng(0))
    with pytest.raises(UsageError, match="fraction"):
        foreground_epoch(empty, 4, 1.5, np.random.default_rng(0))
