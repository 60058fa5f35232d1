"""The registry of orders: in what sequence the slices of a pool are drawn.

An order is a function of a :class:`~metaseg.sampling.pool.Pool` and a random generator that gives a permutation of the
pool's positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from metaseg.errors import UsageError
from metaseg.registry import Registry
from metaseg.sampling.decompose import SIDES, Side
from metaseg.sampling.pool import Pool
from metaseg.sampling.scores import FloatArray, IntArray

Ranking = Callable[[Pool, np.random.Generator], IntArray]


@dataclass(frozen=True)
class Order:
    """An entry of the registry.

    Attributes:
        name: As in ``--order``.
        rank: The function that orders.
        needs: Scores that it reads from the pool.
        aliases: Other names for it.
        help: One line for the user.
        sides: The sides of a case that tasks are made of; the slices of another side are not drawn.
    """

    name: str
    rank: Ranking
    needs: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    help: str = ""
    sides: tuple[Side, ...] = SIDES


ORDERS: Registry[Order] = Registry("order", "metaseg.orders", Order)
"""Orders by name; an alias stands for the same order."""


def register_order(
    name: str,
    *,
    aliases: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
    help: str = "",
    sides: tuple[Side, ...] = SIDES,
) -> Callable[[Ranking], Ranking]:
    """Enter the decorated function into :data:`ORDERS`; arguments are those of :class:`Order`.

    Raises:
        ValueError: A name is taken, or there is no such side, or none.
    """
    if not sides or not set(sides) <= set(SIDES):
        raise ValueError(f"an order draws from one or both of {', '.join(SIDES)}, not from {sides}")

    def enter(rank: Ranking) -> Ranking:
        for each in (name, *aliases):
            ORDERS.add(each, Order(name, rank, needs, aliases, help, sides))
        return rank

    return enter


def order_slices(name: str, pool: Pool, rng: np.random.Generator) -> IntArray:
    """Put the slices of a pool in order.

    Args:
        name: An order of the registry, or an alias.
        pool: The slices.
        rng: The source of randomness; deterministic orders leave it untouched.

    Returns:
        Positions in the pool, first to be drawn first: a permutation, ``(n,)``. Equal slices follow their index, so
        the same slices come in the same order however the pool lists them.

    Raises:
        UsageError: There is no such order, or the pool lacks a score or side that it needs.
        ValueError: A registered order gave no permutation.
    """
    order = ORDERS.get(name)
    for needed in order.needs:
        pool.score(needed)
    ranked = np.asarray(order.rank(pool, rng), dtype=np.int64)
    if not np.array_equal(np.sort(ranked), np.arange(len(pool))):
        raise ValueError(f"order '{order.name}' gave no permutation of {len(pool)} positions")
    return ranked


def ascending(pool: Pool, score: np.ndarray) -> IntArray:
    """Positions from the lowest score, ``(n,)``, to the highest; equal ones by index."""
    return np.lexsort((pool.index, score))


def _distance_keys(name: str, pool: Pool) -> FloatArray:
    """Keys that ascend from the slice farthest from the threshold to the nearest."""
    if pool.side is None:
        raise UsageError(
            f"order '{name}' needs slices that were split into learned and unlearned",
            remedy="decompose the pool first, or use 'hardest' or 'easiest' on the whole of it",
        )
    dice = pool.score("dice")
    return -dice if pool.side == "learned" else dice


def _register_farthest_first(name: str, help: str, sides: tuple[Side, ...] = SIDES, direction: int = 1) -> None:
    register_order(name, needs=("dice",), help=help, sides=sides)(
        lambda pool, rng: ascending(pool, direction * _distance_keys(name, pool))
    )


_register_farthest_first(
    "active", "farthest first: learned slices from the best Dice down, unlearned from the worst up (Han 2018)"
)


@register_order("passive", aliases=("random",), help="a seeded shuffle (Han 2018)")
def _passive(pool: Pool, rng: np.random.Generator) -> IntArray:
    return pool.by_index()[rng.permutation(len(pool))]


_register_farthest_first(
    "reverse",
    "the mirror of active: on both sides the slices nearest to the threshold first, then away from it",
    direction=-1,
)
_register_farthest_first("unlearned-only", "as active, with the unlearned slices alone", sides=("unlearned",))
_register_farthest_first("learned-only", "as active, with the learned slices alone", sides=("learned",))


@register_order("hardest", needs=("dice",), help="from the worst Dice up")
def _hardest(pool: Pool, rng: np.random.Generator) -> IntArray:
    return ascending(pool, pool.score("dice"))


@register_order("easiest", needs=("dice",), help="from the best Dice down")
def _easiest(pool: Pool, rng: np.random.Generator) -> IntArray:
    return ascending(pool, -pool.score("dice"))


@register_order("sequential", help="as the slices lie in the case")
def _sequential(pool: Pool, rng: np.random.Generator) -> IntArray:
    return pool.by_index()


@register_order("entropy", needs=("entropy",), help="the most unsure first, by predictive entropy")
def _entropy(pool: Pool, rng: np.random.Generator) -> IntArray:
    return ascending(pool, -pool.score("entropy"))


@register_order(
    "foreground-random",
    needs=("foreground",),
    help="random without replacement, in proportion to the tumour area; slices without tumour last",
)
def _foreground_random(pool: Pool, rng: np.random.Generator) -> IntArray:
    return _weighted_draw(pool, pool.score("foreground"), rng)


@register_order(
    "oracle",
    needs=("oracle",),
    help="the truly easy first: from the best Dice of a network that knows the target down (--oracle)",
)
def _oracle(pool: Pool, rng: np.random.Generator) -> IntArray:
    return ascending(pool, -pool.score("oracle"))


@register_order(
    "adaptive",
    needs=("preference",),
    help="random without replacement, leaning to the bands of Dice that a bandit finds the most is learned from",
)
def _adaptive(pool: Pool, rng: np.random.Generator) -> IntArray:
    return _weighted_draw(pool, pool.score("preference"), rng)


def _weighted_draw(pool: Pool, weights: FloatArray, rng: np.random.Generator) -> IntArray:
    """Draw all slices without replacement in proportion to ``weights``; those without weight last, by index."""
    if np.any(weights < 0):
        raise ValueError("a weight, such as a tumour area, is negative")
    by_index = pool.by_index()
    # Efraimidis and Spirakis 2006: descending u ** (1 / w) draws without replacement with weights w. Its logarithm,
    # negated, is an exponential variate over w, which small weights do not bring to 0.
    keys = np.full(len(pool), np.inf)
    draws = rng.exponential(size=len(pool))
    weighted = weights[by_index] > 0
    keys[by_index[weighted]] = draws[weighted] / weights[by_index[weighted]]
    return ascending(pool, keys)
