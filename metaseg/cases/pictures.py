"""2-D picture files: upright as viewers show them, grey, and compared with each other.

A camera's or scanner's JPEG may say in its EXIF header that it is to be turned or mirrored. Every viewer obeys, so an
outline drawn in one fits the turned picture; pictures are turned here too.

Near-copies are one picture saved again: other coding, size or brightness, or moved by a pixel or two. Pictures are
compared by perceptual hashes: 256 signs of low frequencies of the picture at 64 x 64 pixels (``phash`` of the ImageHash
library). Two pictures with at most :data:`MOST_DIFFERENT` different signs count as near-copies, and near-copies of
near-copies with them.

The limit was measured. On 80 pictures of each of two public sets, copies saved as JPEG of quality 30, at half or at 128
pixels' size, 30 % brighter or with a gamma of 0.7 differ in at most 22 signs, and 86 % of those cut by 1 % on each side
in at most 32. Among 1,239 slices of 155 patients (Cheng's set) all 109 pairs within 32 signs are neighbouring slices of
one patient; 1 of 236 pairs within 40 is of two patients, 18 of 428 within 48 and 507 of 1,249 within 64, where groups
grow to 218 slices. Among 460 pictures of the four-class set 127 pairs lie within 32 (90 of equal pixels, 30 saved or
placed otherwise, 7 of neighbouring slices), none of two classes; from 46 on different heads meet.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from metaseg.cases.file_checks import reading
from metaseg.errors import DataError, warn_user
from metaseg.threads import ordered_map

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")
LOSSY_FORMATS = frozenset({"JPEG", "MPO"})
_ORIENTATION = 0x0112
_UPRIGHT, _ON_ITS_SIDE = 1, (5, 6, 7, 8)
# Of these formats, several pictures in a file are a film or a volume; elsewhere they are previews.
_PAGED_FORMATS = ("GIF", "TIFF")
GroupCopies = Literal["near", "identical", "none"]
"""Which files of a set without patients count as one patient: near-copies, files of equal bytes, or none at all."""
MOST_DIFFERENT = 32
"""Signs, of 256, in which near-copies differ at most."""
_HASH_SIZE = 16
# JPEG is decoded at the smallest size that is at least this: faster, and the hash shrinks pictures further anyway.
_DRAFT_PIXELS = 128
# Pictures of fewer grey values than this from darkest to brightest have nothing but noise to compare.
_LEAST_CONTRAST = 8
_BLOCK = 1024

# Pictures of twice this warning's size are refused all the same.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


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


def near_copy_groups(files: Sequence[Path], threads: int | None = None) -> dict[Path, Path]:
    """Every picture file to the first file of its group of near-copies.

    Files that cannot be read, and pictures without contrast, are groups of their own: what is wrong with them is said
    by whoever reads them.

    Args:
        files: The files; their order decides which is the first of a group.
        threads: Threads that decode; by default one a core.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not files:
        return {}
    import imagehash  # noqa: F401  (before the threads, which would all import it)

    hashes = list(ordered_map(perceptual_hash, files, threads or os.cpu_count() or 1))
    known = [(position, bits) for position, bits in enumerate(hashes) if bits is not None]
    if not known:
        return {file: file for file in files}
    where = np.array([position for position, _ in known])
    rows, columns = _close_pairs(np.stack([bits for _, bits in known]))
    links = coo_array((np.ones(len(rows), np.int8), (where[rows], where[columns])), shape=(len(files), len(files)))
    _, group = connected_components(links, directed=False)
    _, first = np.unique(group, return_index=True)
    return {file: files[first[number]] for file, number in zip(files, group, strict=True)}


def perceptual_hash(file: Path) -> np.ndarray | None:
    """256 booleans that near-copies nearly share, or None if the file cannot be read or shows nothing."""
    import imagehash

    try:
        with reading(file, "image"), Image.open(file) as image:
            image.draft("L", (_DRAFT_PIXELS, _DRAFT_PIXELS))
            grey = eight_bit(upright_grey(image))
    except Exception as error:
        # A damaged file may break its library in ways nobody foresaw.
        reason = error.found if isinstance(error, DataError) else f"the image cannot be read: {error}"
        warn_user(f"{reason}; it is not compared with others", where=file, remedy="get it again, or leave it out")
        return None
    low, high = grey.getextrema()
    if high - low < _LEAST_CONTRAST:  # type: ignore[operator]
        return None
    bits: np.ndarray = imagehash.phash(grey, hash_size=_HASH_SIZE).hash
    return bits.ravel()


def _close_pairs(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of hashes that differ in at most :data:`MOST_DIFFERENT` signs, each pair once."""
    # The product of signs +1 and -1 counts equal minus different ones; whole numbers this small are exact in float32.
    # NumPy counts bits from version 2 on only; 10,000 pictures take less than a second either way.
    signs = np.where(hashes, np.float32(1), np.float32(-1))
    least = hashes.shape[1] - 2 * MOST_DIFFERENT
    pairs = []
    for start in range(0, len(signs), _BLOCK):
        rows, columns = np.nonzero(signs[start : start + _BLOCK] @ signs[start:].T >= least)
        later = columns > rows
        pairs.append((rows[later] + start, columns[later] + start))
    return np.concatenate([rows for rows, _ in pairs]), np.concatenate([columns for _, columns in pairs])
