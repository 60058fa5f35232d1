"""``manifest.json``: with what, from what and at what cost a run was made.

Nothing in it names the machine or its user, so that a run folder can be handed on.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from metaseg.errors import warnings_so_far
from metaseg.files import FileKind, check_shape, read_json, write_json

MANIFEST_NAME = "manifest.json"
MANIFEST_KIND = FileKind("the manifest of a metaseg run", "start the run again with --overwrite")
PACKAGES = ("metaseg", "torch", "monai", "learn2learn", "numpy", "nibabel")

NOTICE = "Research only, not for clinical use."
SYNTHETIC = "SYNTHETIC phantoms, not patients"
"""What stands beside everything that is made from phantoms."""


@dataclass(frozen=True)
class ManifestContent:
    """What readers of a ``manifest.json`` count on; it holds more."""

    sessions: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    synthetic: bool | None = None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder; empty if it has none.

    Raises:
        RunError: The file is damaged.
    """
    path = folder / MANIFEST_NAME
    record: dict[str, Any] = read_json(path, MANIFEST_KIND) if path.exists() else {}
    check_shape(record, ManifestContent, partial(MANIFEST_KIND.refuse, path=path))
    return record


class Manifest:
    """The record of a run, with one entry in ``sessions`` for each time that it was started or resumed.

    ``warnings`` holds what the user was warned of in any of them. The clock of the session runs from here on.

    Args:
        verb: What makes the run.
        seed: Its seed.
        device: The device that was chosen, such as ``"cpu"`` or ``"cuda:0"``.
        synthetic: Whether phantoms are among the data.
        data_fingerprint: Hash of the data that the run reads.
        parent: The run or checkpoint that this one starts from.
        extra: Anything else worth keeping, as JSON values.

    Attributes:
        record: The content of ``manifest.json``.
    """

    def __init__(
        self,
        *,
        verb: str,
        seed: int,
        device: str,
        synthetic: bool = False,
        data_fingerprint: str | None = None,
        parent: str | None = None,
        **extra: Any,
    ) -> None:
        self.record: dict[str, Any] = {
            "verb": verb,
            "command": [*(Path(word).name for word in sys.argv[:1]), *map(portable_path, sys.argv[1:])],
            "seed": seed,
            "device": device,
            "synthetic": synthetic,
            "data_fingerprint": data_fingerprint,
            "parent": None if parent is None else portable_path(parent),
            "versions": versions(),
            "git_commit": git_commit(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            **extra,
            "sessions": [{"started": _now()}],
        }
        self._wall, self._cpu = time.monotonic(), _cpu_seconds()

    def save(self, folder: Path) -> None:
        """Write the manifest into a run folder; sessions that the folder's manifest holds already are kept."""
        earlier = read_manifest(folder)
        mine = self.record["sessions"][-1]
        others = [session for session in earlier.get("sessions", []) if session.get("started") != mine["started"]]
        self.record["sessions"] = [*others, mine]
        self.record["warnings"] = list(dict.fromkeys([*earlier.get("warnings", []), *warnings_so_far()]))
        write_json(folder / MANIFEST_NAME, self.record)

    def finish(self, folder: Path, **extra: Any) -> None:
        """Add end, seconds and memory to the session, and ``extra`` to the record, and save it.

        Args:
            folder: The run folder.
            extra: What is known only at the end, as JSON values.
        """
        self.record["sessions"][-1].update(
            ended=_now(),
            wall_seconds=round(time.monotonic() - self._wall, 3),
            cpu_seconds=round(_cpu_seconds() - self._cpu, 3),
            peak_memory_mib=peak_memory_mib(),
        )
        self.record.update(extra)
        self.save(folder)


def versions() -> dict[str, str | None]:
    """Versions of Python, the system and the packages that metrics depend on, without importing them."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def git_commit(folder: Path | None = None) -> str | None:
    """The git commit of the working directory, with ``+changes`` if files differ from it; None outside of git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def portable_path(text: str) -> str:
    """A path or argument without this machine's folders: relative to the working directory, or from ``~``."""
    for folder, short in ((Path.cwd(), "."), (Path.home(), "~")):
        if text == str(folder):
            return short
        text = text.replace(f"{folder}{os.sep}", "" if short == "." else f"{short}{os.sep}")
    return text


def peak_memory_mib() -> float | None:
    """The most memory that this process has held so far, in MiB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
