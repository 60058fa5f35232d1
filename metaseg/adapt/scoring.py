"""Score a case's slices under the current network, for the sampler core."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from metaseg.cases.labels import LabelSpace
from metaseg.evaluation.inference import Autocast, predict_logits
from metaseg.evaluation.overlap_torch import batch_class_counts, largest_class
from metaseg.sampling import Pool, slice_dice
from metaseg.store.stored_case import StoredCase


def score_slices(
    model: nn.Module,
    case: StoredCase,
    slices: np.ndarray,
    modalities: Sequence[str],
    space: LabelSpace,
    autocast: Autocast,
    batch_size: int = 8,
) -> Pool:
    """Forward slices once without gradient.

    Args:
        model: The network; put in evaluation mode for the call.
        case: A labelled case.
        slices: Stored slices to score.
        modalities: The network's input modalities.
        space: The network's label space.
        autocast: Makes the context of mixed precision.
        batch_size: Slices of one forward pass.

    Returns:
        Dice (foreground mean over the classes in label or prediction, 1 where both are empty), mean predictive
        entropy in nats, and tumour area of every slice, by its stored index.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    dice, entropy = [], []
    try:
        for start in range(0, len(slices), batch_size):
            chosen = slices[start : start + batch_size]
            images = torch.from_numpy(case.images(chosen, modalities)).to(device)
            labels = torch.from_numpy(case.labels(chosen, space)).to(device)
            with autocast():
                logits = predict_logits(model, images, of=f"case {case.id}")
            log_probabilities = torch.log_softmax(logits, dim=1)
            entropy.append(-(log_probabilities.exp() * log_probabilities).sum(dim=1).mean(dim=(1, 2)).cpu().numpy())
            counts = batch_class_counts(labels, largest_class(logits), space.num_classes)
            intersection, label_area, predicted_area = (part[:, 1:].cpu().numpy() for part in counts)
            dice.append(slice_dice(intersection, label_area, predicted_area))
    finally:
        model.train(training)
    return Pool(
        index=np.asarray(slices),
        dice=np.concatenate(dice),
        entropy=np.concatenate(entropy).astype(np.float64),
        foreground=case.areas(space)[slices, 1:].sum(axis=1),
    )
