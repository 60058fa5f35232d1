"""Threads: results in order, and results worked out before they are asked for.

Threads suffice where work releases the interpreter's lock: reading, decompression, array work and torch's operations.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

Key = TypeVar("Key", bound=Hashable)
Ahead = TypeVar("Ahead")


class ReadAhead(Generic[Key, Ahead]):
    """A function of a key whose results threads work out before they are asked for.

    Used as a context manager, it waits at the end for what is under way, and drops what has not begun.

    Args:
        work: The function; threads call it, so it must not change anything that another call uses.
        threads: Threads, each of which works out one result at a time; 0 works it out when it is asked for.
    """

    def __init__(self, work: Callable[[Key], Ahead], threads: int = 1) -> None:
        self.work = work
        self._pool = ThreadPoolExecutor(threads, "metaseg-ahead") if threads else None
        self._begun: dict[Key, Future[Ahead]] = {}

    def __call__(self, key: Key, following: Iterable[Key] = ()) -> Ahead:
        """The result for ``key``; those that are wanted next are begun before it is waited for.

        Args:
            key: What the result is of.
            following: The keys that will be wanted next, in order. What was begun for others is dropped.

        Raises:
            Exception: Whatever the function raised for this key.
        """
        if self._pool is None:
            return self.work(key)
        self.begin([key, *following])
        return self._begun.pop(key).result()

    def begin(self, keys: Iterable[Key]) -> None:
        """Begin with the keys that will be wanted next, unless that was done; drop what was begun for others."""
        if self._pool is None:
            return
        wanted = list(keys)
        for key in self._begun.keys() - wanted:
            self._begun.pop(key).cancel()
        for key in wanted:
            if key not in self._begun:
                self._begun[key] = self._pool.submit(self.work, key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    *,
    initializer: Callable[[], object] | None = None,
) -> Iterator[Result]:
    """Results of ``work`` in the order of the items; at most two items a thread are under way.

    Where the iterator is closed or an item raises, items under way are waited for and none is begun any more.

    Args:
        work: What to do with an item; it must not change anything that another item uses.
        items: The items; they are taken up only as far ahead as threads need.
        threads: Threads; with one, ``work`` is called in the thread of the caller.
        initializer: Called once at the start of every thread.

    Raises:
        Exception: Whatever ``work`` raised for the first item that failed.
    """
    if threads <= 1:
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, "metaseg-map", initializer)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) == 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
