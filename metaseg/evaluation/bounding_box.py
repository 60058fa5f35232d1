"""Boxes around masks: distances and lesions are computed there, not on the whole volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Box = tuple[slice, ...]


def bounding_box(mask: np.ndarray, margin: int = 0) -> Box | None:
    """The smallest box around a mask.

    Args:
        mask: Boolean array of any number of axes.
        margin: Voxels to add on every side, as far as the array reaches.

    Returns:
        One slice per axis, or None if the mask is empty.
    """
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        held = np.flatnonzero(mask.any(axis=others))
        if not len(held):
            return None
        box.append(slice(int(held[0]), int(held[-1]) + 1))
    return grown(tuple(box), margin, mask.shape)


def grown(box: Box, margin: int, shape: Sequence[int]) -> Box:
    """The box, larger by ``margin`` voxels on every side but not beyond ``shape``."""
    return tuple(
        slice(max(0, part.start - margin), min(size, part.stop + margin)) for part, size in zip(box, shape, strict=True)
    )


def united(boxes: Sequence[Box]) -> Box:
    """The smallest box around several."""
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts)) for parts in zip(*boxes, strict=True)
    )
