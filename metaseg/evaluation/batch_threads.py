"""Batches of slices over the cores of a CPU: each batch on one thread, instead of one batch on all.

Threads that share every convolution wait for each other at its end, and where a neighbour takes a core they wait for
long. Threads with batches of their own wait once a case, and no batch's rounding depends on how many there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def over_threads(work: Callable[[Batch], Result], batches: Iterable[Batch], threads: int) -> Iterator[Result]:
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
    waiting: deque[Future[Result]] = deque()
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
