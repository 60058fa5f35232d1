"""Read the next case while the network is busy with the current one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def read_ahead(
    read: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[Iterator[tuple[Item, Callable[[], Result]]]]:
    """Call ``read`` on a thread of its own, one item ahead; no more than two results are held.

    Args:
        read: Reads an item.
        items: The items, in the order in which they are wanted.

    Yields:
        Each item, and what waits for its result; that raises what ``read`` raised. When the block is left, nothing is
        read any more: a read under way is waited for.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="metaseg-read")

    def each() -> Iterator[tuple[Item, Callable[[], Result]]]:
        following: Future[Result] | None = None
        for position, item in enumerate(items):
            current = following or pool.submit(read, item)
            following = pool.submit(read, items[position + 1]) if position + 1 < len(items) else None
            yield item, current.result

    try:
        yield each()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
