"""Batches of slices over the cores of a CPU: each batch on one thread, instead of one batch on all.

Threads that share every convolution wait for each other at its end, and where a neighbour takes a core they wait for
long. Threads with batches of their own wait once a case, and no batch's rounding depends on how many there are.

Read the next case while the network is busy with the current one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

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


Batch = TypeVar("Batch")
Result_batch_threads = TypeVar("Result_batch_threads")


def over_threads(
    work: Callable[[Batch], Result_batch_threads], batches: Iterable[Batch], threads: int
) -> Iterator[Result_batch_threads]:
    """Results of ``work`` in the order of the batches; at most two batches a thread are under way.

    Args:
        work: What to do with a batch; it must not change anything that another batch uses.
        batches: The batches.
        threads: Threads, each of which computes on one core; 1 calls ``work`` here and leaves the cores to torch.
    """
    if threads <= 1:
        for batch in batches:
            yield work(batch)
        return
    before = torch.get_num_threads()
    # A thread takes over torch's number of threads when it first computes, so each sets its own.
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[Result_batch_threads]] = deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(work, batch))
            if len(waiting) == 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        # The threads' own numbers end with them, but torch also notes the last one for threads to come.
        torch.set_num_threads(before)
