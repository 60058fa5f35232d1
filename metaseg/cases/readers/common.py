"""What all readers share: their interface, modality names and the walk through folders."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from metaseg.cases.case import Case
from metaseg.cases.labels import LabelScheme
from metaseg.cases.near_copies import GroupCopies
from metaseg.cases.readers.left_out import LeftOut
from metaseg.errors import DataError

_MAX_DEPTH = 5


@dataclass(frozen=True)
class ReadOptions:
    """What the caller of a reader asks for.

    Attributes:
        scheme: Label scheme that replaces the convention's own, or None.
        modality: Name of the modality where the files do not tell it, or None for the convention's default.
        strict: Raise on doubled files, and on a case with files of another one, instead of noting them.
        group_copies: Which pictures count as one patient where the files tell no patients.
        left_out: Where a reader notes what it passes over, except for files that no case has, which are found later.
        accounted: Files of no case that need no word, such as the mask of a slice that is left out.
    """

    scheme: LabelScheme | None = None
    modality: str | None = None
    strict: bool = True
    group_copies: GroupCopies = "near"
    left_out: list[LeftOut] = field(default_factory=list)
    accounted: set[Path] = field(default_factory=set)

    def refuse_or_note(self, error: DataError, file: Path, case: str = "") -> None:
        """Raise an error about a case with files of another one; if not strict, note it.

        Raises:
            DataError: That error, if strict.
        """
        if self.strict:
            raise error
        self.left_out.append(LeftOut("other-case", "files of another case", error.found, case, file))


@dataclass(frozen=True)
class Reader:
    """One file convention.

    Attributes:
        name: As in ``--format``.
        looks_for: What it looks for, for messages.
        matches: Whether a folder seems to follow the convention; looks at names only.
        read: Makes the cases of a folder, in a stable order; sessions are told from ``Case.patient`` after that.
    """

    name: str
    looks_for: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, ReadOptions], list[Case]]


def natural_key(text: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts ``"slice 9"`` before ``"slice 10"``."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part)) if part.isdecimal() else (1, part.lower()) for part in parts if part)


def walk_files(root: Path, max_depth: int = _MAX_DEPTH) -> Iterator[Path]:
    """All visible files below ``root``, sorted within each folder, down to ``max_depth`` folders deep."""
    for folder, subfolders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        depth = len(here.relative_to(root).parts)
        # Hidden names are the file system's own, such as the "._" twins that macOS leaves in archives.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".")) if depth < max_depth else []
        yield from (here / name for name in sorted(names) if not name.startswith("."))


def subfolders(root: Path) -> list[Path]:
    """Visible folders directly below ``root``, sorted."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def find_doubled(names: Iterable[str]) -> str | None:
    """The first name that comes twice, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def doubled_files(case_id: str, what: str, files: Iterable[Path]) -> DataError:
    """The error for several files that claim to be one image or label of a case."""
    files = list(files)
    return DataError(
        f"case {case_id}: {what} is there {len(files)} times: {', '.join(path.name for path in files)}",
        where=", ".join(str(path) for path in files),
        expected=f"one file for {what}",
        remedy="keep one and move the others out of the data set",
    )


def other_case(found: str, *files: Path) -> DataError:
    """The error for files of two cases that are given as one's."""
    return DataError(
        found,
        where=" and ".join(map(str, files)),
        expected="files of one case, named after it",
        remedy="find out whose they are; then rename them or move them to their case",
    )
