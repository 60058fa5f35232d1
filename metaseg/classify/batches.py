"""Batches of slices for the loop, each a pure function of the seed and the step; drawn by the sampler core."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from metaseg.classify.slices import ClassifiedSlices
from metaseg.sampling import Pool, class_balanced_draw, order_slices
from metaseg.training.augment import Augmentation
from metaseg.training.loop import Batch


class SliceBatches:
    """Augmented batches of labelled slices.

    Args:
        slices: Labelled slices of the training part.
        batch_size: Slices of a batch. An epoch's last batch is filled up from its beginning, so that all are full.
        balance: Draw all classes equally often; otherwise an epoch is a shuffle of all slices.
        augmentation: What happens to each.
        seed: Seed of all draws.
    """

    def __init__(
        self, slices: ClassifiedSlices, batch_size: int, balance: bool, augmentation: Augmentation, seed: int
    ) -> None:
        self.slices, self.balance, self.augmentation, self.seed = slices, balance, augmentation, seed
        # Batch normalisation cannot train on one image: a single slice comes twice.
        self.batch_size = max(2, min(batch_size, len(slices)))
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every slice comes once."""
        return -(-len(self.slices) // self.batch_size)

    def _draw_epoch(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 1, epoch])
        count = len(self.slices)
        if self.balance:
            drawn = balanced_draw(self.slices.one_hot, count, rng)
        else:
            drawn = order_slices("passive", Pool(index=np.arange(count)), rng)
        return np.resize(drawn, self.steps_per_epoch * self.batch_size)

    def draw(self, step: int, rows: slice = slice(None)) -> Batch:
        """Images ``(batch, modality, height, width)`` and classes ``(batch,)`` of one step, counted from 0.

        With ``rows`` only those of the batch; the others are then not even read.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        chosen = self._epoch(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        seeds = np.random.default_rng([self.seed, 2, step]).integers(2**31, size=len(chosen))
        images = augmented(self.slices.images(chosen[rows]), seeds[rows], self.augmentation)
        return images, torch.from_numpy(self.slices.labels[chosen[rows]])


def balanced_draw(one_hot: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw slices so that all classes that occur come equally often, those of rare classes again and again.

    The sampler core's balanced draw repeats nothing before all is drawn: a whole pass of it has the classes as they
    are. It is begun anew as soon as the rarest class is used up.

    Args:
        one_hot: Class of each slice, ``(n, classes)`` of 0 and 1.
        count: Draws.
        rng: The source of randomness.

    Returns:
        Positions, ``(count,)``.
    """
    of_class = one_hot.sum(axis=0)
    occurring = one_hot[:, of_class > 0]
    turn = int(of_class[of_class > 0].min()) * occurring.shape[1]
    passes = [class_balanced_draw(occurring, min(turn, count - begun), rng) for begun in range(0, count, turn)]
    return np.concatenate(passes)


def augmented(images: torch.Tensor, seeds: np.ndarray, augmentation: Augmentation) -> torch.Tensor:
    """Change images ``(batch, modality, height, width)``, each by its own seed ``(batch,)``."""
    if augmentation.strength == "none":
        return images
    nothing = np.zeros(images.shape[2:], dtype=np.uint8)
    return torch.stack(
        [augmentation(image.numpy(), nothing, int(seed))[0] for image, seed in zip(images, seeds, strict=True)]
    )
