"""Small pieces that all pictures share: enlarged panels, text and colour keys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from metaseg.evaluation.overlay import Colour

BACKGROUND: Colour = (17, 18, 20)
TEXT: Colour = (236, 236, 236)
FAINT: Colour = (165, 168, 172)
AMBER: Colour = (255, 176, 32)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of all pictures, which comes with Pillow."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> int:
    """Width of a line of text in pixels."""
    return int(font(size).getlength(text))


def put_text(
    canvas: Image.Image, where: tuple[float, float], text: str, size: int, colour: Colour = TEXT, anchor: str = "la"
) -> None:
    """Write one line; ``anchor`` as in Pillow."""
    ImageDraw.Draw(canvas).text(where, text, font=font(size), fill=colour, anchor=anchor)


def put_key(canvas: Image.Image, left: int, middle: int, entries: Sequence[tuple[str, Colour]], size: int) -> int:
    """Draw coloured squares with their names in a line; returns the x position behind the last."""
    draw = ImageDraw.Draw(canvas)
    for name, colour in entries:
        draw.rectangle((left, middle - size // 2, left + size, middle + size // 2), fill=colour)
        put_text(canvas, (left + size + 6, middle), name, size, anchor="lm")
        left += size + 6 + text_width(name, size) + 18
    return left


def key_width(entries: Sequence[tuple[str, Colour]], size: int) -> int:
    """Width that :func:`put_key` takes."""
    return sum(size + 6 + text_width(name, size) + 18 for name, _ in entries)


def put_synthetic_mark(canvas: Image.Image, right: int, top: int, size: int) -> None:
    """Write the mark of everything that was made from phantoms, right-aligned."""
    word = "SYNTHETIC"
    left = right - text_width(word, size) - 12
    ImageDraw.Draw(canvas).rectangle((left, top, right, top + size + 8), fill=AMBER)
    put_text(canvas, ((left + right) / 2, top + (size + 8) / 2), word, size, (20, 20, 20), anchor="mm")


def put_sides(canvas: Image.Image, left: int, top: int, width: int, height: int, size: int) -> None:
    """Mark the patient's right (R, on the left) and left side beside a mirrored panel."""
    for x, anchor, side in ((left + 5, "lm", "R"), (left + width - 5, "rm", "L")):
        put_text(canvas, (x, top + height / 2), side, size, FAINT, anchor)


def enlarged_grey(grey: np.ndarray, width: int, height: int) -> np.ndarray:
    """Smoothly resized copy of a ``uint8`` slice, ``(height, width)``."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(grey)).resize((width, height), Image.Resampling.BICUBIC))


def enlarged_codes(codes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resized copy of a ``uint8`` code map without new values, ``(height, width)``."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(codes)).resize((width, height), Image.Resampling.NEAREST))
