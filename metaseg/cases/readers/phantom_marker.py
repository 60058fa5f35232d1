"""The marker file that says that a data set was made by a program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metaseg.cases.case import Case
from metaseg.errors import DataError

PHANTOM_MARKER = "metaseg-phantoms.json"
_LEVELS_ABOVE = 3


def mark_phantoms(cases: Sequence[Case], root: Path) -> list[Case]:
    """Set ``synthetic`` on cases below a marker file, and take cohort and grade from its table where it has one.

    Above ``root``, a marker holds only for cases that it lists by id, so that a phantom keeps its mark when just its
    own folder is read, while real data that happen to lie beside phantoms do not get one.

    Raises:
        DataError: A marker file is no JSON object.
    """
    root = root.absolute()
    markers: dict[Path, Mapping[str, Any] | None] = {}
    marked = []
    for case in cases:
        folder = case.files[0].absolute().parent if case.files else root
        for level, place in enumerate((folder, *folder.parents)):
            if place not in markers:
                markers[place] = _read_marker(place / PHANTOM_MARKER)
            marker = markers[place]
            inside = place.is_relative_to(root)
            if marker is not None and (inside or case.id in marker["cases"]):
                entry = marker["cases"].get(case.id, {})
                case = replace(
                    case, synthetic=True, cohort=entry.get("cohort", case.cohort), grade=entry.get("grade", case.grade)
                )
                break
            if not inside and level >= _LEVELS_ABOVE:
                break
        marked.append(case)
    return marked


def _read_marker(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"the phantom marker cannot be read: {error}", where=path, remedy="make the phantoms again"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("cases", {}), dict):
        raise DataError("the phantom marker is no table of cases", where=path, remedy="make the phantoms again")
    return {"cases": content.get("cases", {})}
