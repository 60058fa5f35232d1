"""Checks for one image in several places: copied modalities, copied cases, training images in the test part."""

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
