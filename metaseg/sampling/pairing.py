"""Support and query: the slices of the inner and of the outer loop (Han et al. 2018, Algorithm 1, line 2)."""

from __future__ import annotations

import numpy as np

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
