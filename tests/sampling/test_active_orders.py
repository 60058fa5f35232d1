from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseg.errors import UsageError
from metaseg.sampling import Pool, order_slices


def ranked(name: str, pool: Pool, seed: int = 0) -> list[int]:
    return pool.index[order_slices(name, pool, np.random.default_rng(seed))].tolist()


def clouds(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)) * rng.choice([0.1, 5.0], size=(n, 1))


@pytest.mark.parametrize("name", ["margin", "least-confidence", "bald", "aift", "committee"])
def test_orders_by_a_score_begin_with_the_highest(name: str):
    pool = Pool(index=np.array([7, 3, 5, 1]), scores={name: np.array([0.2, 0.9, 0.2, 0.5])})
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert pool.index[order_slices(name, pool, rng)].tolist() == [3, 1, 5, 7]
    assert rng.bit_generator.state == before
    with pytest.raises(UsageError, match=f"no score '{name}'"):
        order_slices(name, Pool(index=np.arange(2)), rng)


@pytest.mark.parametrize("name", ["core-set", "badge"])
def test_orders_by_embedding_ask_for_it(name: str):
    with pytest.raises(UsageError, match="no embedding"):
        order_slices(name, Pool(index=np.arange(2), scores={"embedding": np.zeros(2)}), np.random.default_rng(0))


def test_core_set_by_hand():
    line = np.array([0.0, 1.0, 2.0, 4.0, 9.0])[:, None]
    index = np.array([50, 10, 40, 20, 30])
    # The mean is 3.2: 4 comes first, then 9 (5 away), 0 (4), 2 (2), 1.
    assert ranked("core-set", Pool(index=index, embedding=line)) == [20, 30, 50, 40, 10]
    # With 0 labelled: 9, then 4 (4 away; 5 from 9), 2 (2), 1, and 0 itself last.
    labelled = np.array([[0.0]])
    assert ranked("core-set", Pool(index=index, embedding=line, labelled_embedding=labelled)) == [30, 20, 40, 10, 50]
    # Two are wanted, so the others follow by index.
    pool = Pool(index=index, embedding=line, labelled_embedding=labelled, wanted=2)
    assert ranked("core-set", pool) == [30, 20, 10, 40, 50]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.integers(1, 25), st.integers(1, 5))
def test_core_set_covers_within_twice_the_best_radius(seed: int, n: int, wanted: int):
    features = clouds(seed, n)
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    order = ranked("core-set", Pool(index=np.arange(n), embedding=features, wanted=wanted))
    chosen = order[:wanted]
    assert order[wanted:] == sorted(order[wanted:])
    radius = distances[:, chosen].min(axis=1).max()
    # wanted + 1 points, each at least `radius` from the others: any wanted centres leave one at radius / 2 or more.
    spread = distances[np.ix_(chosen, chosen)][np.triu_indices(len(chosen), 1)]
    assert np.all(spread >= radius - 1e-9)


def test_core_set_takes_every_copy_once_and_ties_go_by_index():
    assert ranked("core-set", Pool(index=np.array([4, 2, 3, 1]), embedding=np.ones((4, 2)))) == [1, 2, 3, 4]


def test_badge_draws_by_squared_distance():
    line = np.array([0.0, 1.0, 3.0])[:, None]
    pool = Pool(index=np.arange(3), embedding=line)
    rng = np.random.default_rng(0)
    drawn = np.array([order_slices("badge", pool, rng) for _ in range(9000)])
    np.testing.assert_allclose(np.bincount(drawn[:, 0]) / 9000, 1 / 3, atol=0.02)
    # From 0 the squared distances are 1 and 9, from 1 they are 1 and 4, from 3 they are 9 and 4.
    for first, second, share in ((0, 2, 0.9), (1, 2, 0.8), (2, 0, 9 / 13)):
        assert abs(np.mean(drawn[drawn[:, 0] == first, 1] == second) - share) < 0.02


def test_badge_draws_no_copy_before_the_others_are_used_up():
    features = np.repeat(np.array([[0.0], [1.0], [5.0]]), 4, axis=0)
    for seed in range(20):
        order = ranked("badge", Pool(index=np.arange(12), embedding=features), seed)
        assert sorted(place // 4 for place in order[:3]) == [0, 1, 2]
        assert order[3:] == sorted(order[3:])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.integers(1, 25), st.integers(0, 30))
def test_badge_begins_alike_however_many_are_wanted(seed: int, n: int, wanted: int):
    whole = ranked("badge", Pool(index=np.arange(n), embedding=clouds(seed, n)), seed)
    some = ranked("badge", Pool(index=np.arange(n), embedding=clouds(seed, n), wanted=wanted), seed)
    assert some[:wanted] == whole[:wanted]
    assert some[wanted:] == sorted(some[wanted:])


def test_badge_needs_no_scale():
    features = clouds(3, 15)
    for scale in (1e-90, 1e90):
        assert ranked("badge", Pool(index=np.arange(15), embedding=features * scale)) == ranked(
            "badge", Pool(index=np.arange(15), embedding=features)
        )
