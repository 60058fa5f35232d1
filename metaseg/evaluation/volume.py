"""From the probabilities of a case's stored slices to class maps on the whole grid of its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from torch import nn

from metaseg.evaluation.inference import Autocast, predict_most_probable, predict_probabilities
from metaseg.store.stored_case import StoredCase


@dataclass(frozen=True)
class CaseSegmentation:
    """What a network sees in a whole case.

    Attributes:
        classes: Class values ``(slices, height, width)``, ``uint8``, on the full canonical grid.
        kept: Class to its probabilities ``(slices, height, width)``, ``float32``, on the stored grid.
    """

    classes: np.ndarray
    kept: Mapping[int, np.ndarray]


def segment_case(
    model: nn.Module,
    case: StoredCase,
    modalities: Sequence[str],
    keep: Sequence[int] = (),
    *,
    tta: bool = False,
    batch_size: int = 8,
    autocast: Autocast = nullcontext,
) -> CaseSegmentation:
    """Most probable class of every voxel of the full canonical grid; background outside the stored crop.

    Where slices were shrunk for the store, probabilities are brought to the full size before the class is chosen.

    Args:
        model: The network.
        case: The prepared case.
        modalities: The network's input modalities, in order.
        keep: Classes whose probabilities are wanted as well.
        tta: Average over flips.
        batch_size: Slices of one forward pass.
        autocast: Makes the context of mixed precision.
    """
    (z0, z1), (y0, y1), (x0, x1) = case.info.crop
    if case.info.shape[1:] != (y1 - y0, x1 - x0):
        maps = predict_probabilities(model, case, modalities, tta=tta, batch_size=batch_size, autocast=autocast)
        classes = case.restore(maps).argmax(axis=0).astype(np.uint8)
        return CaseSegmentation(classes, {value: maps[value] for value in keep})
    stored, kept = predict_most_probable(
        model, case, modalities, keep, tta=tta, batch_size=batch_size, autocast=autocast
    )
    classes = np.zeros(case.info.geometry.canonical_shape, dtype=np.uint8)
    classes[z0:z1, y0:y1, x0:x1] = stored
    return CaseSegmentation(classes, dict(zip(keep, kept, strict=True)))


def full_probabilities(case: StoredCase, maps: Mapping[int, np.ndarray]) -> Iterator[np.ndarray]:
    """Class probabilities on the full canonical grid, one class after the other; all background outside the crop.

    Args:
        case: The prepared case.
        maps: Every class's probabilities ``(slices, height, width)`` on the stored grid.

    Yields:
        ``(slices, height, width)``, ``float32``.
    """
    (z0, z1), (y0, y1), (x0, x1) = case.info.crop
    if case.info.shape[1:] != (y1 - y0, x1 - x0):
        yield from case.restore(np.stack([maps[value] for value in sorted(maps)]))
        return
    for value in sorted(maps):
        full = np.full(case.info.geometry.canonical_shape, 0.0 if value else 1.0, dtype=np.float32)
        full[z0:z1, y0:y1, x0:x1] = maps[value]
        yield full


def predict_class_map(
    model: nn.Module,
    case: StoredCase,
    modalities: Sequence[str],
    *,
    tta: bool = False,
    batch_size: int = 8,
    autocast: Autocast = nullcontext,
) -> np.ndarray:
    """The classes of :func:`segment_case` alone."""
    return segment_case(model, case, modalities, tta=tta, batch_size=batch_size, autocast=autocast).classes


def full_image(case: StoredCase, modality: str) -> np.ndarray:
    """Intensities of one modality on the full canonical grid, for pictures: 0 outside the stored crop.

    Returns:
        ``(slices, height, width)``, ``float32``; enlarged bilinearly where slices were shrunk for the store.
    """
    from skimage.transform import resize

    (z0, z1), (y0, y1), (x0, x1) = case.info.crop
    (channel,) = case.channels((modality,))
    stored = np.asarray(case.raw_images[:, channel], dtype=np.float32)
    if stored.shape[1:] != (y1 - y0, x1 - x0):
        stored = resize(stored, (len(stored), y1 - y0, x1 - x0), order=1, mode="edge", preserve_range=True)
    image = np.zeros(case.info.geometry.canonical_shape, dtype=np.float32)
    image[z0:z1, y0:y1, x0:x1] = stored
    return image
