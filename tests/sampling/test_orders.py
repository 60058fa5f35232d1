from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseg.errors import UsageError
from metaseg.sampling import ORDERS, Pool, order_slices, register_order

every_order = pytest.mark.parametrize("name", ORDERS)


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    n = draw(st.integers(0, 20))
    coarse = st.lists(st.integers(0, 4), min_size=n, max_size=n)  # few values, so that ties are common
    return Pool(
        index=np.array(draw(st.lists(st.integers(0, 200), min_size=n, max_size=n, unique=True)), dtype=np.int64),
        dice=np.array(draw(coarse)) / 4,
        entropy=np.array(draw(coarse)) / 3,
        foreground=np.array(draw(coarse)) * 10,
        side=draw(st.sampled_from(["learned", "unlearned"])),
        scores={"oracle": np.array(draw(coarse)) / 4, "preference": (1.0 + np.array(draw(coarse))) / 8},
    )


def example(side: str | None = None) -> Pool:
    return Pool(
        index=np.array([50, 10, 40, 20, 30]),
        dice=np.array([0.5, 0.9, 0.1, 0.5, 0.7]),
        entropy=np.array([0.2, 0.1, 0.6, 0.6, 0.3]),
        foreground=np.array([5, 0, 80, 15, 0]),
        side=side,
        scores={"oracle": np.array([0.2, 0.8, 0.8, 0.6, 0.0]), "preference": np.array([0.1, 0.1, 0.5, 0.2, 0.1])},
    )


@every_order
@settings(max_examples=40, deadline=None)
@given(pool=pools(), seed=st.integers(0, 2**32))
def test_an_order_is_a_permutation_and_the_seed_fixes_it(name: str, pool: Pool, seed: int):
    first = order_slices(name, pool, np.random.default_rng(seed))
    assert np.sort(first).tolist() == list(range(len(pool)))
    np.testing.assert_array_equal(first, order_slices(name, pool, np.random.default_rng(seed)))


@every_order
@settings(max_examples=40, deadline=None)
@given(pool=pools(), seed=st.integers(0, 2**32))
def test_the_pools_own_sequence_does_not_matter(name: str, pool: Pool, seed: int):
    shuffled = pool.take(np.random.default_rng(seed).permutation(len(pool)), side=pool.side)
    here = pool.index[order_slices(name, pool, np.random.default_rng(seed))]
    there = shuffled.index[order_slices(name, shuffled, np.random.default_rng(seed))]
    np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("active", "learned", [10, 30, 20, 50, 40]),
        ("active", "unlearned", [40, 20, 50, 30, 10]),
        ("reverse", "learned", [40, 20, 50, 30, 10]),
        ("reverse", "unlearned", [10, 30, 20, 50, 40]),
        ("unlearned-only", "unlearned", [40, 20, 50, 30, 10]),
        ("learned-only", "learned", [10, 30, 20, 50, 40]),
        ("oracle", None, [10, 40, 20, 50, 30]),
        ("hardest", None, [40, 20, 50, 30, 10]),
        ("easiest", None, [10, 30, 20, 50, 40]),
        ("sequential", None, [10, 20, 30, 40, 50]),
        ("entropy", None, [20, 40, 30, 50, 10]),
    ],
)
def test_deterministic_orders_by_hand(name: str, side: str | None, expected: list[int]):
    pool = example(side)
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert pool.index[order_slices(name, pool, rng)].tolist() == expected
    assert rng.bit_generator.state == before


@settings(max_examples=60, deadline=None)
@given(pool=pools(), seed=st.integers(0, 99))
def test_reverse_is_active_backwards_up_to_ties(pool: Pool, seed: int):
    rng = np.random.default_rng(seed)
    forwards, backwards = (pool.dice[order_slices(name, pool, rng)] for name in ("active", "reverse"))
    np.testing.assert_array_equal(backwards, forwards[::-1])


@settings(max_examples=60, deadline=None)
@given(pool=pools())
def test_orders_of_one_side_are_active_there(pool: Pool):
    rng = np.random.default_rng(0)
    alone = order_slices(f"{pool.side}-only", pool, rng)
    np.testing.assert_array_equal(alone, order_slices("active", pool, rng))


@pytest.mark.parametrize("name", ["passive", "foreground-random", "adaptive"])
def test_seeds_differ(name: str):
    pool = Pool(index=np.arange(20), foreground=np.full(20, 7), scores={"preference": np.full(20, 0.05)})
    drawn = {tuple(order_slices(name, pool, np.random.default_rng(seed)).tolist()) for seed in range(10)}
    assert len(drawn) == 10


def test_random_is_passive():
    pool = example()
    both = [order_slices(name, pool, np.random.default_rng(5)).tolist() for name in ("random", "passive")]
    assert both[0] == both[1]
    assert ORDERS.get("random").name == "passive"


def test_passive_gives_every_permutation_equally_often():
    pool, rng = Pool(index=np.arange(3)), np.random.default_rng(0)
    drawn = [tuple(order_slices("passive", pool, rng).tolist()) for _ in range(6000)]
    for permutation in itertools.permutations(range(3)):
        assert abs(drawn.count(permutation) / 6000 - 1 / 6) < 0.02


