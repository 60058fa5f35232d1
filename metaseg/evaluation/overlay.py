"""Pictures of slices: grey image, coloured classes, and the orientation in which radiologists look at them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from metaseg.cases.labels import LabelSpace
from metaseg.evaluation.bounding_box import Box, bounding_box, grown

Colour = tuple[int, int, int]

# As in Han et al. 2018: edema yellow, necrosis green, enhancing tumour brown.
CLASS_COLOURS: Mapping[str, Colour] = {
    "ED": (255, 221, 51),
    "NCR": (60, 190, 90),
    "ET": (190, 96, 32),
    "RC": (70, 150, 220),
    "lesion": (190, 96, 32),
}
"""Class name to red, green, blue."""

ERROR_COLOURS: Mapping[str, Colour] = {
    "false positive": (235, 50, 50),
    "missed": (60, 140, 255),
    "other class": (200, 90, 220),
}
"""Kind of error to red, green, blue; ``other class`` is tumour in both maps, but of another class."""

_SPARE_COLOUR: Colour = (0, 200, 200)


def class_colours(space: LabelSpace) -> list[tuple[str, Colour]]:
    """Names and colours of the classes of a label space, without the background."""
    return [(name, CLASS_COLOURS.get(name, _SPARE_COLOUR)) for name in space.classes[1:]]


def class_palette(space: LabelSpace) -> np.ndarray:
    """Colours of a label space, ``(classes, 3)``, ``uint8``; the background is black."""
    return np.array([(0, 0, 0), *(colour for _, colour in class_colours(space))], dtype=np.uint8)


def for_display(array: np.ndarray, mirror: bool = True) -> np.ndarray:
    """Turn canonical slices so that the front is on top and, if ``mirror``, the patient's right side on the left.

    Args:
        array: ``(..., height, width)`` in the canonical frame: rows ascend to the front, columns to the right.
        mirror: True for the radiological convention; False keeps the columns, as for photographed slices, whose sides
            are not known.

    Returns:
        A view of the same shape.
    """
    return array[..., ::-1, ::-1] if mirror else array[..., ::-1, :]


def contrast_limits(image: np.ndarray, low: float = 1.0, high: float = 99.7) -> tuple[float, float]:
    """Intensities to show as black and white: percentiles of what is not background.

    Args:
        image: Intensities of any shape; the lowest value is taken as background.
        low: Lower percentile.
        high: Upper percentile.

    Returns:
        Lower and upper limit; the upper one is greater.
    """
    foreground = image[image > image.min()]
    if not foreground.size:
        level = float(image.flat[0]) if image.size else 0.0
        return level, level + 1.0
    bottom, top = np.percentile(foreground, [low, high])
    return float(bottom), float(top) if top > bottom else float(bottom) + 1.0


def grey_slice(image: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Bring a slice to 8-bit grey.

    Args:
        image: Intensities ``(height, width)``.
        limits: Intensities of black and white; by default :func:`contrast_limits` of the slice.

    Returns:
        ``uint8`` array ``(height, width)``.
    """
    bottom, top = limits or contrast_limits(image)
    scaled = (image.astype(np.float64) - bottom) / (top - bottom)
    return np.round(255.0 * np.clip(scaled, 0.0, 1.0)).astype(np.uint8)


def overlay_slice(
    image: np.ndarray,
    classes: np.ndarray,
    space: LabelSpace,
    alpha: float = 0.5,
    limits: tuple[float, float] | None = None,
) -> np.ndarray:
    """Colour the classes of one slice over its image; fills are translucent, outlines solid.

    Args:
        image: Intensities ``(height, width)``.
        classes: Class values ``(height, width)``.
        space: What the values mean.
        alpha: Opacity of the fills in [0, 1].
        limits: Intensities of black and white; by default :func:`contrast_limits` of the slice.

    Returns:
        ``uint8`` array ``(height, width, 3)``, oriented as ``image``.
    """
    return paint(grey_slice(image, limits), classes, class_palette(space), alpha)


def paint(grey: np.ndarray, codes: np.ndarray, palette: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """Colour codes over a grey slice.

    Args:
        grey: ``uint8`` array ``(height, width)``.
        codes: Positions in the palette ``(height, width)``; 0 is left grey.
        palette: ``uint8`` colours ``(codes, 3)``.
        alpha: Opacity of the fills in [0, 1]; outlines are drawn solid.

    Returns:
        ``uint8`` array ``(height, width, 3)``.
    """
    opacity = np.where(codes > 0, alpha, 0.0)
    opacity[outlines(codes)] = max(alpha, 0.9)
    base = np.repeat(grey[..., None].astype(np.float64), 3, axis=2)
    mixed = base * (1.0 - opacity[..., None]) + palette[codes] * opacity[..., None]
    return np.round(mixed).astype(np.uint8)


def visible_part(image: np.ndarray) -> Box:
    """Box of rows and columns around the tissue, with room at both sides for the marks of left and right.

    Args:
        image: Intensities ``(slices, height, width)``; the lowest value is taken as background.

    Returns:
        Two slices, of rows and of columns.
    """
    box = bounding_box((image > image.min()).any(axis=0), margin=4)
    if box is None:
        return slice(0, image.shape[1]), slice(0, image.shape[2])
    rows, columns = box
    side = max(4, (columns.stop - columns.start) // 14)
    return rows, grown((columns,), side, (image.shape[2],))[0]


def outlines(codes: np.ndarray) -> np.ndarray:
    """Mask of the pixels of codes above 0 that border on another code, ``(height, width)``."""
    padded = np.pad(codes, 1, mode="edge")
    centre = padded[1:-1, 1:-1]
    border = np.zeros(codes.shape, dtype=bool)
    for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        border |= neighbour != centre
    return border & (codes > 0)


def error_codes(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Where a prediction errs: 0 right, then 1, 2, 3 in the order of :data:`ERROR_COLOURS`; any shape, ``uint8``."""
    codes = np.zeros(label.shape, dtype=np.uint8)
    codes[(label == 0) & (prediction > 0)] = 1
    codes[(label > 0) & (prediction == 0)] = 2
    codes[(label > 0) & (prediction > 0) & (label != prediction)] = 3
    return codes
