"""Run a network over the slices of a prepared case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from metaseg.cases.labels import LabelSpace
from metaseg.evaluation.batch_threads import over_threads
from metaseg.evaluation.overlap import joint_histogram
from metaseg.evaluation.overlap_torch import largest_class
from metaseg.models.finite import finite_output
from metaseg.store.stored_case import StoredCase, to_space

Autocast = Callable[[], AbstractContextManager]
Finished = TypeVar("Finished")

FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
"""Axes of ``(batch, class, height, width)`` that each view of test-time augmentation flips."""


@torch.inference_mode()
def predict_logits(model: nn.Module, images: Tensor, tta: bool = False, of: str = "these slices") -> Tensor:
    """Logits ``(batch, class, height, width)`` of images ``(batch, modality, height, width)``.

    With ``tta`` the result is the logarithm of the class probabilities' mean over flips. ``of`` names the slices.

    Raises:
        TrainingError: A logit is not finite.
    """
    if not tta:
        return finite_output(model(images).float(), of)
    probabilities = torch.stack(
        [torch.flip(torch.softmax(model(torch.flip(images, axes)).float(), dim=1), axes) for axes in FLIPS]
    ).mean(dim=0)
    return finite_output(probabilities, of).clamp_min(torch.finfo(torch.float32).tiny).log()


def predict_probabilities(
    model: nn.Module,
    case: StoredCase,
    modalities: Sequence[str],
    slices: Sequence[int] | np.ndarray | None = None,
    *,
    tta: bool = False,
    batch_size: int = 8,
    autocast: Autocast = nullcontext,
) -> np.ndarray:
    """Class probabilities of a case's slices on the stored grid.

    The network is put in evaluation mode for the call and back afterwards.

    Args:
        model: Network giving logits ``(batch, class, height, width)``.
        case: The prepared case.
        modalities: The network's input modalities, in order.
        slices: Stored slices; by default all.
        tta: Average over flips.
        batch_size: Slices of one forward pass.
        autocast: Makes the context of mixed precision.

    Returns:
        ``(class, slices, height, width)``, ``float32``, summing to 1 over classes.
    """
    parts = [
        probabilities.cpu().numpy()
        for probabilities in _over_slices(_softmax, model, case, modalities, slices, tta, batch_size, autocast)
    ]
    return np.concatenate(parts).transpose(1, 0, 2, 3)


def predict_classes(
    model: nn.Module,
    case: StoredCase,
    modalities: Sequence[str],
    slices: Sequence[int] | np.ndarray | None = None,
    *,
    batch_size: int = 8,
    autocast: Autocast = nullcontext,
) -> np.ndarray:
    """Most probable class of each pixel on the stored grid, ``(slices, height, width)``, ``uint8``; without flips."""
    return np.concatenate(list(_over_slices(_most, model, case, modalities, slices, False, batch_size, autocast)))


def predict_most_probable(
    model: nn.Module,
    case: StoredCase,
    modalities: Sequence[str],
    keep: Sequence[int] = (),
    *,
    tta: bool = False,
    batch_size: int = 8,
    autocast: Autocast = nullcontext,
) -> tuple[np.ndarray, np.ndarray]:
    """The class of the largest probability, and the probabilities of some classes alone.

    Equal to the maximum over what :func:`predict_probabilities` gives (the first of equal ones), in a fraction of its
    memory.

    Args:
        model: Network giving logits ``(batch, class, height, width)``.
        case: The prepared case.
        modalities: The network's input modalities, in order.
        keep: Classes whose probabilities are wanted.
        tta: Average over flips.
        batch_size: Slices of one forward pass.
        autocast: Makes the context of mixed precision.

    Returns:
        Classes ``(slices, height, width)``, ``uint8``, and probabilities ``(kept class, slices, height, width)``,
        ``float32``, on the stored grid.
    """
    chosen = list(keep)
    classes = np.empty(case.info.shape, dtype=np.uint8)
    kept = np.empty((len(chosen), *case.info.shape), dtype=np.float32)

    def finish(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
        probabilities = _softmax(logits)
        return _most(probabilities), probabilities[:, chosen].cpu().numpy()

    start = 0
    for most, some in _over_slices(finish, model, case, modalities, None, tta, batch_size, autocast):
        batch = slice(start, start + len(most))
        classes[batch], kept[:, batch] = most, some.swapaxes(0, 1)
        start += len(most)
    return classes, kept


def _softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, dim=1)


def _most(scores: Tensor) -> np.ndarray:
    """Class of the largest score, the first of equal ones, ``(batch, height, width)``."""
    classes: np.ndarray = largest_class(scores).cpu().numpy()
    return classes


def _over_slices(
    finish: Callable[[Tensor], Finished],
    model: nn.Module,
    case: StoredCase,
    modalities: Sequence[str],
    slices: Sequence[int] | np.ndarray | None,
    tta: bool,
    batch_size: int,
    autocast: Autocast,
) -> Iterator[Finished]:
    """What ``finish`` makes of the logits of one batch of slices after the other.

    The network is in evaluation mode meanwhile. On a CPU the batches are spread over torch's threads.
    """
    indices = np.arange(case.num_slices) if slices is None else np.asarray(slices)
    batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    device = next(model.parameters()).device

    @torch.inference_mode()
    def work(batch: np.ndarray) -> Finished:
        images = torch.from_numpy(case.images(batch, modalities, keep=False)).to(device)
        with autocast():
            logits = predict_logits(model, images, tta, f"case {case.id}")
        return finish(logits)

    threads = min(torch.get_num_threads(), len(batches)) if device.type == "cpu" else 1
    training = model.training
    model.eval()
    try:
        yield from over_threads(work, batches, threads)
    finally:
        model.train(training)


def stored_dice(
    model: nn.Module,
    case: StoredCase,
    modalities: Sequence[str],
    space: LabelSpace,
    *,
    batch_size: int = 8,
    autocast: Autocast = nullcontext,
) -> dict[str, float]:
    """Whole-case Dice of each region on the stored grid, the quick figure that training watches.

    Args:
        model: The network.
        case: A labelled case.
        modalities: The network's input modalities.
        space: The network's label space. Where the case's label knows the whole lesion only, WT alone is compared.
        batch_size: Slices of one forward pass.
        autocast: Makes the context of mixed precision.

    Returns:
        Region name to Dice in [0, 1]; NaN where label and prediction are both empty.
    """
    predicted = predict_classes(model, case, modalities, batch_size=batch_size, autocast=autocast)
    label, known = case.labels(slice(None)), case.space
    if known != space and space.num_classes < known.num_classes:
        label, known = to_space(label, known, space, case.id), space
    histogram = joint_histogram(label, predicted, max(known.num_classes, space.num_classes))
    figures = {}
    for region in space.regions:
        if region not in known.regions:
            continue
        truth, found = histogram[list(known.regions[region])], histogram[:, list(space.regions[region])]
        total = int(truth.sum()) + int(found.sum())
        both = int(truth[:, list(space.regions[region])].sum())
        figures[region] = 2 * both / total if total else float("nan")
    return figures


def mean_dice(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean over cases of each region's Dice, leaving out the cases that are empty in both (NaN if all are)."""
    regions = dict.fromkeys(region for row in figures for region in row)
    means = {}
    for region in regions:
        values = np.array([row[region] for row in figures if region in row])
        values = values[~np.isnan(values)]
        means[region] = float(values.mean()) if values.size else float("nan")
    return means
