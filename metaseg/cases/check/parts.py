"""Checks of splits: the parts that a split file or the files' names tell, and patients in two of them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from metaseg.cases.case import Case
from metaseg.cases.check.report import Finding
from metaseg.cases.patients import doubtable, doubtful_sessions
from metaseg.cases.readers.common import relative_name
from metaseg.cases.splits import SPLIT_KIND, read_split, split_problems
from metaseg.errors import DataError
from metaseg.files import read_json

Parts = Mapping[str, frozenset[str]]
"""Case id to the parts of a split file in which it stands."""

_PART_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_PART_PREFIX = re.compile(r"(train|val|test)[-_ ]", re.IGNORECASE)


@dataclass(frozen=True)
class _Parts:
    """What is read of a split file."""

    parts: dict[str, list[str]]


def parts_of_split(path: str | Path) -> Parts:
    """The parts of a split file, also of one that overlaps: the check says where, instead of refusing it.

    Raises:
        DataError: It is no split file.
    """
    try:
        listed: _Parts = read_json(Path(path), SPLIT_KIND, _Parts)
        pairs = [(case, part) for part, cases in listed.parts.items() for case in cases]
    except DataError:
        # The reader of split files says what is wrong with this one.
        pairs = [(case, part) for part, cases in read_split(path).parts.items() for case in cases]
    parts: defaultdict[str, set[str]] = defaultdict(set)
    for case, part in pairs:
        parts[case].add(part)
    return {case: frozenset(names) for case, names in parts.items()}


def part_by_name(file: Path, root: Path) -> str | None:
    """The part that a folder or the start of a file's name tells: ``"train"``, ``"val"``, ``"test"`` or None."""
    relative = Path(relative_name(file, root))
    for folder in relative.parts[:-1]:
        if folder.lower() in _PART_FOLDERS:
            return _PART_FOLDERS[folder.lower()]
    match = _PART_PREFIX.match(relative.name)
    return match[1].lower() if match else None


def parts_of_file(case: Case, file: Path, parts: Parts | None, root: Path) -> frozenset[str]:
    """Parts in which a file of a case stands: by the split file if there is one, else by the file's name."""
    if parts is not None:
        return parts.get(case.id, frozenset())
    named = part_by_name(file, root)
    return frozenset({named}) if named else frozenset()


def check_patients(cases: Sequence[Case], root: Path) -> Iterator[Finding]:
    """Patients with cases in two parts, by the files' names."""
    named: defaultdict[str, dict[str, None]] = defaultdict(dict)
    # Folders of pictures do not identify patients; copies in two parts are found by their looks.
    scans = [case for case in cases if case.format != "image-folder"]
    for case in scans:
        for part in {part_by_name(file, root) for file in case.files} - {None}:
            named[str(part)][case.id] = None
    for problem in split_problems({part: [*ids] for part, ids in named.items()}, {c.id: c.patient for c in scans}, {}):
        if problem.kind == "patient-split":
            yield Finding.of(problem.kind, problem.case, problem.found)


def check_sessions(cases: Sequence[Case]) -> Iterator[Finding]:
    """Patients whose names differ only in what may be a session."""
    for group in doubtful_sessions(doubtable(cases)):
        found = f"{', '.join(group)} differ only in what may be a session, and count as different patients"
        yield Finding.of("session-doubtful", next(case.id for case in cases if case.patient == group[0]), found)


def check_split(cases: Sequence[Case], parts: Parts, path: str | Path) -> Iterator[Finding]:
    """What is wrong between the split file and the data."""
    named: defaultdict[str, list[str]] = defaultdict(list)
    for case, where in parts.items():
        for part in sorted(where):
            named[part].append(case)
    # Folders of pictures do not identify patients; copies in two parts are found by their looks.
    pictures = all(case.format == "image-folder" for case in cases)
    patients = {case.id: case.id if pictures else case.patient for case in cases}
    told: Mapping[str, str] = {}
    invalid = ""
    try:
        told = read_split(path).patients
    except DataError as error:
        invalid = error.found
    problems = list(split_problems(named, patients, {} if pictures else told))
    if invalid and not any(problem.kind == "patient-split" for problem in problems):
        yield Finding.of("split-invalid", "", invalid)
    for problem in problems:
        yield Finding.of(problem.kind, problem.case, problem.found)
