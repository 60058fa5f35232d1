"""Checks for near-copies: pictures of class folders that were saved again, in two parts, two classes or one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metaseg.cases.case import Case
from metaseg.cases.check.inspect import Inspection, relative_name
from metaseg.cases.check.parts import Parts, parts_of_file
from metaseg.cases.check.report import Finding

_MOST_NAMED = 3


@dataclass(frozen=True)
class _Picture:
    """A picture and where it stands; equal digests tell equal pixels."""

    case: Case
    name: str
    digest: str
    parts: frozenset[str]


def find_near_copies(
    cases: Sequence[Case], inspections: Sequence[Inspection], parts: Parts | None, root: Path
) -> list[Finding]:
    """Findings about pictures that look alike and are not equal; equal ones are found by :mod:`.copies`.

    The reader of image folders has given them one patient (:mod:`metaseg.cases.near_copies`).

    Args:
        cases: The cases.
        inspections: What was seen in each of them.
        parts: The given split, or None to tell parts from names.
        root: The checked folder.
    """
    groups: defaultdict[str, list[_Picture]] = defaultdict(list)
    for case, inspection in zip(cases, inspections, strict=True):
        if case.format == "image-folder":
            digest = next((fingerprint.digest for fingerprint in inspection.fingerprints), case.id)
            where = parts_of_file(case, case.files[0], parts, root)
            groups[case.patient].append(_Picture(case, relative_name(case.files[0], root), digest, where))
    alike = [group for group in groups.values() if len({picture.digest for picture in group}) > 1]
    findings = [finding for group in alike for finding in _in_two_places(group)]
    return findings + list(_in_one_class(alike))


def _in_two_places(group: Sequence[_Picture]) -> Iterator[Finding]:
    """Near-copies in two parts or classes, unless each of them stands there in equal copies, which are found anyway."""
    parts: defaultdict[str, list[_Picture]] = defaultdict(list)
    classes: defaultdict[str, list[_Picture]] = defaultdict(list)
    for picture in group:
        classes[picture.case.cohort].append(picture)
        for part in picture.parts:
            parts[part].append(picture)
    for kind, places in (("near-leak", parts), ("near-class", classes)):
        digests = {frozenset(picture.digest for picture in pictures) for pictures in places.values()}
        if len(digests) > 1:
            told = " and in ".join(f"{place} ({_listed(pictures)})" for place, pictures in sorted(places.items()))
            first = group[0]
            yield Finding.of(kind, first.case.id, f"pictures that look the same stand in {told}", file=first.name)


def _in_one_class(groups: Sequence[Sequence[_Picture]]) -> Iterator[Finding]:
    """One finding for all near-copies of a class."""
    by_class: defaultdict[str, list[list[_Picture]]] = defaultdict(list)
    for group in groups:
        for name in dict.fromkeys(picture.case.cohort for picture in group):
            here = [picture for picture in group if picture.case.cohort == name]
            if len({picture.digest for picture in here}) > 1:
                by_class[name].append(here)
    for name, alike in by_class.items():
        count, groups_of = sum(map(len, alike)), f"{len(alike)} group{'' if len(alike) == 1 else 's'}"
        found = (
            f"{count} pictures of class {name} look the same in {groups_of}, such as {_listed(_different(alike[0]))}"
        )
        yield Finding.of("near-picture", alike[0][0].case.id, found, file=alike[0][0].name)


def _different(group: Sequence[_Picture]) -> list[_Picture]:
    """The first picture of each digest."""
    return list({picture.digest: picture for picture in reversed(group)}.values())[::-1]


def _listed(pictures: Sequence[_Picture]) -> str:
    names = [picture.name for picture in pictures]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
