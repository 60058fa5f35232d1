"""What a network gives for tensors of slices: logits, the classes they speak for, and how these meet the label's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from metaseg.models.weights import finite_output
from metaseg.threads import ordered_map

Autocast = Callable[[], AbstractContextManager]
"""Makes the context of mixed precision."""

Item = TypeVar("Item")
Result = TypeVar("Result")

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


def largest_class(scores: Tensor) -> Tensor:
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


def batch_histogram(label: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
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


def batch_class_counts(label: Tensor, prediction: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
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


def over_cores(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """:func:`~metaseg.threads.ordered_map` with torch on one core a thread, instead of every operation on all cores.

    Threads that share every convolution wait for each other at its end, and where a neighbour takes a core they wait
    for long. Threads with batches of their own wait once a case, and no batch's rounding depends on how many there are.
    """
    before = torch.get_num_threads()
    try:
        # A thread takes over torch's number of threads when it first computes, so each sets its own.
        yield from ordered_map(work, items, threads, initializer=partial(torch.set_num_threads, 1))
    finally:
        # The threads' own numbers end with them, but torch also notes the last one for threads to come.
        torch.set_num_threads(before)
