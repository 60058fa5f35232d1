"""Overlap of two label maps, by counting: one joint histogram holds every Dice and adds up over slices.

Boxes around masks are here too: distances and lesions are computed inside them, not on the whole volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Box = tuple[slice, ...]
BLOCK = 1 << 16
"""Voxels that are counted together."""


class ClassCounts(NamedTuple):
    """Voxel counts per class; additive, so the counts of a volume are the sum of those of its slices.

    Attributes:
        intersection: Voxels of the class in both maps, ``(..., classes)``.
        label: Voxels of the class in the label, ``(..., classes)``.
        predicted: Voxels of the class in the prediction, ``(..., classes)``.
    """

    intersection: np.ndarray
    label: np.ndarray
    predicted: np.ndarray

    def dice(self) -> np.ndarray:
        """Dice per class, see :func:`dice_from_counts`."""
        return dice_from_counts(self.intersection, self.label, self.predicted)


def joint_histogram(label: np.ndarray, prediction: np.ndarray, num_classes: int, per_slice: bool = False) -> np.ndarray:
    """Count how often each label class meets each predicted class.

    Args:
        label: Class values ``(slices, height, width)``, or of any shape with ``per_slice=False``; whole numbers.
        prediction: Class values of the same shape.
        num_classes: Number of classes with the background.
        per_slice: Count every entry of the first axis by itself.

    Returns:
        ``int64`` array ``(label class, predicted class)``, or ``(slices, label class, predicted class)``.

    Raises:
        ValueError: The shapes differ, or a value is not in ``0 .. num_classes - 1``.
    """
    if label.shape != prediction.shape:
        raise ValueError(f"label {label.shape} and prediction {prediction.shape} differ in shape")
    cells = num_classes * num_classes
    slices = label.shape[0] if per_slice else 1
    for name, array in (("label", label), ("prediction", prediction)):
        # A value outside would silently be counted as another pair of classes.
        if array.size and (array.min() < 0 or array.max() >= num_classes):
            raise ValueError(f"{name} holds values outside 0 .. {num_classes - 1}")
    rows = zip(label.reshape(slices, -1), prediction.reshape(slices, -1), strict=True)
    count = _count_bytes if label.dtype == prediction.dtype == np.uint8 and cells <= 256 else _count_any
    counts = np.array([count(*row, num_classes) for row in rows], dtype=np.int64)
    return counts.reshape((slices, num_classes, num_classes) if per_slice else (num_classes, num_classes))


def _count_any(label: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """How often each pair of classes occurs in two flat maps, ``(classes * classes,)``."""
    code = label.astype(np.intp)
    code *= num_classes
    code += prediction.astype(np.intp)
    return np.bincount(code, minlength=num_classes * num_classes)


def _count_bytes(label: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """:func:`_count_any` of ``uint8`` maps, in blocks that stay in the CPU's cache.

    Most voxels are background in both maps. Eight at a time these are left out by a look at the words of the codes.
    """
    counts = np.zeros(num_classes * num_classes, dtype=np.int64)
    for start in range(0, label.size, BLOCK):
        code = label[start : start + BLOCK] * np.uint8(num_classes)
        code += prediction[start : start + BLOCK]
        whole = code.size // 8 * 8
        words = code[:whole].view(np.uint64)
        busy = np.append(words[words != 0].view(np.uint8), code[whole:])
        counts += np.bincount(busy, minlength=len(counts))
        counts[0] += code.size - busy.size
    return counts


def counts_from_histogram(histogram: np.ndarray) -> ClassCounts:
    """Counts of every class, from a joint histogram ``(..., label class, predicted class)``."""
    return ClassCounts(np.diagonal(histogram, axis1=-2, axis2=-1).copy(), histogram.sum(-1), histogram.sum(-2))


def class_counts(label: np.ndarray, prediction: np.ndarray, num_classes: int, per_slice: bool = False) -> ClassCounts:
    """Intersection, label area and predicted area of every class, background included.

    Args:
        label: Class values ``(slices, height, width)``, or of any shape with ``per_slice=False``.
        prediction: Class values of the same shape.
        num_classes: Number of classes with the background.
        per_slice: Count every entry of the first axis by itself.

    Returns:
        Counts ``(classes,)``, or ``(slices, classes)`` with ``per_slice=True``; the latter sum to the former.

    Raises:
        ValueError: The shapes differ, or a value is not a class.

    Examples:
        >>> label, prediction = np.array([[0, 1, 1, 2]]), np.array([[0, 1, 2, 2]])
        >>> class_counts(label, prediction, 3).dice().round(2).tolist()
        [1.0, 0.67, 0.67]
    """
    return counts_from_histogram(joint_histogram(label, prediction, num_classes, per_slice))


def region_counts(
    histogram: np.ndarray, values: Sequence[int], predicted_values: Sequence[int] | None = None
) -> ClassCounts:
    """Counts of a region that unites several classes, from a joint histogram ``(..., label, predicted)``.

    Args:
        histogram: From :func:`joint_histogram`.
        values: Class values of the region, such as ``(1, 3)`` for the tumour core.
        predicted_values: The same of the prediction, where its classes are others than the label's.

    Returns:
        Counts of shape ``histogram.shape[:-2]``.
    """
    predicted = list(values if predicted_values is None else predicted_values)
    rows, columns = histogram[..., list(values), :], histogram[..., :, predicted]
    return ClassCounts(rows[..., predicted].sum((-2, -1)), rows.sum((-2, -1)), columns.sum((-2, -1)))


def dice_from_counts(intersection: np.ndarray, label: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Dice coefficient 2 |A ∩ B| / (|A| + |B|) from counts.

    Args:
        intersection: Voxels in both, any shape.
        label: Voxels in the label, same shape.
        predicted: Voxels in the prediction, same shape.

    Returns:
        ``float64`` array of that shape with values in [0, 1]; 0 where only one of both is empty, NaN where both are.

    Examples:
        >>> float(dice_from_counts(np.array(6), np.array(8), np.array(10)).round(3))
        0.667
    """
    total = np.asarray(label, dtype=np.float64) + np.asarray(predicted, dtype=np.float64)
    dice = np.full(total.shape, np.nan)
    np.divide(2.0 * np.asarray(intersection, dtype=np.float64), total, out=dice, where=total > 0)
    return dice


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
