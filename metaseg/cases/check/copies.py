"""Checks for one image in several places: copied modalities, copied cases, training images in the test part.

Checks for near-copies: pictures of class folders that were saved again, in two parts, two classes or one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metaseg.cases.case import Case
from metaseg.cases.check.inspect import Fingerprint, Inspection, relative_name
from metaseg.cases.check.parts import Parts, parts_of_file
from metaseg.cases.check.report import Finding


@dataclass(frozen=True)
class _Copy:
    """An image and where it stands."""

    case: Case
    print: Fingerprint
    name: str
    parts: frozenset[str]


def find_copies(
    cases: Sequence[Case], inspections: Sequence[Inspection], parts: Parts | None, root: Path
) -> list[Finding]:
    """Findings about images with equal values.

    Args:
        cases: The cases.
        inspections: What was seen in each of them.
        parts: The given split, or None to tell parts from names.
        root: The checked folder.
    """
    groups: defaultdict[str, list[_Copy]] = defaultdict(list)
    for case, inspection in zip(cases, inspections, strict=True):
        for fingerprint in inspection.fingerprints:
            where = parts_of_file(case, fingerprint.file, parts, root)
            name = relative_name(fingerprint.file, root)
            groups[fingerprint.digest].append(_Copy(case, fingerprint, name, where))
    copied = [group for group in groups.values() if len(group) > 1]
    told = {(finding.case, finding.kind) for inspection in inspections for finding in inspection.findings}
    within = (finding for group in copied for finding in _within_a_case(group))
    findings = [finding for finding in within if (finding.case, finding.kind) not in told]
    return findings + _between_cases([group for group in copied if len({copy.case.id for copy in group}) > 1])


def _within_a_case(group: Sequence[_Copy]) -> Iterator[Finding]:
    """Two modalities that are one image; a slice that is there twice."""
    members: defaultdict[str, list[_Copy]] = defaultdict(list)
    for copy in group:
        members[copy.case.id].append(copy)
    for copies in members.values():
        first = copies[0]
        modalities = list(dict.fromkeys(copy.print.modality for copy in copies))
        if len(modalities) > 1:
            found = f"{' and '.join(modalities)} are the same image"
            yield Finding.of("same-modality", first.case.id, found, file=first.name)
        elif len(copies) > 1:
            found = "slices of one case are the same picture: " + _listed(copies)
            yield Finding.of("same-picture", first.case.id, found, file=first.name)


def _between_cases(groups: Sequence[Sequence[_Copy]]) -> list[Finding]:
    """One finding for each set of cases that share images, and each thing that is wrong with that."""
    shared: defaultdict[tuple[str, tuple[str, ...]], list[Sequence[_Copy]]] = defaultdict(list)
    for group in groups:
        for kind in _kinds_between(group):
            shared[kind, tuple(sorted({copy.case.id for copy in group}))].append(group)
    findings = []
    for (kind, _), same in shared.items():
        first = same[0][0]
        more = f" and {len(same) - 1} more images of the same cases" if len(same) > 1 else ""
        findings.append(Finding.of(kind, first.case.id, _describe(kind, same[0]) + more, file=first.name))
    return findings


def _kinds_between(group: Sequence[_Copy]) -> list[str]:
    # Folders of pictures do not tell patients: there, a second copy in one class is a nuisance rather than an error.
    pictures = all(copy.case.format == "image-folder" for copy in group)
    kinds = []
    if len(frozenset().union(*(copy.parts for copy in group))) > 1:
        kinds.append("leak")
    if pictures and len({copy.case.cohort for copy in group}) > 1:
        kinds.append("same-class")
    return kinds or ["same-picture" if pictures else "same-case"]


def _describe(kind: str, group: Sequence[_Copy]) -> str:
    if kind == "leak":
        parts = sorted(frozenset().union(*(copy.parts for copy in group)))
        places = (f"{part} ({_listed([copy for copy in group if part in copy.parts])})" for part in parts)
        return "the same image stands in " + " and in ".join(places)
    if kind == "same-class":
        classes = ", ".join(sorted({copy.case.cohort for copy in group}))
        return f"the same picture stands in the classes {classes}: {_listed(group)}"
    if kind == "same-case":
        ids = " and ".join(dict.fromkeys(copy.case.id for copy in group))
        return f"cases {ids} hold the same image: {_listed(group)}"
    return f"{len(group)} copies of one picture: {_listed(group)}"


def _listed(copies: Sequence[_Copy]) -> str:
    return ", ".join(dict.fromkeys(copy.name for copy in copies))


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

    The reader of image folders has given them one patient (:mod:`metaseg.cases.pictures`).

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
            told = " and in ".join(f"{place} ({_listed_near(pictures)})" for place, pictures in sorted(places.items()))
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
        such = _listed_near(_different(alike[0]))
        found = f"{count} pictures of class {name} look the same in {groups_of}, such as {such}"
        yield Finding.of("near-picture", alike[0][0].case.id, found, file=alike[0][0].name)


def _different(group: Sequence[_Picture]) -> list[_Picture]:
    """The first picture of each digest."""
    return list({picture.digest: picture for picture in reversed(group)}.values())[::-1]


def _listed_near(pictures: Sequence[_Picture]) -> str:
    names = [picture.name for picture in pictures]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
