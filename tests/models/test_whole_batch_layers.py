"""Dropout of shares against torch's own dropout of the whole batch; batch normalisation is in test_processes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metaseg.models.processes import span_batches

SHAPES = {nn.Dropout: (5, 3), nn.Dropout1d: (5, 3, 7), nn.Dropout2d: (5, 3, 4, 4), nn.Dropout3d: (5, 3, 2, 2, 2)}


@pytest.mark.parametrize("kind", SHAPES)
def test_shares_of_a_batch_are_dropped_as_the_batch_is(kind):
    images = torch.rand(SHAPES[kind], generator=torch.Generator().manual_seed(0))
    torch.manual_seed(7)
    expected = kind(0.4)(images)
    assert 0 < int((expected == 0).sum()) < expected.numel()
    layer = nn.Sequential(kind(0.4))
    span_batches(layer)
    found = []
    for start, stop in ((0, 2), (2, 5)):
        torch.manual_seed(7)
        layer[0].rows = (start, stop, 5)
        found.append(layer(images[start:stop]))
    torch.testing.assert_close(torch.cat(found), expected, rtol=0, atol=0)


def test_nothing_is_dropped_in_evaluation():
    layer = nn.Sequential(nn.Dropout(0.9))
    span_batches(layer)
    images = torch.ones(3, 2)
    assert layer.eval()(images) is images
