"""Augmentation by imaginary scanners: each modality of a slice gets its own contrast, gamma, offset and drift.

After z-scoring, one tissue still differs widely between centres: over twelve BraTS patients the mean FLAIR of enhancing
tumour lay between 0.35 and 4.5 standard deviations. A network that has seen a handful of patients must not trust it.
"""

from __future__ import annotations

import numpy as np
import torch
from monai.transforms import MapTransform
from monai.transforms.transform import Randomizable
from torch import Tensor

LOW, HIGH = -3.0, 6.0
"""Range of z-scores over which gamma bends; values outside are clipped when it does."""


class RandScannerd(MapTransform, Randomizable):
    """Gain, gamma, offset and smooth drift, drawn anew for each modality.

    Args:
        keys: Key of z-scored images ``(modality, height, width)``.
        gain: Range of the contrast's factor, drawn log-uniformly.
        gamma: Range of the exponent, drawn log-uniformly; z = 0 stays where it is, with unchanged slope.
        offset: Largest shift, in standard deviations.
        drift: Largest coefficient of a quadratic drift over the slice, in standard deviations.
        prob_gain: Probability of a new contrast, for each modality.
        prob_gamma: Probability of a gamma.
        prob_offset: Probability of a shift.
        prob_drift: Probability of a drift.
    """

    def __init__(
        self,
        keys: str,
        gain: tuple[float, float],
        gamma: tuple[float, float],
        offset: float,
        drift: float,
        prob_gain: float = 0.8,
        prob_gamma: float = 0.5,
        prob_offset: float = 0.8,
        prob_drift: float = 0.3,
    ) -> None:
        MapTransform.__init__(self, keys)
        self.gain, self.gamma, self.offset, self.drift = gain, gamma, offset, drift
        self.prob_gain, self.prob_gamma = prob_gain, prob_gamma
        self.prob_offset, self.prob_drift = prob_offset, prob_drift

    def __call__(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Change the images of one sample."""
        out = dict(data)
        for key in map(str, self.keys):
            out[key] = torch.stack([self._modality(image) for image in out[key]])
        return out

    def _modality(self, image: Tensor) -> Tensor:
        # Every number is drawn whether it is used or not, so that one probability does not shift the others' draws.
        chance, gain, gamma = self.R.random(4), self._log_uniform(self.gain), self._log_uniform(self.gamma)
        offset, drift = self.R.uniform(-self.offset, self.offset), self.R.uniform(-self.drift, self.drift, 5)
        if chance[0] < self.prob_gamma:
            image = bend(image, gamma)
        if chance[1] < self.prob_gain:
            image = image * gain
        if chance[2] < self.prob_offset:
            image = image + offset
        if chance[3] < self.prob_drift:
            image = image + quadratic(image.shape[-2], image.shape[-1], drift).to(image)
        return image

    def _log_uniform(self, limits: tuple[float, float]) -> float:
        return float(np.exp(self.R.uniform(np.log(limits[0]), np.log(limits[1]))))


def bend(image: Tensor, gamma: float) -> Tensor:
    """Raise z-scores, clipped to [-3, 6] and scaled to [0, 1], to a power, keeping value and slope at z = 0."""
    pivot = -LOW / (HIGH - LOW)
    share = (image.clamp(LOW, HIGH) - LOW) / (HIGH - LOW)
    slope = gamma * pivot ** (gamma - 1) / (HIGH - LOW)
    return (share.clamp_min(1e-4) ** gamma - pivot**gamma) / slope


def quadratic(height: int, width: int, coefficients: np.ndarray) -> Tensor:
    """A smooth field ``(height, width)`` of about zero mean: x, y, xy, x² and y² over [-1, 1], weighted."""
    rows = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    columns = torch.linspace(-1, 1, width)[None].expand(height, width)
    terms = (columns, rows, rows * columns, columns**2 - 1 / 3, rows**2 - 1 / 3)
    return torch.stack([float(c) * term for c, term in zip(coefficients, terms, strict=True)]).sum(dim=0)
