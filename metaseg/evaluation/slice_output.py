"""Write predictions of separate 2-D images as PNG masks, each in the orientation of its image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from metaseg.cases.geometry import Geometry
from metaseg.cases.labels import WHOLE_LESION, LabelScheme
from metaseg.written_files import replacing

INSIDE = 255
"""Grey value of the lesion in a mask of the whole lesion, so that the mask can be seen."""


def mask_values(scheme: LabelScheme) -> dict[str, int]:
    """Grey value of every class in a PNG mask: 255 for the whole lesion, else the convention's own values."""
    if scheme.space == WHOLE_LESION:
        return {"background": 0, "lesion": INSIDE}
    values = scheme.encode(np.arange(scheme.space.num_classes))
    return {name: int(value) for name, value in zip(scheme.space.classes, values, strict=True)}


def mask_names(images: Sequence[Path]) -> list[str]:
    """File names of the masks of a stack: those of the images, with a number in front where two are alike."""
    stems = [image.stem for image in images]
    if len(set(stems)) < len(stems):
        stems = [f"{number:04}_{stem}" for number, stem in enumerate(stems, start=1)]
    return [f"{stem}.png" for stem in stems]


def write_masks(files: Sequence[Path], classes: np.ndarray, geometry: Geometry, scheme: LabelScheme) -> None:
    """Write one mask for each image of a stack.

    Args:
        files: The masks' files, in slice order.
        classes: Class values ``(slices, height, width)`` in the canonical frame.
        geometry: Grid of the stack.
        scheme: Decides the grey values, see :func:`mask_values`.
    """
    table = np.array(list(mask_values(scheme).values()), dtype=np.uint8)
    # (width, height, slices) to (slices, height, width), rows from the top as in the files.
    pictures = table[geometry.from_canonical(classes)].transpose(2, 1, 0)
    for file, picture in zip(files, pictures, strict=True):
        with replacing(file) as stream:
            Image.fromarray(np.ascontiguousarray(picture)).save(stream, format="PNG")
