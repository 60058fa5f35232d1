"""What torch keeps for each thread by itself, and a worker thread has to be given: autocast and intra-op threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Autocast:
    """The autocast that is in force.

    Attributes:
        device: The device type.
        enabled: Whether there is one.
        dtype: To which it casts.
    """

    device: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def current(cls, device: str) -> Autocast:
        """That of this thread for a device type."""
        if not torch.amp.is_autocast_available(device):
            return cls(device, False, torch.float32)
        return cls(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))

    def uncached(self) -> AbstractContextManager[object]:
        """Enter it here. Casts are made anew each time, since the table of those kept is one for all threads."""
        if not self.enabled:
            return contextmanager(_nothing)()
        return torch.autocast(self.device, dtype=self.dtype, cache_enabled=False)


def _nothing() -> Iterator[None]:
    yield


@contextmanager
def intra_op_threads(count: int) -> Iterator[None]:
    """So many intra-op threads in this thread, and in those that begin meanwhile; then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def settle_threads() -> None:
    """Set the number of intra-op threads to what it is.

    Setting it takes MKL's freedom to use fewer. Done before the first figure is computed, so that figures do not depend
    on whether a step, which sets the number and sets it back, came before them.
    """
    torch.set_num_threads(torch.get_num_threads())
