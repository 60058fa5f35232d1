"""Checks of grids: do a case's files lie on one grid, and is it one of a brain scan?"""

from __future__ import annotations

import numpy as np

from metaseg.cases.geometry import Geometry

POSITION_TOLERANCE_MM = 1e-3
"""Two files lie on one grid if none of its corners differ by more: headers keep single precision."""

SPACING_RANGE_MM = (0.05, 20.0)
"""Voxel sizes outside are taken for a wrong header."""

IN_PLANE_RATIO = 1.5
"""Pixels of axial slices may be so much longer than wide: networks see slices as they are, never resampled."""

SIDE_RANGE = (16, 1024)
"""Voxels along height and width; a network halves what is smaller to nothing, and brains are not larger."""

TILT_TOLERANCE_DEGREES = 0.1
"""Voxel axes further than this from the scanner's axes are called oblique."""


def corner_distance(first: Geometry, second: Geometry) -> float:
    """Largest distance in mm between where two grids of one canonical shape put the same corner voxel.

    Files may be stored in different orientations: they are compared in the canonical frame, in which they are read.
    """
    last = np.asarray(first.canonical_shape[::-1]) - 1
    corners = np.stack(np.meshgrid(*([0, size] for size in last), indexing="ij"), axis=-1).reshape(-1, 3)
    homogeneous = np.hstack([corners, np.ones((len(corners), 1))])
    difference = first.canonical_affine - second.canonical_affine
    return float(np.linalg.norm((homogeneous @ difference.T)[:, :3], axis=1).max())


def tilt_degrees(geometry: Geometry) -> float:
    """Largest angle in degrees between a voxel axis and the scanner axis nearest to it; shear counts as well."""
    directions = np.asarray(geometry.affine)[:3, :3]
    cosines = np.abs(directions / np.linalg.norm(directions, axis=0)).max(axis=0)
    return float(np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0))).max())


def implausible_spacing(geometry: Geometry) -> bool:
    """True if a voxel size lies outside :data:`SPACING_RANGE_MM`; images without a voxel size are not judged."""
    low, high = SPACING_RANGE_MM
    return geometry.unit == "mm" and any(not low <= size <= high for size in geometry.spacing)


def in_plane_ratio(geometry: Geometry) -> float:
    """How much longer an axial slice's pixel is than wide, or the other way round."""
    _, height, width = geometry.spacing
    return max(height, width) / min(height, width)


def implausible_size(geometry: Geometry) -> bool:
    """True if height or width lies outside :data:`SIDE_RANGE`, or there are more slices than its upper end."""
    slices, *sides = geometry.canonical_shape
    low, high = SIDE_RANGE
    return slices > high or any(not low <= side <= high for side in sides)
