"""Segmentation loss: cross-entropy plus soft Dice over the nested tumour regions, weighted toward recall."""

from __future__ import annotations

import torch
from monai.losses.tversky import TverskyLoss
from torch import Tensor, nn
from torch.nn import functional as F

from metaseg.cases.labels import LabelSpace


class DiceCrossEntropy(nn.Module):
    """Pixel-wise cross-entropy plus soft Dice, summed.

    Soft Dice is taken over the label space's regions (WT, TC, ET), whose probabilities are sums of class
    probabilities: those are what figures are given for, and small classes are then never alone (Wang et al. 2017,
    Isensee et al. 2020). Dice pools the pixels of the whole batch, so that a slice without a region does not turn
    the term into noise.

    With ``recall_weight`` other than 0.5 it is the Tversky index (Salehi et al. 2017), in which a missed pixel weighs
    ``recall_weight`` and a false one ``1 - recall_weight``; at 0.5 that is Dice. What a network trained on few patients
    gets wrong on an unseen scanner is nearly always missed tumour.

    Args:
        space: The classes of the logits.
        recall_weight: Weight of missed pixels, in [0, 1].
    """

    membership: Tensor

    def __init__(self, space: LabelSpace, recall_weight: float = 0.5) -> None:
        super().__init__()
        membership = torch.zeros(len(space.regions), space.num_classes)
        for row, classes in enumerate(space.regions.values()):
            membership[row, list(classes)] = 1.0
        self.register_buffer("membership", membership, persistent=False)
        # Half the smoothing, since the Tversky index halves numerator and denominator of Dice.
        self.overlap = TverskyLoss(
            alpha=1 - recall_weight, beta=recall_weight, batch=True, smooth_nr=5e-6, smooth_dr=5e-6
        )

    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Loss of logits ``(batch, class, height, width)`` and classes ``(batch, height, width)``; a scalar >= 0."""
        classes = classes.long()
        entropy = F.cross_entropy(logits, classes)
        membership = self.membership.to(logits)
        regions = torch.einsum("rc,bchw->brhw", membership, torch.softmax(logits, dim=1))
        truth = membership.t()[classes].permute(0, 3, 1, 2)
        return entropy + self.overlap(regions, truth)
