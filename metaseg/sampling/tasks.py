"""The plan of a case: which tasks every meta-step takes, each of support and query (Han et al. 2018, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from metaseg.sampling.decompose import SIDES, Decomposition, Side, decompose
from metaseg.sampling.orders import ORDERS, order_slices
from metaseg.sampling.pool import Pool
from metaseg.sampling.scores import IntArray

Group = tuple[tuple[int, ...], tuple[int, ...]]


def pair_support_query(order: np.ndarray) -> IntArray:
    """Pair neighbours of an order: the first of each two is support, the second query.

    So every support slice has a query slice of like difficulty, and no slice is in two places.

    Args:
        order: Slices in the order in which they are drawn, ``(n,)``.

    Returns:
        ``(n // 2, 2)``, columns support and query. Of an odd number the last slice is left over and not returned.
    """
    order = np.asarray(order, dtype=np.int64)
    return order[: order.size // 2 * 2].reshape(-1, 2)


def group_support_query(order: np.ndarray, support_size: int = 1, query_size: int = 1) -> list[Group]:
    """Cut an order into groups of ``support_size + query_size`` neighbours that alternate between support and query.

    Within a group slices go to support and query in turn, support first; when one is full, the rest goes to the other.
    With the paper's one data point each this is :func:`pair_support_query`.

    Args:
        order: Slices in the order in which they are drawn, ``(n,)``.
        support_size: Slices of one inner loop.
        query_size: Slices of one outer loop.

    Returns:
        ``n // (support_size + query_size)`` groups ``(support, query)``; the slices after the last whole group are
        left over and not returned.

    Raises:
        ValueError: A size is below 1.
    """
    if support_size < 1 or query_size < 1:
        raise ValueError(f"support and query need a slice at least, got {support_size} and {query_size}")
    block = support_size + query_size
    shared = 2 * min(support_size, query_size)
    in_support = np.full(block, support_size > query_size)
    in_support[:shared] = np.arange(shared) % 2 == 0
    order = np.asarray(order, dtype=np.int64)
    rows = order[: order.size // block * block].reshape(-1, block)
    return [(tuple(row[in_support].tolist()), tuple(row[~in_support].tolist())) for row in rows]


@dataclass(frozen=True)
class Task:
    """One task of a meta-step; slices are named by their index in the case.

    Attributes:
        kind: The side that it comes from.
        support: Slices of the inner loop.
        query: Slices of the outer loop; none of them is support.
    """

    kind: Side
    support: tuple[int, ...]
    query: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """The tasks of one meta-step: the learned ones first."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True, eq=False)
class CasePlan:
    """The meta-steps of one case, in sequence.

    Attributes:
        steps: The steps. None where no side that is drawn from has slices for a whole task.
        decomposition: The split that was used, in positions of the pool.
        leftover: Index of the slices that no step takes, ascending; those of a side that the order leaves out too.
        draws: Index of the slices of each side that is drawn from, first to be drawn first; leftover ones included.
    """

    steps: tuple[Step, ...]
    decomposition: Decomposition
    leftover: tuple[int, ...]
    draws: Mapping[Side, tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)


def plan_case(
    pool: Pool,
    order: str,
    threshold: float | str = "median",
    tasks_per_step: int | None = 1,
    *,
    rng: np.random.Generator,
    support_size: int = 1,
    query_size: int = 1,
) -> CasePlan:
    """Plan the meta-steps of one case: decompose by Dice, order both sides, pair, and deal the pairs out.

    Step k takes the k-th ``tasks_per_step`` tasks of either side. When one side is used up the other goes on alone,
    until every whole task of the case was taken once. With None one step takes all of them: Algorithm 1 as it is
    written, where the order decides which slices are paired and nothing else. An order may draw from one side alone
    (:attr:`Order.sides <metaseg.sampling.orders.Order>`); the case is then decomposed all the same.

    Args:
        pool: All slices of the case, with their Dice under the current network.
        order: An order of the registry; it is applied to the learned side first, then to the unlearned.
        threshold: As in :func:`~metaseg.sampling.decompose.decompose`.
        tasks_per_step: Tasks of each side in one step; None for all.
        rng: The source of randomness.
        support_size: Slices of one task's inner loop; one in the paper.
        query_size: Slices of one task's outer loop; one in the paper.

    Returns:
        The plan. It may hold no step where slices are few, as with two slices, one on each side.

    Raises:
        UsageError: The case has fewer than two slices, or order or threshold are not understood.
        ValueError: A size or ``tasks_per_step`` is below 1.
    """
    if tasks_per_step is not None and tasks_per_step < 1:
        raise ValueError(f"a step needs a task of each side at least, got {tasks_per_step}")
    split = decompose(pool.score("dice"), threshold)
    wanted = ORDERS.get(order).sides
    sides: list[list[Task]] = []
    draws: dict[Side, tuple[int, ...]] = {}
    for kind in SIDES:
        if kind not in wanted:
            continue
        side = pool.take(getattr(split, kind), side=kind)
        drawn = np.asarray(side.index)[order_slices(order, side, rng)]
        draws[kind] = tuple(drawn.tolist())
        groups = group_support_query(drawn, support_size, query_size)
        sides.append([Task(kind, support, query) for support, query in groups])
    most = max(len(tasks) for tasks in sides)
    size = tasks_per_step or max(1, most)
    steps = tuple(Step(tuple(task for side in sides for task in side[k : k + size])) for k in range(0, most, size))
    used = {place for side in sides for task in side for place in (*task.support, *task.query)}
    return CasePlan(steps, split, tuple(sorted(set(np.asarray(pool.index).tolist()) - used)), draws)
