from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaseg.sampling.tasks import group_support_query, pair_support_query


def test_neighbours_alternate_and_an_odd_last_one_is_left_over():
    assert pair_support_query(np.array([7, 3, 9, 1, 5])).tolist() == [[7, 3], [9, 1]]
    assert pair_support_query(np.array([4])).shape == (0, 2)
    assert pair_support_query(np.array([], dtype=np.int64)).shape == (0, 2)


@pytest.mark.parametrize(
    ("support_size", "query_size", "expected"),
    [
        (1, 1, [((0,), (1,)), ((2,), (3,)), ((4,), (5,))]),
        (2, 2, [((0, 2), (1, 3))]),
        (1, 2, [((0,), (1, 2)), ((3,), (4, 5))]),
        (3, 1, [((0, 2, 3), (1,))]),
        (4, 4, []),
    ],
)
def test_groups_by_hand(support_size: int, query_size: int, expected: list):
    assert group_support_query(np.arange(7), support_size, query_size) == expected


@given(
    st.lists(st.integers(), unique=True, max_size=30).map(lambda x: [i % 2**60 for i in x]),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_support_and_query_are_disjoint_and_nothing_is_drawn_twice(
    order: list[int], support_size: int, query_size: int
):
    order = list(dict.fromkeys(order))
    groups = group_support_query(np.array(order, dtype=np.int64), support_size, query_size)
    drawn = [place for support, query in groups for place in (*support, *query)]
    assert len(drawn) == len(set(drawn)) == len(order) // (support_size + query_size) * (support_size + query_size)
    assert set(drawn) == set(order[: len(drawn)])
    assert all(len(support) == support_size and len(query) == query_size for support, query in groups)


def test_an_empty_support_is_refused():
    with pytest.raises(ValueError, match="at least"):
        group_support_query(np.arange(4), 0, 1)
