"""A network of two layers."""

from __future__ import annotations

from torch import nn

from metaseg.models import segmenter


@segmenter("tiny-net", help="two convolutions")
def tiny_net(in_channels: int, num_classes: int, width: int = 4) -> nn.Module:
    """The network."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, num_classes, 3, padding=1)
    )
