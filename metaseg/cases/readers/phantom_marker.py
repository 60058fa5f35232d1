"""The marker file that says that a data set was made by a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from metaseg.cases.case import Case
from metaseg.checked_files import FileKind, read_json
from metaseg.errors import DataError

PHANTOM_MARKER = "metaseg-phantoms.json"
MARKER_KIND = FileKind("the phantom marker, a table of cases", "make the phantoms again", DataError)
_LEVELS_ABOVE = 3


@dataclass(frozen=True)
class _Entry:
    """What the table says of a phantom."""

    cohort: str | None = None
    grade: str | None = None


@dataclass(frozen=True)
class _Marker:
    """What the marker file holds, as far as it is read."""

    cases: dict[str, _Entry] = field(default_factory=dict)


def mark_phantoms(cases: Sequence[Case], root: Path) -> list[Case]:
    """Set ``synthetic`` on cases below a marker file, and take cohort and grade from its table where it has one.

    Above ``root``, a marker holds only for cases that it lists by id, so that a phantom keeps its mark when just its
    own folder is read, while real data that happen to lie beside phantoms do not get one.

    Raises:
        DataError: A marker file is no JSON object.
    """
    root = root.absolute()
    markers: dict[Path, Mapping[str, _Entry] | None] = {}
    marked = []
    for case in cases:
        folder = case.files[0].absolute().parent if case.files else root
        for level, place in enumerate((folder, *folder.parents)):
            if place not in markers:
                markers[place] = _read_marker(place / PHANTOM_MARKER)
            marker = markers[place]
            inside = place.is_relative_to(root)
            if marker is not None and (inside or case.id in marker):
                entry = marker.get(case.id, _Entry())
                cohort, grade = entry.cohort or case.cohort, entry.grade or case.grade
                case = replace(case, synthetic=True, cohort=cohort, grade=grade)
                break
            if not inside and level >= _LEVELS_ABOVE:
                break
        marked.append(case)
    return marked


def _read_marker(path: Path) -> Mapping[str, _Entry] | None:
    if not path.is_file():
        return None
    marker: _Marker = read_json(path, MARKER_KIND, _Marker)
    return marker.cases
