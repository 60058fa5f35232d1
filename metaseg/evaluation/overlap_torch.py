"""The joint histogram of :mod:`metaseg.evaluation.overlap` for tensors, to score slices where they are computed."""

from __future__ import annotations

import torch


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
