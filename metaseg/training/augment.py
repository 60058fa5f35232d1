"""Augmentation of training slices, seeded by the caller: MONAI's transforms, imaginary scanners and transplants."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import torch
from monai.data.meta_obj import set_track_meta
from monai.transforms import Compose, MapTransform, RandAffined, RandFlipd, RandGaussianNoised, RandGaussianSmoothd
from monai.transforms.spatial.dictionary import RandSimulateLowResolutiond
from monai.transforms.transform import Randomizable, Transform
from monai.utils.misc import MAX_SEED
from scipy import ndimage
from torch import Tensor


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


class SeededChain:
    """MONAI's random transforms in a row, seeded anew for every slice in a hundredth of the time that MONAI takes.

    ``set_random_state`` of a chain makes a generator for every transform, whose first state comes from the system
    before the seed replaces it: 180 µs each, together a third of augmenting a slice. Seeding the generators that are
    there gives the same states. One caller at a time may draw.

    Args:
        chain: MONAI's chain; its generators are replaced.
    """

    def __init__(self, chain: Compose) -> None:
        self.chain = chain
        # Before this, all transforms share one generator.
        chain.set_random_state(seed=0)
        self._drawing = [list(_within(part)) for part in chain.transforms if isinstance(part, Randomizable)]

    def seed(self, seed: int) -> None:
        """Bring every generator to the state that ``chain.set_random_state(seed)`` would give it.

        Args:
            seed: 0 or more.
        """
        self.chain.R.seed(seed % MAX_SEED)
        for drawing in self._drawing:
            own = int(self.chain.R.randint(MAX_SEED, dtype="uint32"))
            for transform in drawing:
                transform.R.seed(own % MAX_SEED)


def _within(transform: Randomizable) -> Iterator[Randomizable]:
    """A transform and those that it is made of, which MONAI all gives the same seed."""
    yield transform
    for value in vars(transform).values():
        if isinstance(value, Randomizable):
            yield from _within(value)


LOW, HIGH = -3.0, 6.0
"""Range of z-scores over which gamma bends; values outside are clipped when it does."""


class RandScannerd(MapTransform, Randomizable):
    """An imaginary scanner: gain, gamma, offset and smooth drift, drawn anew for each modality.

    After z-scoring, one tissue still differs widely between centres: over twelve BraTS patients the mean FLAIR of
    enhancing tumour lay between 0.35 and 4.5 standard deviations. A network that has seen a handful of patients must
    not trust it.

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
    scaled = (image.clamp(LOW, HIGH) - LOW) / (HIGH - LOW)
    slope = gamma * pivot ** (gamma - 1) / (HIGH - LOW)
    return (scaled.clamp_min(1e-4) ** gamma - pivot**gamma) / slope


def quadratic(height: int, width: int, coefficients: np.ndarray) -> Tensor:
    """A smooth field ``(height, width)`` of about zero mean: x, y, xy, x² and y² over [-1, 1], weighted."""
    rows = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    columns = torch.linspace(-1, 1, width)[None].expand(height, width)
    terms = (columns, rows, rows * columns, columns**2 - 1 / 3, rows**2 - 1 / 3)
    return torch.stack([float(c) * term for c, term in zip(coefficients, terms, strict=True)]).sum(dim=0)


MARGIN, SOFTNESS = 0.02, 0.01
"""Rim that comes along with a lesion and width of the blending, as fractions of a slice's longer side."""


def transplant(
    image: Tensor, label: Tensor, donor_image: Tensor, donor_label: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Paste the lesion of a donor slice anywhere into the tissue of a slice (after TumorCP, Yang et al. 2021).

    A network that rehearses its source while it is tuned on a few patients can tell the two apart by anything: the
    shape of a head, the plane, the scanner. A target lesion inside a source slice can only be found by what it looks
    like.

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
