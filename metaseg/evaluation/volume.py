"""From the probabilities of a case's stored slices to class maps on the whole grid of its files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
from torch import nn

from metaseg.evaluation.inference import Autocast, predict_probabilities
from metaseg.store.stored_case import StoredCase


def class_map(case: StoredCase, probabilities: np.ndarray) -> np.ndarray:
    """Most probable class of every voxel of the full canonical grid; background outside the stored crop.

    Where slices were shrunk for the store, probabilities are brought to the full size before the class is chosen.

    Args:
        case: The prepared case.
        probabilities: ``(class, slices, height, width)`` on the stored grid.

    Returns:
        ``(slices, height, width)``, ``uint8``.
    """
    (z0, z1), (y0, y1), (x0, x1) = case.info.crop
    if probabilities.shape[2:] != (y1 - y0, x1 - x0):
        return case.restore(probabilities).argmax(axis=0).astype(np.uint8)
    classes = np.zeros(case.info.geometry.canonical_shape, dtype=np.uint8)
    classes[z0:z1, y0:y1, x0:x1] = probabilities.argmax(axis=0)
    return classes


def predict_class_map(
    model: nn.Module,
    case: StoredCase,
    modalities: Sequence[str],
    *,
    tta: bool = False,
    batch_size: int = 8,
    autocast: Autocast = nullcontext,
) -> np.ndarray:
    """Predict a whole case: class values ``(slices, height, width)``, ``uint8``, on the full canonical grid.

    Args:
        model: The network.
        case: The prepared case.
        modalities: The network's input modalities, in order.
        tta: Average over flips.
        batch_size: Slices of one forward pass.
        autocast: Makes the context of mixed precision.
    """
    return class_map(
        case, predict_probabilities(model, case, modalities, tta=tta, batch_size=batch_size, autocast=autocast)
    )


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
