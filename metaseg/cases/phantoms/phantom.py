"""One phantom: a head with tumours, taken by a scanner, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from metaseg.cases.geometry import Geometry
from metaseg.cases.phantoms.anatomy import HEAD_MM, Push, build_layers, build_surface
from metaseg.cases.phantoms.fields import Grid
from metaseg.cases.phantoms.lesions import draw_lesions, place_lesions
from metaseg.cases.phantoms.scanner import acquire, draw_scanner

COHORTS = ("HGG", "LGG", "MET")
SEQUENCES = ("t1", "t1ce", "t2", "flair")
SHARE_WITH_SKULL = 0.45
"""Share of the metastasis patients whose skull was not removed."""

_PLACEMENT = Grid((48, 60, 46), (3.3, 3.3, 3.3))
"""Tumours are placed on this grid whatever the size, so that a patient has the same ones in every size."""


@dataclass(frozen=True)
class PhantomSize:
    """A file grid and the block in its middle in which the head lies, in the canonical frame.

    Attributes:
        shape: Voxels of a file along ``(slices, height, width)``.
        head: Voxels of the block along the same axes.
        spacing: Voxel size in mm along the same axes.
    """

    shape: tuple[int, int, int]
    head: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def geometry(self) -> Geometry:
        """Grid of the files: left, posterior, superior, with the origin where BraTS has it."""
        slices, height, width = self.shape
        z, y, x = self.spacing
        affine = np.diag([-x, -y, z, 1.0])
        affine[1, 3] = (height - 1) * y
        return Geometry.from_affine((width, height, slices), affine)

    def to_file_grid(self, block: np.ndarray) -> np.ndarray:
        """Put the head's block into an otherwise empty file grid ``(i, j, k)``."""
        volume = np.zeros(self.shape, block.dtype)
        volume[tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(self.shape, self.head, strict=True))] = block
        return self.geometry.from_canonical(volume)


SIZES: Mapping[str, PhantomSize] = {
    "small": PhantomSize((48, 112, 96), (48, 112, 96), (3.0, 1.9, 1.9)),
    "full": PhantomSize((155, 240, 240), (155, 212, 176), (1.0, 1.0, 1.0)),
}
"""``full`` is the grid of BraTS; ``small`` shows the same patient in 512,000 voxels."""


@dataclass(frozen=True)
class Phantom:
    """A synthetic patient; arrays are of the head's block of a :class:`PhantomSize`.

    Attributes:
        images: Sequence to image, ``(slices, height, width)``, ``int16``, 0 outside brain or head.
        label: ``uint8`` with the values of BraTS 2018 (0, 1, 2, 4).
        lesions: Number of tumours.
        skull: True if the skull was left in.
    """

    images: Mapping[str, np.ndarray]
    label: np.ndarray
    lesions: int
    skull: bool


def build_phantom(cohort: str, seed: int, number: int, size: PhantomSize) -> Phantom:
    """Build a synthetic patient, the same one for the same ``cohort``, ``seed`` and ``number`` in every size.

    Args:
        cohort: One of :data:`COHORTS`.
        seed: Seed of the data set, not negative.
        number: Number of the patient, not negative.
        size: One of :data:`SIZES`.
    """
    # A stream for each part, so that what one part draws does not change the others.
    streams = np.random.SeedSequence([seed, COHORTS.index(cohort), number]).spawn(5)
    of_tumours, of_tissue, of_outlines, of_scanner = (np.random.default_rng(stream) for stream in streams[1:])
    tumours = place_lesions(of_tumours, cohort, build_surface(np.random.default_rng(streams[0]), _PLACEMENT))
    grid = Grid(size.head, size.spacing)
    surface = build_surface(np.random.default_rng(streams[0]), grid)
    scanner = draw_scanner(of_scanner, cohort)
    skull = cohort == "MET" and _keeps_skull(seed, number)
    mask = surface.depth > (-HEAD_MM if skull else 0.0)
    largest = max(tumours, key=lambda tumour: tumour.radius)
    push = Push(largest.centre, largest.radius, 0.3 * largest.radius)
    layers, ventricle = build_layers(of_tissue, surface, push, mask)
    maps = draw_lesions(of_outlines, tumours, surface, ventricle)
    layers |= maps.layers(mask)
    images = {name: acquire(of_scanner, scanner, name, layers, grid, mask) for name in SEQUENCES}
    return Phantom(images, maps.label, len(tumours), skull)


def _keeps_skull(seed: int, number: int) -> bool:
    """Spread the patients with skull evenly over the numbers, so that small cohorts too have both kinds."""
    golden = (5**0.5 - 1) / 2
    start = np.random.default_rng(seed).random()
    return bool((start + number * golden) % 1 < SHARE_WITH_SKULL)
