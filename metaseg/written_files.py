"""Files that are written whole or not at all, and never in the place of others unless that is asked for."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import math
import os
import platform
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from metaseg.errors import UsageError, WriteError

_PROBE_BYTES = 1 << 16
_ANOTHER_PLACE = "choose another place, or ask who runs the machine"
_ROOM = "make room there, then give the command again"
# What the system's refusals mean to the user, and what to do about them.
_REFUSALS: dict[int | None, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", _ROOM),
    errno.EDQUOT: ("the disk quota is used up", _ROOM),
    errno.EFBIG: ("the file would be larger than the system allows", "raise the limit with 'ulimit -f'"),
    errno.EROFS: ("the disk can only be read", _ANOTHER_PLACE),
    errno.EACCES: ("permission is denied", _ANOTHER_PLACE),
    errno.EPERM: ("permission is denied", _ANOTHER_PLACE),
    errno.EIO: ("the disk reports an error", "check the disk, or choose another place"),
    errno.EMFILE: ("too many files are open", "raise the limit with 'ulimit -n', or use fewer --jobs"),
    errno.ENFILE: ("too many files are open", "end other programs, or use fewer --jobs"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.ELOOP: ("its links lead in a circle", "mend the links, or choose another place"),
    errno.ENOTDIR: ("a file stands where a folder should be", "choose another name"),
    errno.EEXIST: ("a file stands where a folder should be", "choose another name"),
    errno.EISDIR: ("a folder stands where a file should be", "choose another name"),
}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write ``path`` into an error that says why and what to do.

    Raises:
        WriteError: The block raised an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        reason, remedy = explain_refusal(error)
        raise WriteError(f"this cannot be written: {reason}", where=path, remedy=remedy) from error


def explain_refusal(error: OSError) -> tuple[str, str]:
    """What a refusal of the system means, and what to do about it."""
    # numpy reports a full disk without a number.
    number = errno.ENOSPC if "requested and" in str(error) else error.errno
    return _REFUSALS.get(number, (error.strerror or str(error) or type(error).__name__, _ANOTHER_PLACE))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of ``path`` when the block ends without an error.

    The content is on the disk before the name changes, so that a power cut leaves the old or the new file.

    Raises:
        WriteError: The system refuses; ``path`` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{_writer()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_of_dead(path.parent, f".{glob.escape(path.name)}.*.tmp")
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        try:
            with temporary.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _writer() -> str:
    """Machine and process, as names of unfinished files have them."""
    return f"{zlib.crc32(platform.node().encode()):08x}-{os.getpid()}"


def _remove_of_dead(folder: Path, pattern: str) -> None:
    """Delete unfinished files and folders of processes of this machine that have ended."""
    here = _writer().partition("-")[0]
    for path in folder.glob(pattern):
        machine, _, process = path.suffixes[-2].lstrip(".").rpartition("-") if len(path.suffixes) > 1 else ("", "", "")
        # Names of an earlier version lack the machine.
        if machine in ("", here) and process.isdigit() and not _is_alive(int(process)):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_alive(process: int) -> bool:
    if os.name == "nt":
        # There os.kill would end the process.
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system lets folders be brought there."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Delete what writers that were killed have left behind in a folder and below; only for who holds its lock."""
    for file in folder.rglob(".*.tmp"):
        file.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file (UTF-8)."""
    with replacing(path) as stream:
        stream.write(text.encode("utf-8"))


def finite_figures(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Figures as JSON has them: None for one that is not finite."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file; numbers that are not finite are refused, since JSON has none."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def require_writable(folder: Path) -> None:
    """Make sure, before work that takes long, that files can be written to a folder; it is not made.

    Raises:
        WriteError: It or the folder in which it would be made cannot be written, or a file has its name.
    """
    with writing(folder):
        with contextlib.suppress(FileNotFoundError):
            # A name that is too long shows here already.
            folder.lstat()
        existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())


def refuse_existing(outputs: Iterable[Path], overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Make sure that nothing is replaced without being asked for, and an input not even then.

    Args:
        outputs: What would be written. A link counts as what it leads to, and as there if it leads to nowhere.
        overwrite: Whether the user gave ``--overwrite``.
        inputs: Files that are read for it.

    Raises:
        UsageError: An output is there without ``overwrite``, or is one of the inputs.
    """
    existing = [path for path in outputs if os.path.lexists(path)]
    if not existing:
        return
    read = {path.resolve() for path in inputs}
    for path in existing:
        if path.resolve() in read:
            raise UsageError(
                "the output would replace a file that is read",
                where=path,
                expected="a file that does not belong to the data",
                remedy="choose another --out",
            )
    if not overwrite:
        others = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise UsageError(
            f"the output exists already{others}",
            where=existing[0],
            expected="a new name",
            remedy="replace it with --overwrite, or choose another",
        )


@contextlib.contextmanager
def making_folder(folder: Path) -> Iterator[Path]:
    """A new folder that takes the name ``folder``, if that is not there, when the block ends without an error.

    Raises:
        WriteError: The system refuses; nothing is left behind then.
    """
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.{_writer()}.part")
    with writing(folder):
        temporary.mkdir(parents=True)
        _remove_of_dead(folder.parent, ".*.part")
        try:
            yield temporary
            try:
                os.rename(temporary, folder)
            except OSError:
                # Another process finished the same folder first.
                if not folder.exists():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
