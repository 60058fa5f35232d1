from __future__ import annotations

import pytest
import torch
from torch import nn

from metaseg.errors import UsageError
from metaseg.models import PadToStride, build_segmenter


class Recorder(nn.Module):
    """Hands its input on and remembers it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen = images
        return images


@pytest.mark.parametrize(("size", "seen"), [(1, 16), (8, 16), (16, 16), (17, 24), (24, 24), (25, 32)])
def test_sides_become_multiples_of_the_stride_of_at_least_two_cells(size: int, seen: int) -> None:
    wrapped = PadToStride(Recorder(), stride=8, in_channels=1)
    wrapped(torch.zeros(1, 1, size, 24))
    assert tuple(wrapped.net.seen.shape[2:]) == (seen, 24)
    assert wrapped.padded(size) == seen


def test_what_is_padded_is_cropped_again() -> None:
    images = torch.randn(2, 3, 13, 30)
    assert torch.equal(PadToStride(Recorder(), 8, 3)(images), images)


def test_the_border_is_repeated_evenly_on_both_sides() -> None:
    wrapped = PadToStride(Recorder(), stride=8, in_channels=1, min_cells=1)
    wrapped(torch.arange(1.0, 7.0).expand(1, 1, 8, 6))
    assert wrapped.net.seen[0, 0, 0].tolist() == [1, 1, 2, 3, 4, 5, 6, 6]


def test_an_input_that_fits_is_not_copied() -> None:
    wrapped = PadToStride(Recorder(), 8, 1)
    images = torch.randn(1, 1, 16, 32)
    assert wrapped(images) is images


def test_a_fitting_size_gives_the_bare_networks_logits() -> None:
    model = build_segmenter("unet", 2, 3, channels=(4, 8), strides=(2,), seed=0)
    images = torch.randn(1, 2, 12, 8)
    assert torch.equal(model(images), model.net(images))


def test_a_uniform_image_stays_uniform_under_any_padding() -> None:
    seen = PadToStride(Recorder(), 8, 1)
    seen(torch.full((1, 1, 3, 5), -0.7))
    assert torch.all(seen.net.seen == -0.7)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (2, 8, 8), (1, 2, 0, 8)])
def test_images_that_the_network_cannot_take_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="2 modalities"):
        PadToStride(Recorder(), 8, 2)(torch.zeros(shape))
