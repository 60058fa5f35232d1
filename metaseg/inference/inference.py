"""Run a network over the slices of a prepared case.

Predicted classes, and the joint histogram of :mod:`metaseg.metrics.overlap`, for tensors where they lie.

From the probabilities of a case's stored slices to class maps on the whole grid of its files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from metaseg.cases.labels import LabelSpace
from metaseg.metrics.overlap import joint_histogram
from metaseg.models.weights import finite_output
from metaseg.store.stored_case import StoredCase, to_space
from metaseg.threads import over_threads


def largest_class(scores: torch.Tensor) -> torch.Tensor:
    """Class of the largest score, the first of equal ones: as ``scores.argmax(dim=1)``, class by class.

    A CPU needs a third of the time of ``max`` over an axis that is not the last, and a thirtieth of ``argmax``'s.

    Args:
        scores: Finite, ``(batch, class, height, width)`` with at most 256 classes.

    Returns:
        ``uint8`` tensor ``(batch, height, width)``.
    """
    largest = scores[:, 0]
    classes = torch.zeros_like(largest, dtype=torch.uint8)
    for number in range(1, scores.shape[1]):
        other = scores[:, number]
        # A class with a larger score has a larger number than all before it.
        classes = torch.maximum(classes, (other > largest).to(torch.uint8).mul_(number))
        largest = torch.maximum(largest, other)
    return classes


def batch_histogram(label: torch.Tensor, prediction: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Count per slice how often each label class meets each predicted class, in one pass over the batch.

    Values are not checked (that would make the device wait): they must lie in ``0 .. num_classes - 1``.

    Args:
        label: Class values ``(batch, height, width)``, whole numbers.
        prediction: Class values ``(batch, height, width)`` on the same device.
        num_classes: Number of classes with the background.

    Returns:
        ``int64`` tensor ``(batch, label class, predicted class)`` on that device.
    """
    batch, cells = label.shape[0], num_classes * num_classes
    code = label.flatten(1).long() * num_classes + prediction.flatten(1)
    code += torch.arange(batch, device=label.device)[:, None] * cells
    counts = torch.bincount(code.flatten(), minlength=batch * cells)
    return counts.reshape(batch, num_classes, num_classes)


def batch_class_counts(
    label: torch.Tensor, prediction: torch.Tensor, num_classes: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Intersection, label area and predicted area of every class of every slice.

    Args:
        label: Class values ``(batch, height, width)``.
        prediction: Class values ``(batch, height, width)`` on the same device.
        num_classes: Number of classes with the background.

    Returns:
        Three ``int64`` tensors ``(batch, classes)``, as :class:`metaseg.metrics.overlap.ClassCounts`.
    """
    histogram = batch_histogram(label, prediction, num_classes)
    return histogram.diagonal(dim1=1, dim2=2), histogram.sum(2), histogram.sum(1)


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
    """Whole-case Dice of each region on the stored grid, the quick metric that training watches.

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
    metrics = {}
    for region in space.regions:
        if region not in known.regions:
            continue
        truth, found = histogram[list(known.regions[region])], histogram[:, list(space.regions[region])]
        total = int(truth.sum()) + int(found.sum())
        both = int(truth[:, list(space.regions[region])].sum())
        metrics[region] = 2 * both / total if total else float("nan")
    return metrics


def mean_dice(metrics: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean over cases of each region's Dice, leaving out the cases that are empty in both (NaN if all are)."""
    regions = dict.fromkeys(region for row in metrics for region in row)
    means = {}
    for region in regions:
        values = np.array([row[region] for row in metrics if region in row])
        values = values[~np.isnan(values)]
        means[region] = float(values.mean()) if values.size else float("nan")
    return means


@dataclass(frozen=True)
class CaseSegmentation:
    """What a network sees in a whole case.

    Attributes:
        classes: Class values ``(slices, height, width)``, ``uint8``, on the full canonical grid.
        kept: Class to its probabilities ``(slices, height, width)``, ``float32``, on the stored grid.
    """

    classes: np.ndarray
    kept: Mapping[int, np.ndarray]


def segment_case(
    model: nn.Module,
    case: StoredCase,
    modalities: Sequence[str],
    keep: Sequence[int] = (),
    *,
    tta: bool = False,
    batch_size: int = 8,
    autocast: Autocast = nullcontext,
) -> CaseSegmentation:
    """Most probable class of every voxel of the full canonical grid; background outside the stored crop.

    Where slices were shrunk for the store, probabilities are brought to the full size before the class is chosen.

    Args:
        model: The network.
        case: The prepared case.
        modalities: The network's input modalities, in order.
        keep: Classes whose probabilities are wanted as well.
        tta: Average over flips.
        batch_size: Slices of one forward pass.
        autocast: Makes the context of mixed precision.
    """
    (z0, z1), (y0, y1), (x0, x1) = case.info.crop
    if case.info.shape[1:] != (y1 - y0, x1 - x0):
        maps = predict_probabilities(model, case, modalities, tta=tta, batch_size=batch_size, autocast=autocast)
        classes = case.restore(maps).argmax(axis=0).astype(np.uint8)
        return CaseSegmentation(classes, {value: maps[value] for value in keep})
    stored, kept = predict_most_probable(
        model, case, modalities, keep, tta=tta, batch_size=batch_size, autocast=autocast
    )
    classes = np.zeros(case.info.geometry.canonical_shape, dtype=np.uint8)
    classes[z0:z1, y0:y1, x0:x1] = stored
    return CaseSegmentation(classes, dict(zip(keep, kept, strict=True)))


def full_probabilities(case: StoredCase, maps: Mapping[int, np.ndarray]) -> Iterator[np.ndarray]:
    """Class probabilities on the full canonical grid, one class after the other; all background outside the crop.

    Args:
        case: The prepared case.
        maps: Every class's probabilities ``(slices, height, width)`` on the stored grid.

    Yields:
        ``(slices, height, width)``, ``float32``.
    """
    (z0, z1), (y0, y1), (x0, x1) = case.info.crop
    if case.info.shape[1:] != (y1 - y0, x1 - x0):
        yield from case.restore(np.stack([maps[value] for value in sorted(maps)]))
        return
    for value in sorted(maps):
        full = np.full(case.info.geometry.canonical_shape, 0.0 if value else 1.0, dtype=np.float32)
        full[z0:z1, y0:y1, x0:x1] = maps[value]
        yield full


def predict_class_map(
    model: nn.Module,
    case: StoredCase,
    modalities: Sequence[str],
    *,
    tta: bool = False,
    batch_size: int = 8,
    autocast: Autocast = nullcontext,
) -> np.ndarray:
    """The classes of :func:`segment_case` alone."""
    return segment_case(model, case, modalities, tta=tta, batch_size=batch_size, autocast=autocast).classes


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
