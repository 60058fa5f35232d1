"""The slices that are classified: which slices of which cases, of which class, as square images and in batches."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from metaseg.errors import DataError, UsageError
from metaseg.sampling import class_balanced_draw, tumour_slices
from metaseg.store.store import SliceStore
from metaseg.store.stored_case import StoredCase, foreground
from metaseg.training.augment import Augmentation
from metaseg.training.loop import Batch

HEAD_FRACTION = 0.5
"""A slice of a volume without outline has a say if it shows at least this fraction of the head's largest cut."""


@dataclass(frozen=True, eq=False)
class ClassifiedSlices:
    """Slices with their classes; a subset of them is of the same kind and shares what was read.

    Attributes:
        store: The prepared cases.
        owners: Position of each slice's case in ``store``, ``(n,)``.
        indices: Its stored index in the case, ``(n,)``.
        labels: Its class, ``(n,)`` of ``int64``; -1 where it is not known.
        classes: Names of the classes, in order.
        modalities: Input modalities, in order.
        input_size: Height and width of the images in pixels.
        rows: Position of each slice in ``pixels``, ``(n,)``.
        pixels: What was read so far.
    """

    store: SliceStore
    owners: np.ndarray
    indices: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    input_size: int
    rows: np.ndarray
    pixels: _Pixels

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def patients(self) -> np.ndarray:
        """The patient of each slice, ``(n,)``."""
        return np.array([case.patient for case in self.store])[self.owners]

    @property
    def case_ids(self) -> np.ndarray:
        """The case of each slice, ``(n,)``."""
        return np.array([case.id for case in self.store])[self.owners]

    @property
    def ids(self) -> list[str]:
        """A name for each slice: its case's id, and its place in the canonical volume where there are several."""
        cases = self.store.cases
        return [
            cases[owner].id if cases[owner].num_slices == 1 else f"{cases[owner].id}#{cases[owner].native_slice(index)}"
            for owner, index in zip(self.owners, self.indices, strict=True)
        ]

    @property
    def one_hot(self) -> np.ndarray:
        """The classes as ``(n, classes)`` of 0 and 1; as areas they let the sampler core balance them."""
        return (self.labels[:, None] == np.arange(len(self.classes))).astype(np.int64)

    def take(self, positions: Sequence[int] | np.ndarray) -> ClassifiedSlices:
        """The slices at ``positions``, in that sequence."""
        chosen = np.asarray(positions, dtype=np.int64)
        return replace(
            self,
            owners=self.owners[chosen],
            indices=self.indices[chosen],
            labels=self.labels[chosen],
            rows=self.rows[chosen],
        )

    def with_labels(self, labels: np.ndarray) -> ClassifiedSlices:
        """The same slices with other classes, ``(n,)``."""
        return replace(self, labels=np.asarray(labels, dtype=np.int64))

    def of_cases(self, ids: Sequence[str]) -> ClassifiedSlices:
        """The slices of some cases."""
        return self.take(np.flatnonzero(np.isin(self.case_ids, list(ids))))

    def images(self, positions: Sequence[int] | np.ndarray) -> Tensor:
        """Images of slices.

        Args:
            positions: Which, in order.

        Returns:
            ``(len(positions), modality, input_size, input_size)``, ``float32``: z-scores of the foreground in half
            precision, 0 in the background.
        """
        chosen = np.asarray(positions, dtype=np.int64)
        rows = self.rows[chosen]
        for position in chosen[~self.pixels.filled[rows]]:
            case = self.store.cases[self.owners[position]]
            self.pixels.fill(
                self.rows[position],
                square_images(case, [int(self.indices[position])], self.modalities, self.input_size)[0],
            )
        return torch.from_numpy(self.pixels.values[rows].astype(np.float32))

    @property
    def cases(self) -> list[StoredCase]:
        """The cases that the slices are of, in the store's order."""
        return [self.store.cases[owner] for owner in np.unique(self.owners)]

    def absent_classes(self) -> list[str]:
        """The classes of which there is no slice."""
        return [name for name, count in self.counts().items() if not count]

    def counts(self) -> dict[str, int]:
        """Slices of each class."""
        return {name: int(np.sum(self.labels == number)) for number, name in enumerate(self.classes)}


class _Pixels:
    """Images that were read, kept in half precision: reading and shrinking a slice takes longer than using it."""

    def __init__(self, count: int, channels: int, size: int) -> None:
        # The system gives memory only to what is written.
        self.values = np.empty((count, channels, size, size), dtype=np.float16)
        self.filled = np.zeros(count, dtype=bool)

    def fill(self, row: int, image: Tensor) -> None:
        self.values[row] = image.numpy()
        self.filled[row] = True


