"""A probability map over a slice, red where the network is sure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from metaseg.evaluation import drawing
from metaseg.evaluation.overlay import contrast_limits, for_display, grey_slice, visible_part

_GAP, _BAR, _SMALL, _LARGE = 8, 18, 15, 20


def probability_heatmap(
    image: np.ndarray,
    probability: np.ndarray,
    name: str = "ET",
    title: str = "",
    synthetic: bool = False,
    *,
    spacing: Sequence[float] = (1.0, 1.0),
    planar: bool = False,
    limits: tuple[float, float] | None = None,
    panel: int = 480,
) -> Image.Image:
    """Draw the probability of one class over a slice, with a colour bar (Han et al. 2018, their probability figure).

    Args:
        image: Intensities ``(height, width)``, canonical frame.
        probability: Probabilities in [0, 1], same shape; values outside are clipped.
        name: Name of the class, for the colour bar.
        title: Heading.
        synthetic: True marks the picture as made from phantoms.
        spacing: Pixel size along ``(height, width)``, for the aspect.
        planar: True for a separate 2-D image: it is neither mirrored nor marked L/R.
        limits: Intensities of black and white; by default percentiles of the slice.
        panel: Longer side of the picture in pixels, without text.

    Returns:
        The picture, RGB.

    Raises:
        ValueError: The shapes differ.
    """
    if image.shape != probability.shape:
        raise ValueError(f"image {image.shape} and probability {probability.shape} differ in shape")
    limits = limits or contrast_limits(image)
    crop = visible_part(image[None])
    image, probability = image[crop], probability[crop]
    sides = [size * step for size, step in zip(image.shape, spacing, strict=True)]
    height, width = (max(1, round(side * panel / max(sides))) for side in sides)
    grey = grey_slice(for_display(image, not planar), limits)
    chance = np.clip(np.asarray(for_display(probability, not planar), dtype=np.float32), 0.0, 1.0)
    large = np.asarray(Image.fromarray(np.ascontiguousarray(chance)).resize((width, height), Image.Resampling.BILINEAR))
    top = 38 if title or synthetic else _GAP
    right = max(2 * _GAP + width + _BAR + 44, drawing.text_width(title, _LARGE) + (150 if synthetic else 20))
    canvas = Image.new("RGB", (right, top + height + 34), drawing.BACKGROUND)
    picture = blend_probability(drawing.enlarged_grey(grey, width, height), large)
    canvas.paste(Image.fromarray(picture), (_GAP, top))
    if not planar:
        drawing.put_sides(canvas, _GAP, top, width, height, _SMALL)
    drawing.put_text(canvas, (_GAP, 9), title, _LARGE)
    if synthetic:
        drawing.put_synthetic_mark(canvas, right - _GAP, 8, _SMALL)
    drawing.put_text(canvas, (_GAP, top + height + 8), f"probability of {name}", _SMALL, drawing.FAINT)
    _put_bar(canvas, 2 * _GAP + width, top, height)
    return canvas


def blend_probability(grey: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Colour probabilities over a grey slice; what is improbable stays grey.

    Args:
        grey: ``uint8`` array ``(height, width)``.
        probability: Values in [0, 1], same shape.

    Returns:
        ``uint8`` array ``(height, width, 3)``.
    """
    # The opacity rises over the first quarter of the scale, so that the network's faint doubts do not veil the image.
    opacity = (0.7 * np.clip(probability / 0.25, 0.0, 1.0))[..., None]
    colours = _colours(probability)
    mixed = grey[..., None].astype(np.float64) * (1.0 - opacity) + colours * opacity
    return np.round(mixed).astype(np.uint8)


def _colours(probability: np.ndarray) -> np.ndarray:
    """Blue over green and yellow to red, ``(..., 3)`` in 0 .. 255."""
    from matplotlib import colormaps

    # The ends of the jet colours are too dark to be told from the image: the scale uses what lies between them.
    colours: np.ndarray = colormaps["jet"](0.1 + 0.8 * np.asarray(probability))[..., :3]
    return 255.0 * colours


def _put_bar(canvas: Image.Image, left: int, top: int, height: int) -> None:
    """Colour bar from 1 (top) to 0, as solid as the colours over the image are at that probability."""
    steps = np.linspace(1.0, 0.0, height)
    column = blend_probability(np.full((height, _BAR), 40, dtype=np.uint8), np.repeat(steps[:, None], _BAR, axis=1))
    canvas.paste(Image.fromarray(column), (left, top))
    draw = ImageDraw.Draw(canvas)
    for value, anchor in ((1.0, "la"), (0.5, "lm"), (0.0, "ld")):
        y = top + (1.0 - value) * (height - 1)
        draw.line((left + _BAR, y, left + _BAR + 4, y), fill=drawing.FAINT)
        drawing.put_text(canvas, (left + _BAR + 7, y), f"{value:g}", _SMALL, drawing.FAINT, anchor)
