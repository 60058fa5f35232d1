"""Files that are never seen half-written: each is written under a temporary name and then renamed."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of ``path`` when the block ends without an error.

    The content is on the disk before the name changes, so that a power cut leaves the old or the new file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
