"""The files of a stored case, with checksums: a bit that rots on the disk must not become a figure."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from zlib_ng import zlib_ng

from metaseg.checked_files import FileKind, check_shape, read_json
from metaseg.errors import DataError

RECORD = "case.json"
FORMAT_VERSION = 1
KIND = FileKind(
    "a complete stored case, as 'metaseg data prepare' writes it", "delete its folder and prepare it again", DataError
)


def write_record(folder: Path, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``case.json`` and one ``NAME.npy`` for each array into a folder, with checksums of all."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    sums = {name: checksum(array) for name, array in arrays.items()}
    # To JSON and back: what is read must give the same text.
    record = json.loads(json.dumps({**values, "version": FORMAT_VERSION, "checksums": sums}))
    (folder / RECORD).write_text(json.dumps({**record, "checksum": _text_checksum(record)}), encoding="utf-8")


def read_record(folder: Path, shape: Any) -> tuple[Any, dict[str, int]]:
    """Read ``case.json``; one of a release without checksums has none.

    Args:
        folder: The case's folder.
        shape: As :func:`~metaseg.checked_files.read_json` takes it.

    Returns:
        The record as ``shape``, and the arrays' checksums.

    Raises:
        DataError: It is missing or damaged, or of another format.
    """
    path = folder / RECORD
    values: dict[str, Any] = read_json(path, KIND)
    refuse = partial(KIND.refuse, path=path)
    if values.get("version") != FORMAT_VERSION:
        raise DataError(
            f"stored case of format version {values.get('version')}",
            where=folder,
            expected=f"version {FORMAT_VERSION}",
            remedy="delete the store and prepare it again",
        )
    told = values.pop("checksum", None)
    if told is not None and told != _text_checksum(values):
        raise refuse("the content is damaged: its checksum is another")
    sums: dict[str, int] = check_shape(values.pop("checksums", {}), dict[str, int], refuse)
    return check_shape(values, shape, refuse), sums


def open_array(path: Path, dtypes: tuple[type, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Map an array into memory, after a look at its header and the file's size.

    Raises:
        DataError: The file is missing, no array, cut off, or of another type or shape.
    """
    try:
        array = np.load(path, mmap_mode="r")
        found = f"{array.dtype} {array.shape}"
        end = array.offset + array.nbytes
    except OSError as error:
        raise KIND.refuse(f"the array cannot be read: {error.strerror or error}", path) from error
    except Exception as error:  # numpy answers a damaged header with nearly any type of error
        raise KIND.refuse(f"this is no array: {' '.join(str(error).split())[:200]}", path) from error
    if array.dtype not in dtypes or array.shape != shape:
        wanted = " or ".join(np.dtype(one).name for one in dtypes)
        raise KIND.refuse(f"the array is {found}, where {RECORD} says {wanted} {shape}", path)
    if os.path.getsize(path) != end:
        raise KIND.refuse(f"the file has {os.path.getsize(path)} bytes, where its header says {end}", path)
    return array


def checksum(array: np.ndarray) -> int:
    """CRC-32 of an array's values: some 7 GB a second, a twentieth of the time that a digest takes."""
    return int(zlib_ng.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8)))


def _text_checksum(values: Mapping[str, Any]) -> int:
    return int(zlib_ng.crc32(json.dumps(values, sort_keys=True).encode()))
