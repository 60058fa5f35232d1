"""Intensities: those that no network can use, and what of a volume lies outside the head.

Networks know a background of exactly 0. Files hold 0 there, another constant (-1024, 255, the negative number that
z-scoring leaves), what resampling leaves of 0, or the noise of air around a head with its skull. Preparation and the
dataset check ask :func:`find_background`, which separates head and background by what lies on the border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

LARGEST, SMALLEST = 1e30, 1e-30
"""Sizes of intensities that 32-bit numbers can be normalised from, with room for sums of them."""
MOST_SPREADS = 1000.0
"""Distance of a voxel from the median, in ranges of the others, from which it leaves nothing of their contrast."""
SAMPLED = 20_000
PLANAR_BACKGROUND = 0.04
"""Fraction of a 2-D image's largest value up to which it is background: JPEG writes noise around the head."""
BackgroundKind = Literal["zero", "constant", "noise", "none", "unclear"]
_MIN_FRACTION = 0.05
"""Fraction of the border that a constant background fills at least: heads may touch most of a tight crop."""
_NEAR = 0.02
"""Values this close to a constant, as a fraction of the image's range, suggest noise rather than tissue."""
_DEVIATIONS = 5.0
"""Noise ends so many standard deviations from its level; beyond lies one in 20,000 voxels of air."""
_FAINT = 1e-3
"""Fraction of the image's range below which nothing is tissue: what is left of 0 after resampling."""
_FAINT_RIM = 0.01
"""The same for noise: up to here a hole in the tissue can be distinguished from dark tissue, and is left open."""
_DARK = 0.03
"""The same for what lies between a constant and the head."""
_LARGEST_HOLE = 10
"""Voxels of a slice, enclosed by tissue, that happen to have the level of the background."""
_CLOSING = 2
"""Voxels by which gaps in the head's rim are closed where tissue is as dark as the noise."""
_RIM_SLICES = 40
"""Slices that are looked at for what lies between a constant and the head."""
_SAMPLE = 100_000
"""Voxels that statistics of a volume are taken from."""


def intensity_problem(array: np.ndarray) -> str | None:
    """What makes intensities unusable, such as ``"holds NaN or infinity in 3 of 1000 voxels"``; None if nothing does.

    Args:
        array: Of any shape, in the file's number type.
    """
    if not array.size or (array.dtype.itemsize <= 2 and array.dtype.kind in "biu"):
        return None
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        return f"holds NaN or infinity in {np.count_nonzero(~np.isfinite(array))} of {array.size} voxels"
    largest = max(-low, high)
    if largest > LARGEST or 0 < largest < SMALLEST:
        return f"has intensities up to {largest:.3g} in size, which 32-bit numbers cannot hold"
    return _stray(array, low, high)


def _stray(array: np.ndarray, low: float, high: float) -> str | None:
    """Says so if a voxel lies so far from all others that nothing is left of their contrast."""
    # From some voxels, evenly spread: quantiles of all would take longer than reading the file.
    step = max(1, round((array.size / SAMPLED) ** 0.5)) if array.ndim > 1 else 1
    sample = array[..., ::step, ::step] if array.ndim > 1 else array
    inside = sample[sample != 0].astype(np.float64)
    if inside.size < 100:
        return None
    first, median, last = np.quantile(inside, (0.01, 0.5, 0.99))
    spread = max(last - first, abs(median))
    far = high if high - median > median - low else low
    if not abs(far - median) > MOST_SPREADS * spread:
        return None
    return f"has a voxel of {far:.3g} where nearly all others lie between {first:.3g} and {last:.3g}"


def spoiled_file(array: np.ndarray, files: Sequence[Path]) -> Path:
    """Which of an image's files has the problem: of a stack of pictures, the first that has one by itself."""
    pictures = zip(array, files, strict=True) if len(files) == len(array) else ()
    return next((file for part, file in pictures if intensity_problem(part)), files[0])


@dataclass(frozen=True)
class Background:
    """The background of one volume.

    Attributes:
        kind: ``"zero"`` and ``"constant"`` are one value, ``"noise"`` spreads about a level, ``"none"`` means that
            tissue fills the volume, and ``"unclear"`` that tissue and noise cannot be distinguished.
        level: The value, or the middle of the noise.
        tolerance: How far noise goes from its level.
        inside: What is not background, ``(slices, height, width)``.
    """

    kind: BackgroundKind
    level: float
    tolerance: float
    inside: np.ndarray

    @property
    def description(self) -> str | None:
        """What is remarkable about it, after the name of the image; None for the usual 0."""
        if self.kind == "none":
            return "has no background: all of it is taken for tissue"
        if self.kind == "constant":
            return f"holds {self.level:g} outside the head"
        if self.kind == "noise":
            return f"holds noise of {self.level:.3g} ± {self.tolerance:.3g} outside the head"
        return None


