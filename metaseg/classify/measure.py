"""A classifier's probabilities of slices, and the figures of a part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from metaseg.classify.slices import ClassifiedSlices
from metaseg.evaluation.classification import classification_figures
from metaseg.models.finite import finite_output
from metaseg.models.processes import several, shared_map

BATCH = 32
FIGURES = {
    "auc": "auc_macro",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "f1": "f1_macro",
}
"""Figures that are watched, with their names in :func:`~metaseg.evaluation.classification.classification_figures`."""


@torch.inference_mode()
def slice_probabilities(
    model: nn.Module, slices: ClassifiedSlices, positions: Sequence[int] | np.ndarray | None = None
) -> np.ndarray:
    """Class probabilities, in evaluation mode and without augmentation.

    Args:
        model: The classifier; its mode is as before afterwards.
        slices: The slices.
        positions: Which of them; all by default.

    Returns:
        ``(slices, class)``, ``float64``, summing to 1.
    """
    chosen = np.arange(len(slices)) if positions is None else np.asarray(positions)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        parts = [
            softmax(model(slices.images(chosen[start : start + BATCH]).to(device)))
            for start in range(0, len(chosen), BATCH)
        ]
    finally:
        model.train(training)
    return np.concatenate(parts) if parts else np.empty((0, len(slices.classes)))


def softmax(logits: torch.Tensor) -> np.ndarray:
    """Probabilities ``(batch, class)`` in ``float64``: exact sums, and zeros that are zeros.

    Raises:
        TrainingError: A logit is not finite.
    """
    return torch.softmax(finite_output(logits, "a batch of slices").double(), dim=1).cpu().numpy()


def part_figures(
    model: nn.Module, slices: ClassifiedSlices, part: str, fabric: Fabric | None = None
) -> dict[str, float]:
    """The watched figures of a part, by slice: ``auc/val`` and so on; none for no slices.

    With the fabric of several processes the slices are shared out, in runs of a batch.
    """
    if not len(slices):
        return {}
    if fabric is None or not several(fabric):
        return watched(slice_probabilities(model, slices), slices, part)
    runs = [np.arange(start, min(start + BATCH, len(slices))) for start in range(0, len(slices), BATCH)]
    found = shared_map(fabric, lambda run: slice_probabilities(model, slices, run), runs)
    return watched(np.concatenate(found), slices, part)


def watched(probabilities: np.ndarray, slices: ClassifiedSlices, part: str) -> dict[str, float]:
    """The watched figures of probabilities ``(slices, class)``."""
    figures = classification_figures(probabilities, slices.labels, slices.classes)
    return {f"{name}/{part}": figures[full] for name, full in FIGURES.items()}


def watched_score(figures: Mapping[str, float], monitor: str) -> float:
    """By what weights are the best: the watched figure of the validation part; a figure that is not known counts as 0.

    A few validation patients bring the AUC to 1 long before the classes are told apart: where it is equal, the mean of
    all watched figures decides.
    """
    known = {name: value if math.isfinite(value) else 0.0 for name, value in figures.items()}
    if not known:
        return 0.0
    return known.get(f"{monitor}/val", 0.0) + 1e-6 * sum(known.values()) / len(known)
