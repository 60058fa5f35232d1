"""Class-balanced draws: for the naive baseline, as Han et al. 2018 have it, and for pretraining."""

from __future__ import annotations

import numpy as np

from metaseg.errors import UsageError
from metaseg.sampling.scores import IntArray


def class_balanced_draw(areas: np.ndarray, count: int, rng: np.random.Generator) -> IntArray:
    """Draw slices so that every class comes up equally often, without repeat within a pass.

    The classes take turns, the one in the fewest slices first; each turn draws, uniformly, a slice that contains the
    class and was not drawn in this pass. A class whose slices are used up passes its turn; slices with no class at
    all end the pass. After a pass the next begins, so any n draws from the start of a pass are all n slices.

    Args:
        areas: Pixels of each foreground class in each slice, ``(slices, classes)``. For images with one class
            label each this is the one-hot label, background class included.
        count: Draws.
        rng: The source of randomness.

    Returns:
        Slice positions, ``(count,)``, first drawn first.

    Raises:
        UsageError: There is no slice to draw from.
        ValueError: ``areas`` is not two-dimensional or ``count`` is negative.
    """
    areas = _checked(areas, count)
    if count and not len(areas):
        raise UsageError("there are no slices to draw from", remedy="check that the cases contain labelled tumour")
    passes: list[IntArray] = []
    while sum(map(len, passes)) < count:
        passes.append(_one_pass(areas, rng))
    return np.concatenate([np.empty(0, np.int64), *passes])[:count]


def foreground_epoch(
    areas: np.ndarray, slices_per_epoch: int, foreground_fraction: float, rng: np.random.Generator
) -> IntArray:
    """Draw one epoch of training slices, a fraction of them balanced over the tumour's classes.

    Of the draws ``foreground_fraction`` (rounded, halves up) take a class uniformly from those that occur and then a
    slice uniformly from those that contain it; the others are uniform over all slices. All draws are with replacement,
    and shuffled.

    Args:
        areas: Pixels of each foreground class in each slice of the training set, ``(slices, classes)``.
        slices_per_epoch: Draws.
        foreground_fraction: Share of tumour-bearing draws, ``0 .. 1``.
        rng: The source of randomness.

    Returns:
        Slice positions, ``(slices_per_epoch,)``.

    Raises:
        UsageError: There are no slices, or none with tumour though some are asked for, or the fraction is out of range.
        ValueError: ``areas`` is not two-dimensional or the count is negative.
    """
    areas = _checked(areas, slices_per_epoch)
    if not 0 <= foreground_fraction <= 1:
        raise UsageError(f"a foreground fraction of {foreground_fraction:g}", expected="a fraction between 0 and 1")
    balanced = int(np.floor(foreground_fraction * slices_per_epoch + 0.5))
    contains = areas > 0
    occurring = np.flatnonzero(contains.any(axis=0))
    if slices_per_epoch and (not len(areas) or (balanced and not occurring.size)):
        raise UsageError(
            f"none of the {len(areas)} training slices contains tumour",
            expected=f"tumour for {balanced} of {slices_per_epoch} draws",
            remedy="check the labels of the training cases, or set the foreground fraction to 0",
        )
    drawn = np.empty(slices_per_epoch, dtype=np.int64)
    wanted = rng.choice(occurring, size=balanced) if balanced else np.empty(0, np.int64)
    for tumour_class in occurring:
        turns = np.flatnonzero(wanted == tumour_class)
        drawn[turns] = rng.choice(np.flatnonzero(contains[:, tumour_class]), size=turns.size)
    if balanced < slices_per_epoch:
        drawn[balanced:] = rng.integers(len(areas), size=slices_per_epoch - balanced)
    return rng.permutation(drawn)


def _checked(areas: np.ndarray, count: int) -> np.ndarray:
    areas = np.asarray(areas)
    if areas.ndim != 2 or count < 0:
        raise ValueError(f"need areas (slices, classes) and a count, got shape {areas.shape} and {count}")
    return areas


def _one_pass(areas: np.ndarray, rng: np.random.Generator) -> IntArray:
    contains = areas > 0
    rarest_first = np.argsort(contains.sum(axis=0), kind="stable")
    # A shuffled queue for each class; slices that another class has drawn meanwhile are skipped.
    queues = [rng.permutation(np.flatnonzero(contains[:, tumour_class])).tolist() for tumour_class in rarest_first]
    taken: dict[int, None] = {}
    while any(queues):
        for queue in queues:
            while queue and queue[-1] in taken:
                queue.pop()
            if queue:
                taken[queue.pop()] = None
    empty = rng.permutation(np.flatnonzero(~contains.any(axis=1)))
    return np.array([*taken, *empty.tolist()], dtype=np.int64)