def find_background(image: np.ndarray) -> Background:
    """Tell head and background apart.

    Args:
        image: Finite intensities ``(slices, height, width)``. Stacks of separate pictures are not for this function:
            JPEG leaves noise of its own around the head.
    """
    sample, border = _thinned(image), _border(image)
    scale = _range(sample, float(np.median(border)))
    constant = _constant(border, scale, _MIN_FRACTION)
    if constant is not None:
        return _around_constant(image, constant)
    level, tolerance = _noise(border, scale)
    fraction = _fraction_beyond(_middle(image), level, tolerance)
    if fraction >= 0.5:
        return _in_noise(image, np.ones(image.shape, dtype=bool), level, tolerance, scale)
    if _constant(sample, scale, 0.01) == 0:
        return Background("zero", 0.0, 0.0, image != 0)
    # A narrow border that much of the image differs from may be the air around a head that lies to one side.
    apart = tolerance <= 0.35 * scale and _fraction_beyond(sample, level, tolerance) >= 0.01
    kind: BackgroundKind = "unclear" if apart or fraction >= 0.25 else "none"
    return Background(kind, level, tolerance, np.ones(image.shape, dtype=bool))


def zero_outside(image: np.ndarray, background: Background) -> np.ndarray:
    """The image with 0 in the background, and there alone; itself where that is so already.

    Inside, 0 becomes the smallest number above it: 1 in whole numbers.
    """
    if background.kind == "zero":
        return image
    nudge = 1 if np.array_equal(image, np.rint(image)) else np.finfo(np.float32).tiny
    return np.where(background.inside, np.where(image == 0, image.dtype.type(nudge), image), image.dtype.type(0))


def _around_constant(image: np.ndarray, level: float) -> Background:
    """Background of one value, and what may lie between it and the head: air inside a padded field of view."""
    found = Background("zero" if level == 0 else "constant", level, 0.0, image != level)
    sample = _thinned(image)
    scale = _range(sample, level)
    for _ in range(2):
        rim = _rim(image, found.inside)
        if not rim.size:
            break
        within = sample[_thinned(found.inside)]
        second = _constant(rim, scale, 0.8)
        # What fills nearly all is a head of one value.
        if second is not None and _MIN_FRACTION <= np.mean(within == second) < 0.98:
            found = Background("constant", second, 0.0, found.inside & (image != second))
            continue
        middle, tolerance = _noise(rim, scale)
        faint = abs(middle - found.level) + tolerance <= _DARK * scale
        # The rim of a brain without skull may be dark and narrow, too: only what is plainly noise is taken for it.
        if tolerance > 0.25 * _range(within, middle):
            break
        if 1 - _fraction_beyond(within, middle, tolerance) < (_MIN_FRACTION if faint else 0.3):
            break
        if _fraction_beyond(_middle(image), middle, tolerance) < 0.9:
            break
        return _in_noise(image, found.inside, middle, tolerance, scale)
    return found if found.kind == "zero" else _without_blend(image, found)


def _without_blend(image: np.ndarray, found: Background) -> Background:
    """Take for background what resampling mixed of it and tissue: beside -1024 that is far below any tissue."""
    tissue = _middle(image)[_middle(found.inside)]
    if not tissue.size:
        return found
    low, high = np.percentile(tissue, (0.1, 99.9))
    margin = 0.5 * (high - low)
    plausible = (image > low - margin) & (image < high + margin)
    return replace(found, inside=found.inside & plausible) if not low - margin < found.level < high + margin else found


def _thinned(image: np.ndarray) -> np.ndarray:
    """Every so many-th voxel along each axis, about as many as :data:`_SAMPLE` in all."""
    step = max(1, round((image.size / _SAMPLE) ** (1 / 3)))
    return image[::step, ::step, ::step]


def _fraction_beyond(values: np.ndarray, level: float, tolerance: float) -> float:
    """Fraction of the values that lie further than ``tolerance`` from ``level``."""
    return float(np.mean(np.abs(values.astype(np.float64) - level) > tolerance))


