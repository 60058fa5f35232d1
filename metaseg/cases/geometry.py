"""Where voxels lie: the one canonical frame inside metaseg, and the way back to a file's own grid.

Inside metaseg a volume is an array ``(slices, height, width)``: axial slices from feet to head, rows from back to
front, columns from the patient's left to right side ascending toward R, A, S (the RAS+ frame, axes reversed). Reading
only flips and permutes axes, never resamples, so that writing restores a file's grid exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.orientations import (
    aff2axcodes,
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

from metaseg.errors import DataError


@dataclass(frozen=True)
class Geometry:
    """Grid of a file and the path from it to the canonical frame and back.

    Attributes:
        shape: The file's own grid ``(i, j, k)``; for a stack of 2-D images ``(width, height, slices)``.
        affine: The file's own voxel-to-world matrix (4, 4) in mm, as nested tuples so that it can be compared.
        unit: ``"mm"``, or ``"pixel"`` where the files hold no voxel size.
        planar: True for a stack of separate 2-D images: neighbouring slices are then not neighbours in space.
    """

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    unit: str = "mm"
    planar: bool = False

    @classmethod
    def from_affine(cls, shape: tuple[int, ...], affine: np.ndarray) -> Geometry:
        """Geometry of a 3-D image file."""
        i, j, k = (int(size) for size in shape[:3])
        return cls((i, j, k), tuple(tuple(float(value) for value in row) for row in np.asarray(affine)))

    @classmethod
    def from_stack(cls, slices: int, height: int, width: int, pixel_mm: float | None = None) -> Geometry:
        """Geometry of ``slices`` separate 2-D images of ``height`` x ``width`` pixels (row 0 on top)."""
        size = pixel_mm or 1.0
        # Image rows run from the front of the head to its back: the y axis points against the row index.
        affine = np.diag([size, -size, size, 1.0])
        rows = tuple(tuple(float(value) for value in row) for row in affine)
        return cls((width, height, slices), rows, "mm" if pixel_mm else "pixel", planar=True)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along the canonical ``(slices, height, width)`` axes, in :attr:`unit`."""
        sizes = np.linalg.norm(np.asarray(self.affine)[:3, :3], axis=0)
        order = self._orientation()[:, 0].astype(int)
        in_ras = np.empty(3)
        in_ras[order] = sizes
        return (float(in_ras[2]), float(in_ras[1]), float(in_ras[0]))

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in ``unit`` cubed (mm³ where sizes are known)."""
        return float(abs(np.linalg.det(np.asarray(self.affine)[:3, :3])))

    @property
    def axis_codes(self) -> str:
        """The file's orientation as letters, such as ``"LPS"``."""
        return "".join(code or "?" for code in aff2axcodes(np.asarray(self.affine)))

    @property
    def canonical_shape(self) -> tuple[int, int, int]:
        """Shape ``(slices, height, width)`` in the canonical frame."""
        in_ras = np.empty(3, dtype=int)
        in_ras[self._orientation()[:, 0].astype(int)] = self.shape
        return (int(in_ras[2]), int(in_ras[1]), int(in_ras[0]))

    def turned_slice(self, number: int) -> int:
        """Number of an axial slice in the canonical frame from that in the file, and the other way round; from 0."""
        upward = self._orientation()[:, 1][self._orientation()[:, 0] == 2].item() > 0
        return number if upward else self.canonical_shape[0] - 1 - number

    def _orientation(self) -> np.ndarray:
        return io_orientation(np.asarray(self.affine))

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        """Bring an array ``(i, j, k)`` of the file's grid to ``(slices, height, width)``."""
        return np.ascontiguousarray(apply_orientation(array, self._orientation()).transpose(2, 1, 0))

    def from_canonical(self, array: np.ndarray) -> np.ndarray:
        """Bring ``(slices, height, width)`` back to the file's own grid; the inverse of :meth:`to_canonical`.

        The first axis varies fastest in memory, as it does in the file.
        """
        back = ornt_transform(axcodes2ornt("RAS"), self._orientation())
        return np.asfortranarray(apply_orientation(array.transpose(2, 1, 0), back))

    @property
    def canonical_affine(self) -> np.ndarray:
        """Voxel-to-world matrix (4, 4) of the RAS+ array ``(width, height, slices)``, in :attr:`unit`."""
        return np.asarray(self.affine) @ inv_ornt_aff(self._orientation(), self.shape)


def corner_distance(first: Geometry, second: Geometry) -> float:
    """Largest distance in mm between where two grids of one canonical shape put the same corner voxel.

    Files may be stored in different orientations: they are compared in the canonical frame, in which they are read.
    """
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(first.canonical_shape[::-1]) - 1)
    difference = first.canonical_affine - second.canonical_affine
    return float(np.linalg.norm(corners @ difference[:3, :3].T + difference[:3, 3], axis=1).max())


def require_axes(affine: np.ndarray, path: Path, told_by: str) -> None:
    """Refuse a voxel-to-world matrix that does not give each axis a direction of its own.

    Args:
        affine: The matrix (4, 4).
        path: The file.
        told_by: What in its header gives the matrix.

    Raises:
        DataError: It is not finite, or cannot be inverted.
    """
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    finite = np.all(np.isfinite(affine)) and np.all(np.isfinite(sizes)) and np.all(sizes > 0)
    if finite and abs(np.linalg.det(affine[:3, :3] / sizes)) >= 1e-3 and not np.any(np.isnan(io_orientation(affine))):
        return
    raise DataError(
        "the header holds no usable orientation",
        where=path,
        expected="a finite, invertible voxel-to-world matrix",
        remedy=f"write the file again with a valid {told_by}",
    )
