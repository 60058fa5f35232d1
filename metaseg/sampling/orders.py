"""The registry of orders: in what sequence the slices of a pool are drawn.

An order is a function of a :class:`~metaseg.sampling.pool.Pool` and a random generator that gives a permutation of the
pool's positions. Segmentation and classification draw from the same registry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from metaseg.errors import UsageError, unknown_name
from metaseg.sampling.decompose import SIDES, Side
from metaseg.sampling.pool import Pool
from metaseg.sampling.scores import FloatArray, IntArray

Ranking = Callable[[Pool, np.random.Generator], IntArray]

OrderTask = Literal["any", "segmentation", "classification"]
"""What an order can be used for."""


@dataclass(frozen=True)
class Order:
    """An entry of the registry.

    Attributes:
        name: As in ``--order``.
        rank: The function that orders.
        needs: Scores that it reads from the pool; ``embedding`` stands for the pool's embedding.
        needs_label: Whether a slice must be labelled before it can be ranked.
        aliases: Other names for it.
        help: One line for the user.
        sides: The sides of a case that tasks are made of; the slices of another side are not drawn.
        task: What it is for: segmentation, classification, or any.
    """

    name: str
    rank: Ranking
    needs: tuple[str, ...]
    needs_label: bool
    aliases: tuple[str, ...]
    help: str
    sides: tuple[Side, ...] = SIDES
    task: OrderTask = "any"

    def suits(self, task: OrderTask) -> bool:
        """Whether it can be used for a task; ``any`` asks nothing."""
        return "any" in (task, self.task) or task == self.task


ORDERS: dict[str, Order] = {}
"""Orders by name, aliases left out."""


def register_order(
    name: str,
    *,
    aliases: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
    needs_label: bool = False,
    help: str = "",
    sides: tuple[Side, ...] = SIDES,
    task: OrderTask = "any",
) -> Callable[[Ranking], Ranking]:
    """Enter a function into :data:`ORDERS` under ``name``.

    Args:
        name: As in ``--order``.
        aliases: Other names for it.
        needs: Scores that it reads from the pool, or ``embedding``; asked for before it is called.
        needs_label: Whether a slice must be labelled before it can be ranked.
        help: One line for the user.
        sides: The sides of a case that tasks are made of.
        task: What it is for.

    Returns:
        The decorator; it leaves the function as it is.

    Raises:
        ValueError: A name is taken, or there is no such side, or none.
    """
    if not sides or not set(sides) <= set(SIDES):
        raise ValueError(f"an order draws from one or both of {', '.join(SIDES)}, not from {sides}")

    def enter(rank: Ranking) -> Ranking:
        for taken in (name, *aliases):
            if taken in order_names(aliases=True):
                raise ValueError(f"there is an order '{taken}' already")
        ORDERS[name] = Order(name, rank, needs, needs_label, aliases, help, sides, task)
        return rank

    return enter


def order_names(*, aliases: bool = False, task: OrderTask = "any") -> tuple[str, ...]:
    """Names of the orders that suit a task, as registered; with ``aliases`` each is followed by its aliases."""
    return tuple(
        name
        for order in ORDERS.values()
        if order.suits(task)
        for name in ((order.name, *order.aliases) if aliases else (order.name,))
    )


def find_order(name: str, task: OrderTask = "any") -> Order:
    """Look an order up by its name or an alias.

    Args:
        name: As in ``--order``.
        task: What it is wanted for; with ``any`` every order will do.

    Raises:
        UsageError: There is none; the message names the known ones and the nearest. Or it is for another task.
    """
    known = order_names(aliases=True, task=task)
    for order in ORDERS.values():
        if name == order.name or name in order.aliases:
            if order.suits(task):
                return order
            raise UsageError(
                f"order '{name}' is for {order.task}, not for {task}",
                expected="one of " + ", ".join(known),
                remedy="choose one of these; 'random' needs no score at all",
            )
    raise unknown_name("order", name, known)


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
    order = find_order(name)
    for needed in order.needs:
        pool.require(needed)
    ranked = np.asarray(order.rank(pool, rng), dtype=np.int64)
    if not np.array_equal(np.sort(ranked), np.arange(len(pool))):
        raise ValueError(f"order '{order.name}' gave no permutation of {len(pool)} positions")
    return ranked


def ascending(pool: Pool, score: np.ndarray) -> IntArray:
    """Positions from the lowest score, ``(n,)``, to the highest; equal ones by index."""
    return np.lexsort((pool.index, score))


@register_order(
    "active",
    needs=("dice",),
    needs_label=True,
    help="farthest first: learned slices from the best Dice down, unlearned from the worst up (Han 2018)",
    task="segmentation",
)
def _active(pool: Pool, rng: np.random.Generator) -> IntArray:
    return ascending(pool, _toward_threshold("active", pool))


@register_order("passive", aliases=("random",), help="a seeded shuffle (Han 2018)")
def _passive(pool: Pool, rng: np.random.Generator) -> IntArray:
    return pool.by_index()[rng.permutation(len(pool))]


@register_order(
    "reverse",
    needs=("dice",),
    needs_label=True,
    help="the mirror of active: on both sides the slices nearest to the threshold first, then away from it",
    task="segmentation",
)
def _reverse(pool: Pool, rng: np.random.Generator) -> IntArray:
    return ascending(pool, -_toward_threshold("reverse", pool))


@register_order(
    "unlearned-only",
    needs=("dice",),
    needs_label=True,
    help="as active, with the unlearned slices alone",
    sides=("unlearned",),
    task="segmentation",
)
def _unlearned_only(pool: Pool, rng: np.random.Generator) -> IntArray:
    return ascending(pool, _toward_threshold("unlearned-only", pool))


@register_order(
    "learned-only",
    needs=("dice",),
    needs_label=True,
    help="as active, with the learned slices alone",
    sides=("learned",),
    task="segmentation",
)
def _learned_only(pool: Pool, rng: np.random.Generator) -> IntArray:
    return ascending(pool, _toward_threshold("learned-only", pool))


def _toward_threshold(name: str, pool: Pool) -> FloatArray:
    """Keys that ascend from the slice farthest from the threshold to the nearest."""
    if pool.side is None:
        raise UsageError(
            f"order '{name}' needs slices that were split into learned and unlearned",
            remedy="decompose the pool first, or use 'hardest' or 'easiest' on the whole of it",
        )
    dice = pool.score("dice")
    return -dice if pool.side == "learned" else dice


@register_order("hardest", needs=("dice",), needs_label=True, help="from the worst Dice up", task="segmentation")
def _hardest(pool: Pool, rng: np.random.Generator) -> IntArray:
    return ascending(pool, pool.score("dice"))


@register_order("easiest", needs=("dice",), needs_label=True, help="from the best Dice down", task="segmentation")
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
    needs_label=True,
    help="random without replacement, in proportion to the tumour area; slices without tumour last",
    task="segmentation",
)
def _foreground_random(pool: Pool, rng: np.random.Generator) -> IntArray:
    return _weighted_draw(pool, pool.score("foreground"), rng)


@register_order(
    "oracle",
    needs=("oracle",),
    needs_label=True,
    help="the truly easy first: from the best Dice of a network that knows the target down (--oracle)",
    task="segmentation",
)
def _oracle(pool: Pool, rng: np.random.Generator) -> IntArray:
    return ascending(pool, -pool.score("oracle"))


@register_order(
    "adaptive",
    needs=("preference",),
    needs_label=True,
    help="random without replacement, leaning to the bands of Dice that a bandit finds the most is learned from",
    task="segmentation",
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