def _middle(image: np.ndarray) -> np.ndarray:
    """The middle third along each axis, thinned."""
    inner = image[tuple(slice(size // 3, size - size // 3) for size in image.shape)]
    return _thinned(inner)


def _border(image: np.ndarray) -> np.ndarray:
    """Values on the six faces."""
    faces = (face for axis in range(3) for face in (image.take(0, axis), image.take(-1, axis)))
    return np.concatenate([face.ravel() for face in faces]).astype(np.float64)


def _rim(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Values of the first and the last inside voxel of rows and columns, in some :data:`_RIM_SLICES` slices."""
    step = max(1, len(image) // _RIM_SLICES)
    image, inside = image[::step], inside[::step]
    values = []
    for axis in (1, 2):
        some = inside.any(axis=axis)
        last = inside.shape[axis] - 1
        for place in (inside.argmax(axis=axis), last - np.flip(inside, axis).argmax(axis=axis)):
            values.append(np.take_along_axis(image, np.expand_dims(place, axis), axis).squeeze(axis)[some])
    return np.concatenate(values).astype(np.float64)


def _range(sample: np.ndarray, level: float) -> float:
    """Distance of the most remote intensities from ``level``; single voxels do not count."""
    return float(np.percentile(np.abs(sample.astype(np.float64) - level), 99.5))


def _constant(values: np.ndarray, scale: float, least: float) -> float | None:
    """The value that at least a fraction of ``least`` has and that few come near to, or None."""
    middle = np.partition(values, values.size // 2, axis=None)[values.size // 2] if values.size else np.nan
    fraction = float(np.mean(values == middle))
    if fraction < 0.5:
        different, counts = np.unique(values, return_counts=True)
        middle, fraction = different[counts.argmax()], float(counts.max()) / values.size
    if fraction < least:
        return None
    whole = bool(np.all(values == np.rint(values)))
    near = float(np.mean(np.abs(values - middle) <= max(_NEAR * scale, float(whole)))) - fraction
    return float(middle) if near < 0.25 * fraction else None


def _noise(values: np.ndarray, scale: float) -> tuple[float, float]:
    """Level and reach of the densest part of ``values``: the shortest interval that holds 30 % of them, grown."""
    ordered = np.sort(values)
    count = max(1, int(0.3 * ordered.size))
    width = ordered[count - 1 :] - ordered[: ordered.size - count + 1]
    start = int(width.argmin())
    level = float(ordered[start : start + count].mean())
    # The middle 30 % of a normal distribution span 0.77 standard deviations. Where one value fills them (air that the
    # scanner cut off at 0), the spread of the others is not known yet.
    tolerance = _DEVIATIONS * float(width[start]) / 0.77 or 0.1 * scale
    for _ in range(20):
        part = ordered[slice(*np.searchsorted(ordered, (level - tolerance, level + tolerance)))]
        if not part.size:
            break
        level, before = float(np.median(part)), tolerance
        tolerance = max(_DEVIATIONS * float(part.std()), _FAINT * scale)
        if np.isclose(before, tolerance):
            break
    return level, tolerance


def _in_noise(image: np.ndarray, where: np.ndarray, level: float, tolerance: float, scale: float) -> Background:
    """What stands out of the noise in large pieces, with the dark tissue that they enclose."""
    faint = tolerance <= _FAINT_RIM * scale
    if faint:
        tolerance = max(tolerance, _ringing(image, level, tolerance, scale))
        faint = tolerance <= _FAINT_RIM * scale
    distance = np.abs(image.astype(np.float32) - np.float32(level))
    tissue = _large_pieces(where & (distance > tolerance))
    if not faint:
        padded = np.pad(tissue, _CLOSING)
        closed = ndimage.binary_closing(padded, iterations=_CLOSING)
        # Gaps are closed where tissue is dark, not where there is noise.
        tissue |= closed[tuple(slice(_CLOSING, -_CLOSING) for _ in range(3))] & (distance > tolerance / 2)
    return Background("noise", level, tolerance, _without_holes(tissue, distance > tolerance / 2, faint))


def _ringing(image: np.ndarray, level: float, tolerance: float, scale: float) -> float:
    """How far a spline swings about the background beside a sharp edge; 0 where nothing suggests it.

    It swings below the background as well as above it, where tissue is on one side alone.
    """
    beyond = _thinned(image).astype(np.float64) - level
    above, below = beyond[beyond > tolerance], -beyond[beyond < -tolerance]
    fewer = min(above, below, key=len)
    if not 0.01 <= fewer.size / max(1, above.size + below.size) <= 0.25:
        return 0.0
    return min(float(np.percentile(fewer, 99)), 0.15 * scale)


def _large_pieces(mask: np.ndarray) -> np.ndarray:
    """Connected parts of at least a hundredth of the largest, without single voxels that stick out of them."""
    neighbours = ndimage.convolve(
        mask.view(np.uint8), ndimage.generate_binary_structure(3, 1).view(np.uint8), mode="constant"
    )
    mask = mask & (neighbours > 2)
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (sizes >= max(1, 0.01 * sizes.max()))[pieces] & mask


def _without_holes(mask: np.ndarray, signal: np.ndarray, faint: bool) -> np.ndarray:
    """Fill what a slice encloses: small holes, and in real noise larger ones with more ``signal`` than noise has."""
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1, 1, :] = in_plane[1, :, 1] = True
    gaps, count = ndimage.label(~mask, in_plane)
    sizes = np.bincount(gaps.ravel(), minlength=count + 1)
    outside = sizes > _LARGEST_HOLE
    if not faint:
        outside &= np.bincount(gaps.ravel(), signal.ravel(), minlength=count + 1) < 0.05 * sizes
    for edge in (gaps[:, 0], gaps[:, -1], gaps[:, :, 0], gaps[:, :, -1]):
        outside[np.unique(edge)] = True
    outside[0] = False
    filled: np.ndarray = ~outside[gaps]
    return filled
