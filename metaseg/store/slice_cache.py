"""Ready slices kept in memory, in at most so many bytes: the ones not used for longest go first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from metaseg.store.stored_case import StoredCase

GIGABYTE = 1e9


class SliceCache:
    """Arrays by key, bounded in bytes; threads may share one.

    Args:
        limit: Most bytes to hold.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._arrays)

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._held

    def get(self, key: Hashable) -> np.ndarray | None:
        """The array of a key, not to be written to; None where it is not held."""
        with self._lock:
            array = self._arrays.get(key)
            if array is not None:
                self._arrays.move_to_end(key)
            return array

    def put(self, key: Hashable, array: np.ndarray) -> None:
        """Hold a copy of an array, and let go of what was not used for longest until the limit is kept."""
        if array.nbytes > self.limit:
            return
        kept = array.copy()
        kept.flags.writeable = False
        with self._lock:
            old = self._arrays.pop(key, None)
            self._held += kept.nbytes - (0 if old is None else old.nbytes)
            self._arrays[key] = kept
            while self._held > self.limit:
                _, dropped = self._arrays.popitem(last=False)
                self._held -= dropped.nbytes


def share_cache(cases: Iterable[StoredCase], gigabytes: float) -> SliceCache | None:
    """Let cases keep their ready slices in one cache of their own.

    Args:
        cases: The cases of one run; a cache that they had before is left to be freed.
        gigabytes: Most memory of all slices together, in 10^9 bytes; 0 keeps none.

    Returns:
        The cache, or None where none is kept.
    """
    cache = SliceCache(int(gigabytes * GIGABYTE)) if gigabytes > 0 else None
    for case in cases:
        case.cache = cache
    return cache
