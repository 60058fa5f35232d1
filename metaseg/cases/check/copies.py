"""Checks for one image in several places: copied modalities and cases, training images in the test part, near-copies.

Near-copies are pictures of class folders that were saved again; see :mod:`metaseg.cases.pictures`. Classes of such
folders must have enough pictures for training and test.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaseg.cases.case import Case
from metaseg.cases.check.inspect import Fingerprint, Inspection
from metaseg.cases.check.parts import Parts, parts_of_file
from metaseg.cases.check.report import Finding
from metaseg.cases.readers.common import relative_name
from metaseg.errors import some

_MOST_NAMED = 3
"""Near-copies that a finding names."""


@dataclass(frozen=True)
class PlacedImage:
    """An image and where it stands.

    Attributes:
        case: Its case.
        modality: Its modality.
        name: Its file, relative to the checked folder.
        digest: Equal for images of equal values.
        parts: Parts of the data in which it stands.
    """

    case: Case
    modality: str
    name: str
    digest: str
    parts: frozenset[str]

    @property
    def is_picture(self) -> bool:
        """Whether it lies in a folder of pictures, which gives a class and no patient."""
        return self.case.format == "image-folder"


def place_images(
    cases: Sequence[Case], inspections: Sequence[Inspection], parts: Parts | None, root: Path
) -> list[PlacedImage]:
    """All images that have values, and of class folders the others too, each with a digest of its own.

    Args:
        cases: The cases.
        inspections: What was seen in each of them.
        parts: The given split, or None to take parts from names.
        root: The checked folder.
    """
    placed = []
    for case, inspection in zip(cases, inspections, strict=True):
        unread = [Fingerprint(case.id, "", case.files[0])] if case.format == "image-folder" else []
        for found in inspection.fingerprints or unread:
            where = parts_of_file(case, found.file, parts, root)
            placed.append(PlacedImage(case, found.modality, relative_name(found.file, root), found.digest, where))
    return placed


def _grouped(images: Iterable[PlacedImage], key: Callable[[PlacedImage], Any]) -> dict[Any, list[PlacedImage]]:
    groups: defaultdict[Any, list[PlacedImage]] = defaultdict(list)
    for image in images:
        groups[key(image)].append(image)
    return groups


def find_copies(images: Sequence[PlacedImage], told: Sequence[Finding]) -> list[Finding]:
    """Findings about images with equal values; those about a case that are in ``told`` are left out."""
    copied = [group for group in _grouped(images, lambda image: image.digest).values() if len(group) > 1]
    known = {(finding.case, finding.kind) for finding in told}
    within = (finding for group in copied for finding in _within_a_case(group))
    return [
        *(finding for finding in within if (finding.case, finding.kind) not in known),
        *_between_cases([group for group in copied if len({image.case.id for image in group}) > 1]),
    ]


def _within_a_case(group: Sequence[PlacedImage]) -> Iterator[Finding]:
    """Two modalities that are one image; a slice that occurs twice."""
    for case, copies in _grouped(group, lambda image: image.case.id).items():
        modalities = list(dict.fromkeys(copy.modality for copy in copies))
        if len(modalities) > 1:
            found = f"{' and '.join(modalities)} are the same image"
            yield Finding.of("same-modality", case, found, file=copies[0].name)
        elif len(copies) > 1:
            found = "slices of one case are the same picture: " + _listed(copies)
            yield Finding.of("same-picture", case, found, file=copies[0].name)


def _between_cases(groups: Sequence[Sequence[PlacedImage]]) -> Iterator[Finding]:
    """One finding for each set of cases that share images, and each thing that is wrong with that."""
    shared: defaultdict[tuple[str, frozenset[str]], list[Sequence[PlacedImage]]] = defaultdict(list)
    for group in groups:
        for kind in _kinds_between(group):
            shared[kind, frozenset(image.case.id for image in group)].append(group)
    for (kind, _), same in shared.items():
        first = same[0][0]
        more = f" and {len(same) - 1} more images of the same cases" if len(same) > 1 else ""
        yield Finding.of(kind, first.case.id, _describe(kind, same[0]) + more, file=first.name)


def _kinds_between(group: Sequence[PlacedImage]) -> list[str]:
    # Folders of pictures do not identify patients: a second copy in one class is a nuisance rather than an error.
    pictures = all(image.is_picture for image in group)
    kinds = []
    if len(_parts_of(group)) > 1:
        kinds.append("leak")
    if pictures and len({image.case.cohort for image in group}) > 1:
        kinds.append("same-class")
    return kinds or ["same-picture" if pictures else "same-case"]


def _describe(kind: str, group: Sequence[PlacedImage]) -> str:
    if kind == "leak":
        places = (f"{part} ({_listed([copy for copy in group if part in copy.parts])})" for part in _parts_of(group))
        return "the same image is in " + " and in ".join(places)
    if kind == "same-class":
        classes = ", ".join(sorted({copy.case.cohort for copy in group}))
        return f"the same picture is in the classes {classes}: {_listed(group)}"
    if kind == "same-case":
        ids = " and ".join(dict.fromkeys(copy.case.id for copy in group))
        return f"cases {ids} hold the same image: {_listed(group)}"
    return f"{len(group)} copies of one picture: {_listed(group)}"


def _parts_of(images: Iterable[PlacedImage]) -> list[str]:
    return sorted(frozenset().union(*(image.parts for image in images)))


def _listed(copies: Sequence[PlacedImage]) -> str:
    return ", ".join(dict.fromkeys(copy.name for copy in copies))


def find_near_copies(images: Sequence[PlacedImage]) -> list[Finding]:
    """Findings about pictures that look alike and are not equal; equal ones are found by :func:`find_copies`.

    The reader of image folders has given them one patient (:mod:`metaseg.cases.pictures`).
    """
    groups = _grouped((image for image in images if image.is_picture), lambda image: image.case.patient)
    alike = [group for group in groups.values() if _digests(group) > 1]
    return [finding for group in alike for finding in _in_two_places(group)] + list(_in_one_class(alike))


def _digests(group: Sequence[PlacedImage]) -> int:
    return len({image.digest for image in group})


def _in_two_places(group: Sequence[PlacedImage]) -> Iterator[Finding]:
    """Near-copies in two parts or classes, unless each of them is there in equal copies, which are found anyway."""
    parts: defaultdict[str, list[PlacedImage]] = defaultdict(list)
    for picture in group:
        for part in picture.parts:
            parts[part].append(picture)
    for kind, places in (("near-leak", parts), ("near-class", _grouped(group, lambda image: image.case.cohort))):
        digests = {frozenset(picture.digest for picture in pictures) for pictures in places.values()}
        if len(digests) > 1:
            told = " and in ".join(f"{place} ({_some(pictures)})" for place, pictures in sorted(places.items()))
            first = group[0]
            yield Finding.of(kind, first.case.id, f"pictures that look the same are in {told}", file=first.name)


def _in_one_class(groups: Sequence[Sequence[PlacedImage]]) -> Iterator[Finding]:
    """One finding for all near-copies of a class."""
    by_class: defaultdict[str, list[list[PlacedImage]]] = defaultdict(list)
    for group in groups:
        for name, here in _grouped(group, lambda image: image.case.cohort).items():
            if _digests(here) > 1:
                by_class[name].append(here)
    for name, alike in by_class.items():
        first, in_groups = alike[0][0], f"{len(alike)} group{'' if len(alike) == 1 else 's'}"
        # The first picture of each digest.
        different = list({picture.digest: picture for picture in reversed(alike[0])}.values())[::-1]
        found = f"{sum(map(len, alike))} pictures of class {name} look the same in {in_groups}, such as"
        yield Finding.of("near-picture", first.case.id, f"{found} {_some(different)}", file=first.name)


def _some(pictures: Sequence[PlacedImage]) -> str:
    return some([picture.name for picture in pictures], _MOST_NAMED)


def check_classes(images: Sequence[PlacedImage]) -> Iterator[Finding]:
    """Classes of pictures with a single one, and classes that a part lacks; other cases have outlines to learn from."""
    pictures = [image for image in images if image.is_picture]
    for name, inside in _grouped(pictures, lambda image: image.case.cohort).items():
        first = inside[0].case.id
        absent = sorted({*_parts_of(pictures)} - {*_parts_of(inside)})
        if len({image.case.patient for image in inside}) == 1:
            count = "1 picture" if len(inside) == 1 else f"{len(inside)} pictures that are copies of one"
            yield Finding.of("class-single", first, f"class {name} has {count}: it cannot be in train and test")
        elif absent:
            yield Finding.of("class-absent", first, f"class {name} has no picture in {', '.join(absent)}")
