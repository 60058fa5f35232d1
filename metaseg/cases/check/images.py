"""What a case's images tell by themselves, cheaply: for the dataset check and for every verb that prepares a case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from metaseg.cases.background import Background, find_background
from metaseg.cases.check.grids import (
    IN_PLANE_RATIO,
    SIDE_RANGE,
    SPACING_RANGE_MM,
    TILT_TOLERANCE_DEGREES,
    implausible_size,
    implausible_spacing,
    in_plane_ratio,
    tilt_degrees,
)
from metaseg.cases.geometry import Geometry

OUTSIDE_TOLERANCE = 0.01
"""Share of a label that may lie in the background of all images: published outlines touch the skull-stripped rim."""

LEAST_COVERAGE = 0.1
"""A modality shows at least this share of what the others show of the head: fields of view differ, but not by more."""

_LOOK = 20_000
"""Voxels by which two modalities are told to be one image."""

Finding = tuple[str, str]
"""Kind of :data:`~metaseg.cases.check.report.KINDS`, and what was found, as one sentence."""


def check_grid(name: str, geometry: Geometry) -> Iterator[Finding]:
    """What is doubtful about the grid of a 3-D image."""
    if geometry.planar:
        return
    if min(geometry.shape) == 1:
        yield "dimensions", f"{name} has {times(geometry.shape)} voxels: a single slice"
    elif implausible_size(geometry):
        usual = " to ".join(map(str, SIDE_RANGE))
        yield "grid-size", f"{name} has {times(geometry.shape)} voxels (slices of {usual} voxels a side are usual)"
    if implausible_spacing(geometry):
        usual = " to ".join(f"{size:g}" for size in SPACING_RANGE_MM)
        yield "spacing", f"{name} has voxels of {times(geometry.spacing)} mm (slices, height, width; {usual} are usual)"
    elif in_plane_ratio(geometry) > IN_PLANE_RATIO:
        yield "anisotropic", f"{name}'s axial slices have pixels of {times(geometry.spacing[1:])} mm (height, width)"
    tilt = tilt_degrees(geometry)
    if tilt > TILT_TOLERANCE_DEGREES:
        yield "oblique", f"{name}'s voxel axes are tilted by {tilt:.1f} degrees"


def check_constant(name: str, image: np.ndarray) -> Iterator[Finding]:
    """Whether an image has one value everywhere."""
    if image.size and image.min() == image.max():
        yield "constant", f"{name} is {image.flat[0]:g} everywhere"


class VolumeChecks:
    """Checks of the volumes of a case, given one after the other.

    Attributes:
        head: What is not background in any volume so far, boolean ``(slices, height, width)``; None before the first.
    """

    def __init__(self) -> None:
        self.head: np.ndarray | None = None
        self._inside: dict[str, int] = {}
        self._looks: dict[str, np.ndarray] = {}

    def add(self, name: str, image: np.ndarray) -> tuple[Background, list[Finding]]:
        """Background of the next volume ``(slices, height, width)``, all finite, and what is doubtful about it."""
        background = find_background(image)
        self._inside[name] = int(np.count_nonzero(background.inside))
        self._looks[name] = _look(image, background.inside)
        self.head = background.inside.copy() if self.head is None else self.head | background.inside
        return background, list(check_constant(name, image)) or list(_check_background(name, image, background))

    def compare(self) -> Iterator[tuple[str, Finding]]:
        """Volumes that show next to nothing of the head, and volumes that are one image, with the name of the first."""
        together = 0 if self.head is None else int(np.count_nonzero(self.head))
        for name, voxels in self._inside.items():
            if 0 < voxels < LEAST_COVERAGE * together:
                yield (
                    name,
                    ("coverage", f"{name} shows {voxels / together:.1%} of the head that all images show"),
                )
        copied: dict[str, list[str]] = {}
        for name, values in self._looks.items():
            first = next((other for other in copied if _alike(values, self._looks[other])), name)
            copied.setdefault(first, []).append(name)
        for first, names in copied.items():
            if len(names) > 1:
                yield first, ("same-modality", f"{' and '.join(names)} are the same image")


def _check_background(name: str, image: np.ndarray, background: Background) -> Iterator[Finding]:
    within = image[background.inside]
    if within.size and within.min() == within.max():
        yield "constant", f"{name} is {within[0]:g} everywhere in the head"
    if background.kind == "unclear":
        yield "background-unclear", f"{name}: head and background cannot be told apart"
    elif background.description is not None:
        yield "background", f"{name} {background.description}"


def _look(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Some voxels, as z-scores of the head: the same for an image and for one with other numbers for the same grey."""
    step = max(1, image.size // _LOOK) | 1
    some, head = image.ravel()[::step].astype(np.float64), inside.ravel()[::step]
    deviation = float(some[head].std()) if head.any() else 0.0
    return np.where(head, (some - some[head].mean()) / deviation, 0.0) if deviation > 0 else np.zeros(0)


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return one.size > 1 and one.shape == other.shape and bool(np.allclose(one, other, rtol=0.0, atol=1e-3))


def check_outline(outlined: np.ndarray, head: np.ndarray | None) -> Iterator[Finding]:
    """Whether an outline is there and lies on the head.

    Args:
        outlined: Boolean ``(slices, height, width)``.
        head: What is not background in any image, alike, or None where that cannot be compared.
    """
    voxels = int(np.count_nonzero(outlined))
    if voxels == 0:
        yield "label-empty", "the label outlines nothing"
    elif head is not None:
        share = int(np.count_nonzero(outlined & ~head)) / voxels
        if share > OUTSIDE_TOLERANCE:
            usual = f"(up to {OUTSIDE_TOLERANCE:.0%} is usual)"
            yield "label-outside", f"{share:.1%} of the label lies in the background of all images {usual}"


def times(sizes: Iterable[float]) -> str:
    """Sizes along axes, such as ``"240 x 240 x 155"``."""
    return " x ".join(f"{size:g}" for size in sizes)
