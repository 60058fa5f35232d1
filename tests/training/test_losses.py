from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceCELoss
from torch.nn import functional as F

from metaseg.cases.labels import SUBREGIONS, WHOLE_LESION
from metaseg.training.optimization import DiceCrossEntropy


class TestDiceCrossEntropy:
    def test_equals_monai_where_regions_are_classes(self):
        # The whole-lesion space has one region, its one foreground class.
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(3, 2, 9, 8, generator=generator, dtype=torch.float64)
        classes = torch.randint(0, 2, (3, 9, 8), generator=generator)
        reference = DiceCELoss(
            softmax=True, to_onehot_y=True, include_background=False, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
        )
        expected = reference(logits, classes[:, None])
        assert DiceCrossEntropy(WHOLE_LESION)(logits, classes).item() == pytest.approx(expected.item(), rel=1e-9)

    def test_regions_are_sums_of_class_probabilities(self):
        generator = torch.Generator().manual_seed(1)
        logits = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
        classes = torch.randint(0, 4, (2, 5, 6), generator=generator)
        p = torch.softmax(logits, dim=1)
        dice = 0.0
        for members in ((1, 2, 3), (1, 3), (3,)):
            region = sum(p[:, member] for member in members)
            truth = sum((classes == member).double() for member in members)
            dice += 1 - (2 * (region * truth).sum() + 1e-5) / (region.sum() + truth.sum() + 1e-5)
        expected = F.cross_entropy(logits, classes) + dice / 3
        assert DiceCrossEntropy(SUBREGIONS)(logits, classes).item() == pytest.approx(expected.item(), rel=1e-12)

    def test_recall_weight_equals_the_tversky_index_in_closed_form(self):
        # One pixel found with probability p, one missed with 1 - q, one false with r.
        p, q, r = 0.8, 0.3, 0.4
        probabilities = torch.tensor([p, q, r], dtype=torch.float64)
        logits = torch.stack([(1 - probabilities).log(), probabilities.log()])[None, :, None]
        classes = torch.tensor([[[1, 1, 0]]])
        missed, false = (1 - p) + (1 - q), r
        expected = 1 - (p + q + 5e-6) / (p + q + 0.3 * false + 0.7 * missed + 5e-6)
        entropy = -(math.log(p) + math.log(q) + math.log(1 - r)) / 3
        assert DiceCrossEntropy(WHOLE_LESION, 0.7)(logits, classes).item() == pytest.approx(
            entropy + expected, rel=1e-9
        )

    def test_perfect_prediction_costs_nothing_and_empty_slices_are_finite(self):
        classes = torch.zeros(1, 4, 4, dtype=torch.uint8)
        logits = torch.zeros(1, 4, 4, 4)
        logits[:, 0] = 60.0
        loss = DiceCrossEntropy(SUBREGIONS)(logits, classes)
        assert loss.item() == pytest.approx(0.0, abs=1e-6)
        assert math.isfinite(DiceCrossEntropy(SUBREGIONS)(torch.zeros(1, 4, 4, 4), classes).item())
