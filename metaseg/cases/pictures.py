"""2-D picture files: upright as viewers show them, and grey.

A camera's or scanner's JPEG may say in its EXIF header that it is to be turned or mirrored. Every viewer obeys, so an
outline drawn in one fits the turned picture; pictures are turned here too.
"""

from __future__ import annotations

import warnings

import numpy as np
from PIL import Image, ImageOps

# Pictures of twice this warning's size are refused all the same.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")
LOSSY_FORMATS = frozenset({"JPEG", "MPO"})
_ORIENTATION = 0x0112
_UPRIGHT, _ON_ITS_SIDE = 1, (5, 6, 7, 8)
# Of these formats, several pictures in a file are a film or a volume; elsewhere they are previews.
_PAGED_FORMATS = ("GIF", "TIFF")


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened picture after turning, from its header."""
    width, height = image.size
    return (height, width) if _orientation(image) in _ON_ITS_SIDE else (width, height)


def upright_grey(image: Image.Image) -> Image.Image:
    """An opened picture turned upright, colours as luminance, transparency ignored; grey values stay as they are.

    Raises:
        ValueError: The file holds several pictures, or is a TIFF that lies on its side.
    """
    if image.format in _PAGED_FORMATS and getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"it holds {image.n_frames} pictures where one is expected")  # type: ignore[attr-defined]
    if image.format == "TIFF" and _orientation(image) in _ON_ITS_SIDE:
        # Pillow turns TIFF by itself, and garbles uncompressed ones (seen in 12.3).
        raise ValueError("it is a TIFF to be turned by 90 degrees, which cannot be relied on; save it upright")
    upright = image if _orientation(image) == _UPRIGHT else ImageOps.exif_transpose(image)
    if _is_grey(upright):
        return upright
    # Only by way of RGBA does Pillow accept a palette with transparency without a warning.
    return (upright.convert("RGBA") if "transparency" in image.info else upright).convert("L")


def _orientation(image: Image.Image) -> int:
    # Pillow would read a PNG whole, in search of a header behind the pixels that nobody writes.
    if image.format == "PNG" and "exif" not in image.info:
        return _UPRIGHT
    return int(image.getexif().get(_ORIENTATION, _UPRIGHT))


def _is_grey(image: Image.Image) -> bool:
    """Whether a picture has one value a pixel that is a grey value, of whatever depth."""
    return image.mode in ("1", "L", "F") or image.mode.startswith("I")


def eight_bit(image: Image.Image) -> Image.Image:
    """A grey picture in 8 bits, for looking at and comparing: deeper ones are scaled from darkest to brightest."""
    if image.mode in ("1", "L"):
        return image.convert("L")
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255 / max(high - low, 1e-9))
    return Image.fromarray(scaled.astype(np.uint8))
