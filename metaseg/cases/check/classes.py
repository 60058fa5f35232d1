"""Checks of the classes of image folders: each must have enough pictures for training and test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from metaseg.cases.case import Case
from metaseg.cases.check.parts import Parts, parts_of_file
from metaseg.cases.check.report import Finding


def check_classes(cases: Sequence[Case], parts: Parts | None, root: Path) -> Iterator[Finding]:
    """Classes with a single picture, and classes that a part lacks.

    Args:
        cases: The cases; those of other formats are passed over, since they have outlines to learn from.
        parts: The given split, or None to tell parts from names.
        root: The checked folder.
    """
    members: defaultdict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if case.format == "image-folder":
            members[case.cohort].append(case)
    places = {
        name: frozenset().union(*(parts_of_file(case, case.files[0], parts, root) for case in inside))
        for name, inside in members.items()
    }
    everywhere: frozenset[str] = frozenset().union(*places.values())
    for name, inside in members.items():
        first = inside[0].id
        if len({case.patient for case in inside}) == 1:
            count = "1 picture" if len(inside) == 1 else f"{len(inside)} pictures that are copies of one"
            yield Finding.of("class-single", first, f"class {name} has {count}: it cannot be in train and test")
        elif absent := sorted(everywhere - places[name]):
            yield Finding.of("class-absent", first, f"class {name} has no picture in {', '.join(absent)}")
