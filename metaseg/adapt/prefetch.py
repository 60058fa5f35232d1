"""Reading ahead: a thread brings the next case's slices into the cache while the current case trains."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from metaseg.adapt.setting import Shot


class Prefetch:
    """Reads slices that will be wanted, and gives nothing back: what is read later is the same bits either way.

    Args:
        modalities: The network's input modalities.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = tuple(modalities)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")

    def start(self, shot: Shot) -> Future[None] | None:
        """Begin to read a shot's slices; nothing is done where no cache could keep them.

        Errors are not raised: the reading that follows meets and raises them where they matter.
        """
        return None if shot.case.cache is None else self._thread.submit(self._read, shot)

    def _read(self, shot: Shot) -> None:
        # One at a time, so that no more than a slice is held beside the cache.
        for index in shot.slices.tolist():
            shot.case.images([index], self.modalities)
