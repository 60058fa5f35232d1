"""What a study's cells are made from: files that may change under the same name while the settings stay the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from metaseg.errors import DataError, UsageError
from metaseg.files import FileKind, read_json, write_json
from metaseg.models.checkpoint import checkpoint_files
from metaseg.runs.networks import find_checkpoint

INPUTS_FILE = "inputs.json"
FORMER_FILE = "network.json"
"""Where studies of the first release keep the digest of their source network, and of nothing else."""
NETWORK = "source network"
INPUTS = FileKind("the digests of a study's inputs", "name another study folder with --out")


def file_digest(path: Path) -> str:
    """Digest of a file's content.

    Raises:
        DataError: It cannot be read.
    """
    try:
        state = path.stat()
        return _digest(path, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror or error}", where=path) from error


def network_digest(name: Path) -> str:
    """Digest of the best weights of a run, or of a checkpoint.

    Raises:
        RunError: There is no such run or checkpoint.
    """
    return file_digest(checkpoint_files(find_checkpoint(name)[0])[0])


def check_inputs(folder: Path, found: Mapping[str, str], has_results: bool) -> None:
    """Raise if cells were made from other inputs than there are now; write down those of a new study.

    Args:
        folder: The study's folder.
        found: Digests by what they are of, such as ``"data of target met"``.
        has_results: Whether anything was run in the study; inputs may change freely before.

    Raises:
        UsageError: An input has changed: old and new results would stand in one table.
    """
    recorded = _recorded(folder) if has_results else {}
    changed = [name for name, digest in found.items() if recorded.get(name, digest) != digest]
    if changed:
        raise UsageError(
            f"changed since the study's first cells were run: {', '.join(changed)}",
            where=folder,
            expected="the same network, data and split for all results of a study",
            remedy="name another study folder with --out, or put back what was changed",
        )
    write_json(folder / INPUTS_FILE, {**recorded, **found})


@lru_cache(maxsize=64)
def _digest(path: Path, modified: int, size: int) -> str:
    """A study asks often, and weights may be large."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _recorded(folder: Path) -> dict[str, str]:
    if (folder / INPUTS_FILE).exists():
        digests: dict[str, str] = read_json(folder / INPUTS_FILE, INPUTS, dict[str, str])
        return digests
    if (folder / FORMER_FILE).exists():
        return {NETWORK: read_json(folder / FORMER_FILE, INPUTS, dict[str, str]).get("sha256", "")}
    return {}
