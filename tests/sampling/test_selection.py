from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metaseg.sampling import tumour_slices


@given(arrays(np.int64, st.integers(0, 60), elements=st.integers(0, 9)), st.integers(0, 30), st.integers(1, 6))
def test_both_methods_take_distinct_tumour_slices_in_sequence(areas: np.ndarray, count: int, min_area: int):
    bearing = np.flatnonzero(areas >= min_area)
    for method in ("even", "random"):
        places = tumour_slices(areas, count, min_area, method, np.random.default_rng(0))
        assert places.size == min(count, bearing.size)
        assert np.isin(places, bearing).all()
        assert np.all(np.diff(places) > 0)


@given(st.integers(1, 155), st.integers(1, 155))
def test_even_choice_takes_one_slice_of_every_run(bearing: int, count: int):
    places = tumour_slices(np.ones(bearing, dtype=np.int64), count)
    if count >= bearing:
        assert places.tolist() == list(range(bearing))
        return
    runs = (2 * places + 1) * count // (2 * bearing)  # the run in which the slice's middle lies
    gaps = np.diff(places)
    assert runs.tolist() == list(range(count))
    assert not gaps.size or gaps.max() - gaps.min() <= 1
    assert abs(places[0] - (bearing - 1 - places[-1])) <= 1


def test_even_choice_by_hand():
    areas = np.zeros(20, dtype=np.int64)
    areas[5:15] = 4
    assert tumour_slices(areas, 1).tolist() == [10]
    assert tumour_slices(areas, 5).tolist() == [6, 8, 10, 12, 14]
    assert tumour_slices(areas, 25).tolist() == list(range(5, 15))


def test_classes_are_summed_before_the_least_area():
    areas = np.array([[0, 0], [2, 3], [4, 0], [9, 9]])
    assert tumour_slices(areas, min_area=5).tolist() == [1, 3]


def test_random_choice_follows_the_seed():
    areas = np.ones(100, dtype=np.int64)
    drawn = [tumour_slices(areas, 25, 1, "random", np.random.default_rng(seed)).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_wrong_arguments():
    for arguments in ({"count": -1}, {"min_area": 0}, {"method": "random"}, {"method": "largest"}):
        with pytest.raises(ValueError, match=r"need|method"):
            tumour_slices(np.ones(3), **{"count": 2, **arguments})
