"""Augmentation of training slices by MONAI's transforms, seeded by the caller."""

from __future__ import annotations

import threading

import numpy as np
import torch
from monai.data.meta_obj import set_track_meta
from monai.transforms import (
    Compose,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
)
from monai.transforms.spatial.dictionary import RandSimulateLowResolutiond
from monai.transforms.transform import Transform
from torch import Tensor

from metaseg.training.reseeding import SeededChain
from metaseg.training.scanner_augment import RandScannerd


def _spatial(strength: str) -> list[Transform]:
    both = ("image", "label")
    if strength == "none":
        return []
    flips: list[Transform] = [RandFlipd(both, prob=0.5, spatial_axis=0), RandFlipd(both, prob=0.5, spatial_axis=1)]
    if strength == "light":
        return flips
    affine = RandAffined(
        both,
        prob=0.9,
        rotate_range=0.45,
        scale_range=(-0.25, 0.3),
        shear_range=0.1,
        translate_range=8,
        mode=("bilinear", "nearest"),
        padding_mode="zeros",
    )
    return [*flips, affine]


def _intensity(strength: str) -> list[Transform]:
    if strength != "full":
        return []
    return [
        RandScannerd("image", gain=(0.7, 1.4), gamma=(0.6, 1.6), offset=0.4, drift=0.3),
        RandGaussianSmoothd("image", prob=0.25, sigma_x=(0.4, 1.1), sigma_y=(0.4, 1.1)),
        RandSimulateLowResolutiond(
            "image", prob=0.25, zoom_range=(0.5, 0.9), downsample_mode="nearest", upsample_mode="bilinear"
        ),
        RandGaussianNoised("image", prob=0.25, std=0.2, sample_std=True),
    ]


class _Chains(threading.local):
    """Spatial and intensity transforms, made anew for each thread: MONAI's hold what they have drawn."""

    def __init__(self, strength: str) -> None:
        self.spatial = SeededChain(Compose(_spatial(strength)))
        self.intensity = SeededChain(Compose(_intensity(strength)))


class Augmentation:
    """Spatial, then intensity changes of one slice; the background stays 0, as the network will always see it.

    Args:
        strength: ``full``, ``light`` (flips only) or ``none``.

    Attributes:
        strength: As given.
        chains: The transforms; each thread sees its own.
    """

    def __init__(self, strength: str) -> None:
        self.strength = strength
        # Slices are plain tensors here: MONAI's metadata would only be carried along.
        set_track_meta(False)
        self.chains = _Chains(strength)

    def __call__(self, image: np.ndarray, label: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
        """Change one slice.

        Args:
            image: ``(modality, height, width)`` normalised intensities.
            label: ``(height, width)`` classes.
            seed: Decides every draw.

        Returns:
            Image ``(modality, height, width)`` ``float32`` and classes ``(height, width)`` ``uint8``.
        """
        sample = {"image": torch.from_numpy(image), "label": torch.from_numpy(label.astype(np.float32))[None]}
        self.chains.spatial.seed(seed)
        self.chains.intensity.seed(seed ^ 0x5EED)
        sample = self.chains.spatial.chain(sample)
        background = sample["image"] == 0
        sample = self.chains.intensity.chain(sample)
        return sample["image"].masked_fill(background, 0.0).float(), sample["label"][0].to(torch.uint8)
