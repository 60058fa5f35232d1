"""Grids in millimetres, smooth random fields and soft shapes: what phantoms are built from.

Everything is a function of the place in millimetres, never of the voxel index. The same random numbers therefore give
the same patient on a fine and on a coarse grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EXTENT_MM = 120.0
"""Random fields are defined in the cube from minus to plus this length along each axis."""


@dataclass(frozen=True)
class Grid:
    """A block of voxels centred on the head's origin, axes ``(slices, height, width)`` toward S, A, R.

    Attributes:
        shape: Voxels along ``(slices, height, width)``.
        spacing: Voxel size in mm along the same axes.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    def axis(self, index: int) -> np.ndarray:
        """Coordinates in mm along one axis, ``(n,)`` ``float32``."""
        size, step = self.shape[index], self.spacing[index]
        return ((np.arange(size) - (size - 1) / 2) * step).astype(np.float32)

    @property
    def coordinates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates z, y, x in mm, of shapes ``(slices, 1, 1)``, ``(1, height, 1)`` and ``(1, 1, width)``."""
        return self.axis(0)[:, None, None], self.axis(1)[None, :, None], self.axis(2)[None, None, :]

    @property
    def softness(self) -> float:
        """Half the width in mm over which a border is blurred by voxels of this size (partial volume)."""
        return 0.3 * float(np.prod(self.spacing)) ** (1 / 3)

    def box(self, centre: np.ndarray, reach_mm: float) -> tuple[slice, slice, slice]:
        """Slices of the voxels within ``reach_mm`` of ``centre`` (z, y, x in mm) along each axis."""
        bounds = []
        for index in range(3):
            first = self.axis(index)[0]
            low = int(np.floor((centre[index] - reach_mm - first) / self.spacing[index]))
            high = int(np.ceil((centre[index] + reach_mm - first) / self.spacing[index])) + 1
            bounds.append(slice(max(low, 0), max(min(high, self.shape[index]), 0)))
        return bounds[0], bounds[1], bounds[2]


def smooth_noise(rng: np.random.Generator, grid: Grid, scale_mm: float) -> np.ndarray:
    """A smooth random field: white noise on a lattice, interpolated by cubic B-splines.

    Args:
        rng: Random numbers; the number drawn depends on ``scale_mm`` only, not on the grid.
        grid: Where the field is wanted.
        scale_mm: Step of the lattice; hills and valleys are about twice as wide.

    Returns:
        Array of the grid's shape, ``float32``, of mean 0 and standard deviation about 1.
    """
    size = int(np.ceil(2 * EXTENT_MM / scale_mm)) + 4
    field = rng.standard_normal((size, size, size), dtype=np.float32)
    # Width first, slices last: the arrays are small while gathering along the axis that is slow to gather.
    for index in (2, 1, 0):
        place = (np.clip(grid.axis(index), -EXTENT_MM, EXTENT_MM - 1e-3) + EXTENT_MM) / scale_mm
        cell = np.floor(place).astype(np.intp)
        shape = [1, 1, 1]
        shape[index] = -1
        weights = _cubic_weights(place - cell)
        field = sum(np.take(field, cell + k, axis=index) * weights[k].reshape(shape) for k in range(4))
    # The squared weights of a cubic B-spline sum to 151/315 on average, along each of three axes.
    field *= np.float32((151 / 315) ** -1.5)
    return field


def _cubic_weights(t: np.ndarray) -> np.ndarray:
    """Weights of the four neighbouring lattice points at the fractions ``t`` of a cell, ``(4, n)``."""
    return (
        np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]).astype(np.float32) / 6
    )


def soft_step(distance_mm: np.ndarray, softness_mm: float) -> np.ndarray:
    """0 far below zero, 1 far above it, with a smooth step of half width ``2 * softness_mm`` between."""
    t = np.clip(distance_mm * np.float32(0.25 / softness_mm) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


def ellipsoid_depth(offsets: tuple[np.ndarray, ...], radii_mm: tuple[float, ...]) -> np.ndarray:
    """Approximate depth in mm below the surface of an ellipsoid; negative outside, exact on the surface.

    Args:
        offsets: Distances z, y, x from its centre in mm, of shapes that broadcast.
        radii_mm: Half axes along z, y, x.
    """
    squares = [(offset / np.float32(radius)) ** 2 for offset, radius in zip(offsets, radii_mm, strict=True)]
    scaled = [square / np.float32(radius**2) for square, radius in zip(squares, radii_mm, strict=True)]
    level = np.sqrt(squares[0] + squares[1] + squares[2])
    slope = np.sqrt(scaled[0] + scaled[1] + scaled[2])
    return level * (1 - level) / np.maximum(slope, np.float32(1e-6)) + np.where(level < 1e-3, min(radii_mm), 0)


def capsule_distance(
    place: tuple[np.ndarray, ...], start: tuple[float, ...], end: tuple[float, ...], radii_mm: tuple[float, float]
) -> np.ndarray:
    """Distance in mm from a rounded rod whose radius runs from ``radii_mm[0]`` to ``radii_mm[1]``; negative inside.

    Args:
        place: Coordinates z, y, x in mm, of shapes that broadcast.
        start: One end of its axis (z, y, x) in mm.
        end: The other end.
        radii_mm: Radius at either end.
    """
    along = np.asarray(end, np.float32) - np.asarray(start, np.float32)
    offsets = [axis - np.float32(origin) for axis, origin in zip(place, start, strict=True)]
    share = sum(offset * step for offset, step in zip(offsets, along, strict=True)) / np.float32(np.dot(along, along))
    share = np.clip(share, 0, 1)
    squares = sum((offset - share * step) ** 2 for offset, step in zip(offsets, along, strict=True))
    return np.sqrt(squares) - (np.float32(radii_mm[0]) + share * np.float32(radii_mm[1] - radii_mm[0]))
