"""Files that are not what they seem: damaged, of another kind, or claiming more than file or memory holds.

:func:`reading` turns whatever image libraries raise into one error of ours; the others look before anything is read.
"""

from __future__ import annotations

import bz2
import gzip
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError
from nibabel.wrapstruct import WrapStructError
from PIL import Image
from zlib_ng import zlib_ng

from metaseg.errors import DataError

# Everything that the file libraries raise for files that are damaged or of another kind.
_FILE_ERRORS: tuple[type[BaseException], ...] = (  # type: ignore[assignment]  # zlib-ng's stubs say an instance
    OSError,
    EOFError,
    ValueError,
    TypeError,
    SyntaxError,
    RuntimeError,
    OverflowError,
    MemoryError,
    KeyError,
    zlib.error,
    zlib_ng.error,
    struct.error,
    Image.DecompressionBombError,
    ImageFileError,
    HeaderDataError,
    HeaderTypeError,
    WrapStructError,
)
CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
_GZIP_MAGIC, _BZIP2_MAGIC = b"\x1f\x8b", b"BZh"
_MOST_PACKED = 1100
"""Bytes that one byte may hold, compressed with gzip: 1,032 at most."""


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn what file libraries raise for missing or damaged files into a DataError."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            # Opening a pipe would wait for ever, and a device may never end.
            raise OSError("it is no file, but a " + ("pipe" if stat.S_ISFIFO(mode) else "device or socket"))
        yield
    except FileNotFoundError as error:
        raise DataError(f"the {kind} does not exist", where=path, remedy="check the path, or get it again") from error
    except _FILE_ERRORS as error:
        # ITK puts its own place in the code before the reason, and hints behind it.
        reason = str(error).rpartition("ERROR: ")[2].strip("\"' \n").split("\n")[0] or type(error).__name__
        raise DataError(
            f"the {kind} cannot be read: {reason}",
            where=path,
            expected=f"an intact {kind}",
            remedy="copy or download it again, or leave the case out",
        ) from error


def require_possible(claimed: int, held: int, path: Path) -> None:
    """Refuse a header that promises more than a file of its size can hold, however it is compressed.

    Args:
        claimed: Bytes, or voxels, that the header promises.
        held: Size of the file, in bytes.
        path: The file.

    Raises:
        DataError: It claims too much.
    """
    if claimed > _MOST_PACKED * held:
        raise DataError(
            f"the header claims {claimed:,} bytes of voxels, the file holds {held:,}",
            where=path,
            expected="an intact image file",
            remedy="copy or download it again, or leave the case out",
        )


def require_memory(needed: int, what: str, where: Path) -> None:
    """Refuse, before it is taken, more memory than there is.

    Args:
        needed: In bytes.
        what: What is to be read.
        where: Its file.

    Raises:
        DataError: Less is free, as far as the system tells.
    """
    free = free_memory()
    if free is not None and needed > free:
        raise DataError(
            f"{what} needs {needed / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} GiB are free",
            where=where,
            expected="a volume of common size, or more memory",
            remedy="check the sizes in its header, end other programs, or leave the case out",
        )


def free_memory() -> int | None:
    """Memory that is free to take, in bytes; None where the system does not tell."""
    return min((free for free in (_available(), _left_in_cgroup()) if free is not None), default=None)


def _available() -> int | None:
    try:
        for line in MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _left_in_cgroup() -> int | None:
    """What the limit of a container leaves; its file cache counts as free."""
    try:
        limit, used = (int((CGROUP / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        rows = (line.split() for line in (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        cache = next((int(row[1]) for row in rows if row[0] == "inactive_file"), 0)
    except (OSError, ValueError, IndexError):
        return None
    return max(0, limit - used + cache)


def open_plain(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressed if its first bytes say so."""
    with path.open("rb") as stream:
        magic = stream.read(3)
    if magic.startswith(_GZIP_MAGIC):
        return gzip.open(path)  # type: ignore[return-value]
    return bz2.open(path) if magic == _BZIP2_MAGIC else path.open("rb")


def read_plain(path: Path, most: int) -> bytes:
    """The whole file, decompressed; reading it at once is several times faster than in pieces.

    Args:
        path: The file.
        most: Bytes at which decompression stops, whatever follows.

    Raises:
        ValueError: It holds more.
        EOFError: It is cut off.
    """
    content = path.read_bytes()
    if content.startswith(_GZIP_MAGIC):
        return _decompress(content, most, lambda: zlib_ng.decompressobj(wbits=31))
    return _decompress(content, most, bz2.BZ2Decompressor) if content.startswith(_BZIP2_MAGIC) else content


def _decompress(content: bytes, most: int, make: Callable[[], Any]) -> bytes:
    parts: list[bytes] = []
    left = most
    while content:
        decompressor = make()
        part = decompressor.decompress(content, left + 1)
        parts.append(part)
        left -= len(part)
        if left < 0:
            raise ValueError(f"it unpacks to more than {most:,} bytes, more than its header promises")
        if not decompressor.eof:
            raise EOFError("it is cut off")
        # gzip files may be padded with zeros.
        content = decompressor.unused_data.lstrip(b"\0")
    return parts[0] if len(parts) == 1 else b"".join(parts)
