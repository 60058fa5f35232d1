"""Batches of training slices out of a slice store, each a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from metaseg.cases.labels import LabelSpace
from metaseg.sampling import foreground_epoch
from metaseg.store.store import SliceStore
from metaseg.training.augment import Augmentation
from metaseg.training.loop import Batch


def default_window(store: SliceStore, multiple: int = 16) -> tuple[int, int]:
    """Median height and width of the stored slices, each rounded up to a multiple of ``multiple``."""
    sizes = np.array([case.info.shape[1:] for case in store])
    height, width = (int(-(-value // multiple) * multiple) for value in np.median(sizes, axis=0))
    return height, width


def fit_window(array: np.ndarray, window: tuple[int, int], corner: tuple[float, float]) -> np.ndarray:
    """Crop or zero-pad the last two axes to a window.

    Args:
        array: ``(..., height, width)``.
        window: Wanted height and width.
        corner: Where the window lies where it is smaller, and where the image lies where it is smaller, as a
            fraction in [0, 1] of the play; 0.5 centres.

    Returns:
        ``(..., window height, window width)``.
    """
    for axis, (wanted, fraction) in enumerate(zip(window, corner, strict=True)):
        position = array.ndim - 2 + axis
        size = array.shape[position]
        if size > wanted:
            start = round((size - wanted) * fraction)
            array = np.take(array, np.arange(start, start + wanted), axis=position)
        elif size < wanted:
            before = round((wanted - size) * fraction)
            padding = [(0, 0)] * array.ndim
            padding[position] = (before, wanted - size - before)
            array = np.pad(array, padding)
    return np.ascontiguousarray(array)


class TrainingSlices:
    """Tumour-aware, augmented batches of a store's slices.

    Args:
        store: Labelled cases.
        modalities: Input modalities, in order.
        space: Label space to learn.
        window: Height and width of the slices of a batch.
        batch_size: Slices of a batch.
        slices_per_epoch: Slices that are drawn together; see :func:`metaseg.sampling.foreground_epoch`.
        foreground_fraction: Fraction of them drawn for their tumour classes.
        augmentation: What happens to each.
        seed: Seed of all draws.
    """

    def __init__(
        self,
        store: SliceStore,
        modalities: Sequence[str],
        space: LabelSpace,
        window: tuple[int, int],
        batch_size: int,
        slices_per_epoch: int,
        foreground_fraction: float,
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self.store, self.modalities, self.space, self.window = store, tuple(modalities), space, window
        self.batch_size, self.slices_per_epoch, self.foreground_fraction = (
            batch_size,
            slices_per_epoch,
            foreground_fraction,
        )
        self.augmentation, self.seed = augmentation, seed
        # Slices that nobody outlined are not drawn: they would count as background.
        self.areas = np.concatenate([case.areas(space)[case.outlined, 1:] for case in store])
        self.owners = np.concatenate([np.full(len(case.outlined), number) for number, case in enumerate(store)])
        self.indices = np.concatenate([case.outlined for case in store])
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch; at least one."""
        return max(1, self.slices_per_epoch // self.batch_size)

    def _draw_epoch(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 1, epoch])
        count = self.steps_per_epoch * self.batch_size
        return foreground_epoch(self.areas, count, self.foreground_fraction, rng)

    def draw(self, step: int, rows: slice = slice(None)) -> Batch:
        """The batch of one step, counted from 0, or some rows of it; the others are then not even read."""
        epoch, position = divmod(step, self.steps_per_epoch)
        chosen = self._epoch(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        rng = np.random.default_rng([self.seed, 2, step])
        draws = [((float(rng.random()), float(rng.random())), int(rng.integers(2**31))) for _ in chosen]
        slices = [self._slice(int(row), *draw) for row, draw in list(zip(chosen, draws, strict=True))[rows]]
        return torch.stack([image for image, _ in slices]), torch.stack([label for _, label in slices])

    def _slice(self, row: int, corner: tuple[float, float], seed: int) -> Batch:
        case, index = self.store.cases[self.owners[row]], [int(self.indices[row])]
        image = fit_window(case.images(index, self.modalities)[0], self.window, corner)
        label = fit_window(case.labels(index, self.space)[0], self.window, corner)
        return self.augmentation(image, label, seed)
