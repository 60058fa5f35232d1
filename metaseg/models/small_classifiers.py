"""The two small classifiers of the papers, made to be trained from scratch.

Lau: Deep learning brain tumor classifier project. 2021.
Al-Janabi: Deep learning transfer methods for biomedical classification of images (the baseline "2D-CNN").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class PoolTo(nn.Module):
    """Averages maps to one size, so that a dense layer can follow; maps of that size are handed on as they are.

    Args:
        size: Height and width, in pixels.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps ``(batch, channel, height, width)`` to ``(batch, channel, size, size)``."""
        return maps if maps.shape[2:] == (self.size, self.size) else F.adaptive_avg_pool2d(maps, self.size)


class LauCNN(nn.Module):
    """The four-class network of Lau 2021, layer by layer as in its table.

    Three blocks of a 3 x 3 convolution that keeps the size (16, 32, 64 channels), ReLU and max pooling by 2, dropout
    after the first two; flatten; dense 64, batch norm, dense 16, batch norm, dense classes. One channel of 224 x 224
    pixels and four classes make 3,235,892 parameters and 160 running statistics, the 3,236,052 of the paper.

    Ours, where the paper is silent: ReLU within the two hidden dense layers, hence before their batch norm, since the
    table has no activation layers and Keras then has them inside the dense layer; the dropout's share; and torch's own
    initialisation and batch norm settings. Images of another size are averaged to the maps that ``image_size`` gives.

    Args:
        in_channels: Number of input channels.
        num_classes: Number of classes.
        image_size: Height and width of the images, in pixels, that the dense layer is made for.
        dropout: Share of the activations dropped.
    """

    def __init__(self, in_channels: int, num_classes: int, image_size: int = 224, dropout: float = 0.25) -> None:
        super().__init__()
        cells = max(image_size // 8, 1)
        self.conv1 = _convolution(in_channels, 16, nn.Dropout(dropout))
        self.conv2 = _convolution(16, 32, nn.Dropout(dropout))
        self.conv3 = _convolution(32, 64)
        self.pool = nn.Sequential(PoolTo(cells), nn.Flatten())
        self.dense1 = _dense(64 * cells * cells, 64)
        self.dense2 = _dense(64, 16)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(batch, class)`` of images ``(batch, channel, height, width)`` of at least 8 x 8 pixels."""
        maps = self.conv3(self.conv2(self.conv1(images)))
        return self.fc(self.dense2(self.dense1(self.pool(maps))))


class PlainCNN(nn.Module):
    """The baseline of Al-Janabi, trained from scratch: three blocks of convolution, batch norm and dropout 0.1.

    All else is ours: 3 x 3 convolutions that keep the size, 32, 64 and 128 channels, ReLU after batch norm, max pooling
    by 2 before the dropout, and a head that averages over the image before one dense layer.

    Args:
        in_channels: Number of input channels.
        num_classes: Number of classes.
        channels: Of the three blocks.
        dropout: Share of the activations dropped.
    """

    def __init__(
        self, in_channels: int, num_classes: int, channels: Sequence[int] = (32, 64, 128), dropout: float = 0.1
    ) -> None:
        super().__init__()
        first, second, third = channels
        self.conv1 = _normalised_convolution(in_channels, first, dropout)
        self.conv2 = _normalised_convolution(first, second, dropout)
        self.conv3 = _normalised_convolution(second, third, dropout)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(third, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(batch, class)`` of images ``(batch, channel, height, width)`` of at least 8 x 8 pixels."""
        return self.fc(self.pool(self.conv3(self.conv2(self.conv1(images)))))


def _convolution(channels_in: int, channels_out: int, *after: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), *after)


def _dense(features_in: int, features_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features_in, features_out), nn.ReLU(), nn.BatchNorm1d(features_out))


def _normalised_convolution(channels_in: int, channels_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
    )
