"""The quick kernel against torch's own instance normalisation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from metaseg.models import build_segmenter
from metaseg.models.segmenters import GroupedInstanceNorm2d, use_grouped_kernels


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 3, 1, 2)])
def test_values_and_both_derivatives_are_torchs(affine, training, shape):
    generator = torch.Generator().manual_seed(0)
    own = nn.InstanceNorm2d(3, affine=affine).double().train(training)
    if affine:
        for parameter in own.parameters():
            parameter.data = torch.randn(3, generator=generator, dtype=torch.float64)
    quick = nn.Sequential(copy.deepcopy(own))
    use_grouped_kernels(quick)
    assert type(quick[0]) is GroupedInstanceNorm2d
    results = []
    for layer in (own, quick):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
        wanted = [images, *layer.parameters()]
        out = layer(images)
        first = torch.autograd.grad(out.pow(3).sum(), wanted, create_graph=True)
        second = torch.autograd.grad(sum(one.pow(2).sum() for one in first), wanted)
        results.append([out, *first, *second])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_single_pixels_are_refused_as_by_torch():
    layer = nn.Sequential(nn.InstanceNorm2d(2))
    use_grouped_kernels(layer)
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        layer(torch.zeros(1, 2, 1, 1))


def test_layers_with_running_statistics_stay():
    layer = nn.Sequential(nn.InstanceNorm2d(2, track_running_stats=True))
    use_grouped_kernels(layer)
    assert type(layer[0]) is nn.InstanceNorm2d


def test_networks_are_built_with_it():
    model = build_segmenter("unet", 1, 2, channels=[4, 8], strides=[2])
    assert not any(type(module) is nn.InstanceNorm2d for module in model.modules())
    assert any(type(module) is GroupedInstanceNorm2d for module in model.modules())
