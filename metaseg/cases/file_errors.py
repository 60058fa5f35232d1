"""What image libraries raise for files that are missing, damaged or of another kind, turned into one error of ours."""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
