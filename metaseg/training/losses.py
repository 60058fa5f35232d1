"""Segmentation loss: cross-entropy plus soft Dice, over classes or over the nested tumour regions."""

from __future__ import annotations

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from metaseg.cases.labels import LabelSpace


class DiceCrossEntropy(nn.Module):
    """Mean of pixel-wise cross-entropy plus soft Dice, as the sum of both.

    Soft Dice is taken over the label space's regions (WT, TC, ET), whose probabilities are sums of class
    probabilities: those are what figures are given for, and small classes are then never alone (Wang et al. 2017,
    Isensee et al. 2020). Dice pools the pixels of the whole batch, so that a slice without a region does not turn
    the term into noise.

    Args:
        space: The classes of the logits.
    """

    membership: Tensor

    def __init__(self, space: LabelSpace) -> None:
        super().__init__()
        membership = torch.zeros(len(space.regions), space.num_classes)
        for row, classes in enumerate(space.regions.values()):
            membership[row, list(classes)] = 1.0
        self.register_buffer("membership", membership, persistent=False)
        self.dice = DiceLoss(batch=True, smooth_nr=1e-5, smooth_dr=1e-5)

    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Loss of logits ``(batch, class, height, width)`` and classes ``(batch, height, width)``; a scalar >= 0."""
        classes = classes.long()
        entropy = F.cross_entropy(logits, classes)
        membership = self.membership.to(logits)
        regions = torch.einsum("rc,bchw->brhw", membership, torch.softmax(logits, dim=1))
        truth = membership.t()[classes].permute(0, 3, 1, 2)
        return entropy + self.dice(regions, truth)
