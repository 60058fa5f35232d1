"""A lock that keeps two processes from writing one run; the system drops it when its holder ends or is killed."""

from __future__ import annotations

import errno
import os
import weakref
from pathlib import Path
from typing import IO

from metaseg.errors import RunError

LOCK_NAME = ".lock"


class RunLock:
    """An exclusive lock on a run folder, held from construction to :meth:`release`.

    The lock is the operating system's, on a file that stays in the folder: a lock *file* by itself would outlive
    ``kill -9`` and block the next run.

    Args:
        folder: The run folder; it must exist.

    Raises:
        RunError: Another process, or another object of this one, holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._stream: IO[str] | None = None
        stream = (folder / LOCK_NAME).open("a+", encoding="utf-8")
        if not _lock(stream):
            stream.seek(0)
            holder = stream.read().strip()
            stream.close()
            raise RunError(
                "the run is being written" + (f" by process {holder}" if holder.isdigit() else ""),
                where=folder,
                remedy="wait until it has ended, or write to another folder with --out",
            )
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        self._stream = stream
        _HELD.add(self)

    def release(self) -> None:
        """Give the lock back; more than once does no harm."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def is_locked(folder: Path) -> bool:
    """Whether some process is writing the run in ``folder``."""
    try:
        with (folder / LOCK_NAME).open("r+", encoding="utf-8") as stream:
            return not _lock(stream)
    except OSError:
        return False


def _lock(stream: IO[str]) -> bool:
    """Try to lock an open file; False if someone else has. Closing the file unlocks it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems know no locks; a run there must be possible all the same.
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
    return True


_HELD: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _release_in_child() -> None:
    # A forked worker shares its parent's lock; if it outlived a killed parent, the run would stay locked.
    for lock in list(_HELD):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
