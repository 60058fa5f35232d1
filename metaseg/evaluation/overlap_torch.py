"""Predicted classes, and the joint histogram of :mod:`metaseg.evaluation.overlap`, for tensors where they lie."""

from __future__ import annotations

import torch


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
        Three ``int64`` tensors ``(batch, classes)``, as :class:`metaseg.evaluation.overlap.ClassCounts`.
    """
    histogram = batch_histogram(label, prediction, num_classes)
    return histogram.diagonal(dim1=1, dim2=2), histogram.sum(2), histogram.sum(1)
