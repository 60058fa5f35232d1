"""The healthy head of a phantom: brain surface, folded cortex, deep grey matter, ventricles, vessels and skull.

It is built from smooth random fields and soft shapes. Everything is a function of the place in millimetres, never of
the voxel index: the same random numbers give the same patient on a fine and on a coarse grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EXTENT_MM = 120.0
"""Random fields are defined in the cube from minus to plus this length along each axis."""
SKULL_MM, SCALP_MM = 2.0, 8.0
"""Distance outside the brain at which bone and scalp begin."""
HEAD_MM = 13.0
"""Distance outside the brain at which the head ends."""
GREY_MM = 3.2
"""Thickness of the cortex."""
_VENTRICLE = (
    # Lateral ventricle, right half: frontal horn, body, atrium, occipital horn, temporal horn (z, y, x; radii).
    ((12, 34, 7), (19, 12, 9), (4.0, 5.0)),
    ((19, 12, 9), (21, -14, 12), (5.0, 5.0)),
    ((21, -14, 12), (10, -34, 20), (5.0, 6.5)),
    ((10, -34, 20), (4, -54, 26), (6.0, 2.0)),
    ((6, -34, 22), (-16, -10, 33), (4.0, 2.0)),
)
_DEEP_GREY = (
    # Thalamus, putamen with pallidum, head of the caudate nucleus: centre and half axes (z, y, x).
    ((7, -11, 11), (8, 14, 9)),
    ((5, 6, 25), (10, 16, 6)),
    ((11, 20, 15), (9, 9, 5)),
)


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
    projected = sum(offset * step for offset, step in zip(offsets, along, strict=True))
    fraction = np.clip(projected / np.float32(np.dot(along, along)), 0, 1)
    squares = sum((offset - fraction * step) ** 2 for offset, step in zip(offsets, along, strict=True))
    return np.sqrt(squares) - (np.float32(radii_mm[0]) + fraction * np.float32(radii_mm[1] - radii_mm[0]))


@dataclass(frozen=True)
class Surface:
    """Shape of one patient's brain on a grid.

    Attributes:
        grid: The voxels.
        depth: Depth below the smooth envelope of the brain in mm; negative outside.
        ribbon: Distance in mm from the nearest cerebrospinal fluid of the surface, sulci and fissures.
        cerebrum: True where cerebrum, False in cerebellum and brain stem.
    """

    grid: Grid
    depth: np.ndarray
    ribbon: np.ndarray
    cerebrum: np.ndarray


@dataclass(frozen=True)
class Push:
    """Displacement by a mass: tissue around ``centre`` (z, y, x in mm) gives way by ``shift_mm`` at ``radius_mm``."""

    centre: np.ndarray
    radius_mm: float
    shift_mm: float

    def undo(self, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the tissue now in each voxel came from: z, y, x in mm, each of the grid's shape."""
        z, y, x = (axis - np.float32(origin) for axis, origin in zip(grid.coordinates, self.centre, strict=True))
        radius = np.maximum(np.sqrt(z * z + y * y + x * x), np.float32(1))
        fade = np.exp(-(np.maximum(radius - self.radius_mm, 0) ** 2) / np.float32(2 * 30.0**2))
        keep = 1 - np.minimum(self.shift_mm / radius, np.float32(0.8)) * fade
        back = [offset * keep + np.float32(origin) for offset, origin in zip((z, y, x), self.centre, strict=True)]
        return back[0], back[1], back[2]


def build_surface(rng: np.random.Generator, grid: Grid) -> Surface:
    """Draw the shape of a brain.

    Args:
        rng: Random numbers; the same ones give the same brain on any grid.
        grid: The voxels.
    """
    z, y, x = grid.coordinates
    scale = rng.uniform(0.95, 1.02, size=3).astype(np.float32)
    z, y, x = z / scale[0], y / scale[1], x / scale[2]
    side = np.abs(x)
    # The frontal pole is narrower than the parietal region.
    broad = side / (1 - np.float32(0.13) * soft_step(y - 5, 22))
    main = ellipsoid_depth((z - 9, y, broad), (57, 85, 67))
    temporal = ellipsoid_depth((z + 26, y - 12, side - 41), (26, 42, 23))
    envelope = smooth_noise(rng, grid, 30) * np.float32(1.3)
    cerebrum = np.maximum(np.minimum(main, z + 34 + np.float32(0.15) * y), temporal) + envelope
    cerebellum = ellipsoid_depth((z + 44, y + 42, side - 23), (21, 27, 29)) + envelope * np.float32(0.5)
    stem = -capsule_distance((z, y, x), (-14, -12, 0), (-66, -30, 0), (13, 10))
    depth = np.maximum(np.maximum(cerebrum, cerebellum), stem)
    is_cerebrum = (cerebrum >= cerebellum) & (cerebrum >= stem)

    wobble, fine = smooth_noise(rng, grid, 20), smooth_noise(rng, grid, 5)
    # Sulci are the sheets where one of two noise fields changes its sign; they end at a varying depth.
    folds = [np.abs(smooth_noise(rng, grid, scale)) * np.float32(0.62 * scale) for scale in (9.0, 7.5)]
    bottom = np.maximum(depth - 16 - 4 * wobble, 0)
    sulcus = np.minimum(np.hypot(folds[0], bottom), np.hypot(folds[1], np.maximum(bottom + 3 * wobble, 0)))
    sulcus = np.minimum(sulcus + np.float32(0.3), _fissures(z, y, x + np.float32(1.5) * wobble, side, fine))
    folia = np.hypot(np.abs(fine) * np.float32(3.0) + np.float32(0.4), np.maximum(depth - 9, 0))
    ribbon = np.minimum(depth, np.where(is_cerebrum, sulcus, np.where(stem > cerebellum, depth + GREY_MM, folia)))
    return Surface(grid, depth, ribbon, is_cerebrum)