def square_images(case: StoredCase, slices: Sequence[int], modalities: Sequence[str], size: int) -> Tensor:
    """Slices of a case as square images: the head's box, widened to a square with background, brought to ``size``.

    Args:
        case: The case.
        slices: Stored indices.
        modalities: Modalities, in order.
        size: Height and width wanted, in pixels.

    Returns:
        ``(len(slices), modality, size, size)``, ``float32``.
    """
    images = torch.from_numpy(case.images(list(slices), modalities))
    height, width = images.shape[2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    images = F.pad(images, (left, side - width - left, top, side - height - top))
    if side != size:
        images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=side > size)
    return images


def head_slices(case: StoredCase, fraction: float = HEAD_FRACTION) -> np.ndarray:
    """Slices of a volume that show at least ``fraction`` of the head's largest cut; all of separate images."""
    if case.info.geometry.planar or case.num_slices == 1:
        return np.arange(case.num_slices)
    raw = case.raw_images
    areas = np.array(
        [np.count_nonzero(np.any(foreground(raw[index], case.info.background), axis=0)) for index in range(len(raw))]
    )
    return np.flatnonzero(areas >= fraction * areas.max())


def choose_slices(case: StoredCase, count: int | None, method: str, seed: int) -> np.ndarray:
    """Slices of a case that are classified: those with tumour, or all where single images have no outline.

    Args:
        case: The case.
        count: How many; None for all.
        method: ``even`` or ``random``.
        seed: Of the random choice, which also depends on the case's id alone.

    Raises:
        DataError: It is a volume without outline, or without tumour.
    """
    rng = np.random.default_rng([seed, 7, zlib.crc32(case.id.encode())])
    if not case.info.labelled:
        if not case.info.geometry.planar:
            raise DataError(
                f"case {case.id} has no outline, so that it is not known which slices show tumour",
                where=case.folder,
                expected="a label for each volume",
                remedy="outline it roughly, or leave it out",
            )
        areas = np.ones(case.num_slices, dtype=np.int64)
    else:
        areas = case.areas()[:, 1:].sum(axis=1)
    if not np.any(areas):
        raise DataError(f"case {case.id} shows no tumour", where=case.folder, remedy="leave the case out")
    wanted = int(np.count_nonzero(areas)) if count is None else count
    return tumour_slices(areas, wanted, method="random" if method == "random" else "even", rng=rng)


def classified_slices(
    store: SliceStore,
    labels: Sequence[int],
    slices: Sequence[np.ndarray],
    classes: tuple[str, ...],
    modalities: tuple[str, ...],
    input_size: int,
) -> ClassifiedSlices:
    """Make the table of slices.

    Args:
        store: The cases.
        labels: Class of each case; -1 where it is not known.
        slices: Stored indices of each case's slices.
        classes: Names of the classes.
        modalities: Input modalities.
        input_size: Height and width of the images.

    Raises:
        UsageError: There is no slice.
    """
    counts = [len(chosen) for chosen in slices]
    total = sum(counts)
    if not total:
        raise UsageError("there are no slices to classify", remedy="check --data, --classes and --slices-per-case")
    return ClassifiedSlices(
        store=store,
        owners=np.repeat(np.arange(len(store)), counts),
        indices=np.concatenate(list(slices)).astype(np.int64),
        labels=np.repeat(np.asarray(labels, dtype=np.int64), counts),
        classes=classes,
        modalities=modalities,
        input_size=input_size,
        rows=np.arange(total),
        pixels=_Pixels(total, len(modalities), input_size),
    )


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
        drawn = balanced_draw(self.slices.one_hot, count, rng) if self.balance else rng.permutation(count)
        return np.resize(drawn, self.steps_per_epoch * self.batch_size)

    def draw(self, step: int, rows: slice = slice(None)) -> Batch:
        """Images ``(batch, modality, height, width)`` and classes ``(batch,)`` of one step, counted from 0.

        With ``rows`` only those of the batch; the others are then not even read.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        chosen = self._epoch(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        seeds = np.random.default_rng([self.seed, 2, step]).integers(2**31, size=len(chosen))
        images = augmented_images(self.slices.images(chosen[rows]), seeds[rows], self.augmentation)
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


def augmented_images(images: torch.Tensor, seeds: np.ndarray, augmentation: Augmentation) -> torch.Tensor:
    """Change images ``(batch, modality, height, width)``, each by its own seed ``(batch,)``."""
    if augmentation.strength == "none":
        return images
    nothing = np.zeros(images.shape[2:], dtype=np.uint8)
    return torch.stack(
        [augmentation(image.numpy(), nothing, int(seed))[0] for image, seed in zip(images, seeds, strict=True)]
    )