def test_foreground_random_follows_the_area_and_leaves_empty_slices_to_the_end():
    pool, rng = example(), np.random.default_rng(0)
    drawn = np.array([order_slices("foreground-random", pool, rng) for _ in range(8000)])
    np.testing.assert_array_equal(pool.index[drawn[:, 3:]], np.tile([10, 30], (8000, 1)))
    # First draws in proportion 5 : 80 : 15; after slice 2 (area 80) the others follow as 5 : 15.
    np.testing.assert_allclose(np.bincount(drawn[:, 0], minlength=5) / 8000, [0.05, 0, 0.8, 0.15, 0], atol=0.02)
    second = drawn[drawn[:, 0] == 2, 1]
    np.testing.assert_allclose(np.mean(second == 3), 0.75, atol=0.03)


def test_adaptive_draws_in_proportion_to_the_preference():
    pool, rng = example(), np.random.default_rng(0)
    drawn = np.array([order_slices("adaptive", pool, rng) for _ in range(8000)])
    np.testing.assert_allclose(np.bincount(drawn[:, 0], minlength=5) / 8000, [0.1, 0.1, 0.5, 0.2, 0.1], atol=0.02)
    second = drawn[drawn[:, 0] == 2, 1]
    np.testing.assert_allclose(np.bincount(second, minlength=5) / len(second), [0.2, 0.2, 0, 0.4, 0.2], atol=0.03)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="negative"):
        order_slices("foreground-random", Pool(index=np.arange(2), foreground=np.array([1, -1])), None)


def test_an_unknown_order_names_the_known_and_the_nearest():
    with pytest.raises(
        UsageError, match=r"(?s)unknown order 'hardset'.*active, passive, random.*did you mean 'hardest'"
    ):
        order_slices("hardset", example(), np.random.default_rng(0))


def test_an_order_says_what_it_lacks():
    bare = Pool(index=np.arange(3), dice=np.zeros(3))
    with pytest.raises(UsageError, match=r"no score 'entropy'"):
        order_slices("entropy", bare, np.random.default_rng(0))
    for name in ("active", "reverse", "unlearned-only", "learned-only"):
        with pytest.raises(UsageError, match=f"'{name}' needs slices that were split into learned and unlearned"):
            order_slices(name, bare, np.random.default_rng(0))
    with pytest.raises(UsageError, match=r"no score 'oracle'"):
        order_slices("oracle", bare, np.random.default_rng(0))
    with pytest.raises(UsageError, match=r"no score 'preference'"):
        order_slices("adaptive", bare, np.random.default_rng(0))


def test_every_order_says_what_it_is():
    assert all(order.help for order in ORDERS.entries().values())
    with pytest.raises(UsageError, match=r"(?s)unknown order 'badge'.*active, passive, random, reverse"):
        ORDERS.get("badge")


def test_two_orders_draw_from_one_side():
    assert {order.name: order.sides for order in ORDERS.entries().values() if len(order.sides) == 1} == {
        "unlearned-only": ("unlearned",),
        "learned-only": ("learned",),
    }
    for sides in ((), ("easy",)):
        with pytest.raises(ValueError, match="one or both of learned, unlearned"):
            register_order("nowhere", sides=sides)
    assert "nowhere" not in ORDERS


@pytest.fixture
def _registry_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ORDERS, "_entries", dict(ORDERS._entries))


@pytest.mark.usefixtures("_registry_as_it_was")
def test_a_new_order_by_a_score_of_its_own():
    @register_order("diverse", aliases=("diversity",), needs=("diversity",))
    def _diverse(pool: Pool, rng: np.random.Generator) -> np.ndarray:
        return np.lexsort((pool.index, -pool.score("diversity")))

    pool = Pool(index=np.arange(3), scores={"diversity": np.array([0.1, 0.3, 0.2])})
    assert order_slices("diversity", pool, np.random.default_rng(0)).tolist() == [1, 2, 0]
    assert order_slices("diversity", pool.take(np.array([2, 0])), np.random.default_rng(0)).tolist() == [0, 1]
    with pytest.raises(ValueError, match="already"):
        register_order("random")(_diverse)


@pytest.mark.usefixtures("_registry_as_it_was")
def test_an_order_that_loses_slices_is_caught():
    register_order("broken")(lambda pool, rng: np.zeros(len(pool), dtype=np.int64))
    with pytest.raises(ValueError, match="no permutation"):
        order_slices("broken", example(), np.random.default_rng(0))


def test_a_pool_is_checked():
    with pytest.raises(ValueError, match="distinct"):
        Pool(index=np.array([1, 1]))
    with pytest.raises(ValueError, match=r"dice has shape \(3,\)"):
        Pool(index=np.arange(2), dice=np.zeros(3))
    with pytest.raises(UsageError, match="'dice' is not finite for 1 of 2"):
        Pool(index=np.arange(2), dice=np.array([0, np.nan]))


def test_a_pool_takes_one_more_score():
    pool = example("learned")
    more = pool.with_score("own", np.arange(5)).with_score("oracle", np.zeros(5))
    assert more.score("own").tolist() == [0, 1, 2, 3, 4]
    assert more.score("oracle").tolist() == [0] * 5
    assert more.side == "learned"
    assert more.score("preference").tolist() == pool.score("preference").tolist()
    with pytest.raises(UsageError, match="no score 'own'"):
        pool.score("own")
    with pytest.raises(ValueError, match="own has shape"):
        pool.with_score("own", np.zeros(4))
    with pytest.raises(UsageError, match="'own' is not finite"):
        pool.with_score("own", np.full(5, np.inf))