def _fissures(z: np.ndarray, y: np.ndarray, x: np.ndarray, side: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Distance in mm from the fissure between the hemispheres and from the two lateral (Sylvian) fissures."""
    # Inside this ellipse of the median plane the hemispheres are joined: corpus callosum and brain stem.
    joined = 1 - np.sqrt(((y + 4) / 40) ** 2 + ((z - 4) / 25) ** 2)
    between = np.hypot(x, np.maximum(joined * 25, 0)) + np.float32(0.4)
    plane = (z - 2 + np.float32(0.5) * (y - 6) - np.float32(0.6) * (side - 48)) / np.float32(1.27) + 2 * noise
    lateral = np.hypot(np.hypot(plane, np.maximum(37 - side, 0)), np.maximum(np.abs(y - 6) - 22, 0))
    return np.minimum(between, lateral)


def ventricle_distance(
    grid: Grid, size: float, place: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """Distance in mm from the ventricles; negative inside.

    Args:
        grid: The voxels.
        size: Widening of the ventricles in mm.
        place: Coordinates to use in the place of the grid's own, see :meth:`Push.undo`.
    """
    z, y, x = place or grid.coordinates
    side = np.abs(x)
    distance = np.maximum(np.hypot(side, np.maximum(np.abs(y + 8) - 12, 0)) - 1.5, np.abs(z - 3) - 9)
    distance = np.minimum(distance, capsule_distance((z, y, x), (-32, -29, 0), (-44, -36, 0), (2.0, 5.0)) + 1)
    for start, end, radii in _VENTRICLE:
        distance = np.minimum(distance, capsule_distance((z, y, side), start, end, radii))
    return np.broadcast_to(distance - np.float32(size), grid.shape)


def build_layers(
    rng: np.random.Generator, surface: Surface, push: Push | None, mask: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Healthy tissue as layers to be painted one over the other.

    Args:
        rng: Random numbers; the same ones give the same tissue on any grid.
        surface: The brain.
        push: Displacement of the deep structures by the largest lesion, or None.
        mask: Boolean, of the grid's shape: the voxels wanted.

    Returns:
        Layers from the lowest to the topmost, name to opacity in [0, 1], each ``(voxels in mask,)``; and the distance
        from the ventricles in mm, of the grid's shape.
    """
    grid, soft = surface.grid, surface.grid.softness
    place = push.undo(grid) if push else grid.coordinates
    atrophy, widening = rng.uniform(0.2, 1.1), rng.uniform(-1.2, 2.2)
    ventricle = ventricle_distance(grid, widening, place)
    deep = np.full(grid.shape, -20, np.float32)
    for centre, radii in _DEEP_GREY:
        offsets = (place[0] - centre[0], place[1] - centre[1], np.abs(place[2]) - centre[2])
        deep = np.maximum(deep, ellipsoid_depth(offsets, radii))
    ribbon, outside = surface.ribbon[mask], -surface.depth[mask]
    tubes = np.hypot(smooth_noise(rng, grid, 13)[mask], smooth_noise(rng, grid, 17)[mask])
    sinus = _sinus_distance(surface)[mask]
    # The choroid plexus takes up contrast agent; it lies in the atria of the ventricles.
    behind = np.broadcast_to(np.maximum(np.abs(place[1] + 32) - 9, 0), grid.shape)[mask]
    plexus = np.hypot(ventricle[mask] + 3.5, smooth_noise(rng, grid, 6)[mask] * 2) + behind
    layers = {
        "white": np.ones(ribbon.shape, np.float32),
        "deep": soft_step(deep[mask], 2 * soft) * soft_step(ribbon - GREY_MM, soft),
        "grey": soft_step(GREY_MM + atrophy - ribbon, soft),
        "csf": np.maximum(soft_step(atrophy - ribbon, soft), soft_step(-ventricle[mask], soft)),
        "plexus": soft_step(1.6 - plexus, soft),
        "vessel": np.maximum(
            soft_step(0.17 - tubes, 0.12) * soft_step(2.2 - ribbon, 0.6), soft_step(-sinus, soft) * (outside < 0)
        ),
        "bone": soft_step(outside - SKULL_MM, soft),
        "scalp": soft_step(outside - SCALP_MM, soft),
    }
    return layers, ventricle


def _sinus_distance(surface: Surface) -> np.ndarray:
    """Distance in mm from the sagittal sinus, which runs in the median plane along the upper and posterior surface."""
    z, y, x = surface.grid.coordinates
    along = np.where((z > 0) & (y < 40), np.abs(surface.depth - 2), np.float32(30))
    return np.hypot(x, along) - np.float32(2.6)
