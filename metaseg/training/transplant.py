"""Transplants: the lesion of one slice pasted into another (after TumorCP, Yang et al. 2021).

A network that rehearses its source while it is tuned on a few patients can tell the two apart by anything: the shape
of a head, the plane, the scanner. A target lesion inside a source slice can only be found by what it looks like.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

MARGIN, SOFTNESS = 0.02, 0.01
"""Rim that comes along with a lesion and width of the blending, as shares of a slice's longer side."""


def transplant(
    image: Tensor, label: Tensor, donor_image: Tensor, donor_label: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Paste the lesion of a donor slice anywhere into the tissue of a slice.

    The lesion comes with a thin rim of what surrounds it and is blended in softly. It keeps within the tissue of both
    slices; background (0 in all modalities) remains background. What it covers of the slice's own lesion is gone.

    Args:
        image: Intensities ``(modality, height, width)`` of the slice that receives.
        label: Its classes ``(height, width)``, 0 for background.
        donor_image: Intensities of the donor, of the same shape.
        donor_label: Its classes.
        rng: Decides the place: any tissue pixel, as the lesion's new centre.

    Returns:
        New image and label; those of the slice as they are if it has no tissue or the donor no lesion, or if none of
        the lesion falls on tissue.
    """
    lesion, own = (donor_label > 0).numpy(), (image != 0).any(dim=0)
    places = own.nonzero().numpy()
    if not lesion.any() or not len(places):
        return image, label
    centre = np.rint(np.argwhere(lesion).mean(axis=0)).astype(int)
    down, right = places[rng.integers(len(places))] - centre
    shift, side = (int(down), int(right)), max(label.shape)
    rim = max(1, round(MARGIN * side))
    tissue = own & shifted((donor_image != 0).any(dim=0), shift)
    mask = shifted(torch.from_numpy(ndimage.binary_dilation(lesion, iterations=rim)), shift) & tissue
    donated = shifted(donor_label, shift)
    if not bool((donated[mask] > 0).any()):
        return image, label
    soft = torch.from_numpy(ndimage.gaussian_filter(mask.numpy().astype(np.float32), SOFTNESS * side)) * tissue
    return image.lerp(shifted(donor_image, shift), soft), torch.where(mask, donated, label)


def shifted(array: Tensor, shift: tuple[int, int]) -> Tensor:
    """An array whose last two axes are moved by whole pixels; what comes in from outside is 0."""
    (down, right), (height, width) = shift, array.shape[-2:]
    out = torch.zeros_like(array)
    if abs(down) < height and abs(right) < width:
        out[..., max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = array[
            ..., max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
        ]
    return out
