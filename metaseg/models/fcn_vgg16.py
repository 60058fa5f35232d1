"""FCN-8s on VGG-16: the network of Han et al. 2018.

Long, Shelhamer, Darrell: Fully convolutional networks for semantic segmentation. CVPR 2015.
Simonyan, Zisserman: Very deep convolutional networks for large-scale image recognition. ICLR 2015.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from torchvision.models import VGG16_Weights
from torchvision.models.vgg import cfgs, make_layers

from metaseg.models.segmenters import ImageNetWeights, PadToStride, segmenter

POOL3, POOL4, POOL5 = 16, 23, 30
"""Positions of the last three poolings in torchvision's VGG-16 features, at strides of 8, 16 and 32 pixels."""


def bilinear_kernel(factor: int) -> torch.Tensor:
    """Kernel ``(2 factor, 2 factor)`` with which a transposed convolution of stride ``factor`` (even) interpolates."""
    size = 2 * factor
    weights = 1 - (torch.arange(size) - (size - 1) / 2).abs() / factor
    return torch.outer(weights, weights)


class BilinearUpsample(nn.Module):
    """Learned enlargement that starts as bilinear interpolation, every class by a kernel of its own.

    The border is repeated first, so that the first step is exactly ``F.interpolate(..., align_corners=False)``; a bare
    transposed convolution would fade the logits toward zero at the image's border.

    Args:
        num_classes: Number of channels.
        factor: Enlargement, an even number.
    """

    def __init__(self, num_classes: int, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.weight = nn.Parameter(bilinear_kernel(factor).repeat(num_classes, 1, 1, 1))

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores ``(batch, class, height, width)`` to ``(batch, class, factor * height, factor * width)``."""
        framed = F.pad(scores, (1, 1, 1, 1), mode="replicate")
        padding = self.factor // 2 + self.factor
        return F.conv_transpose2d(framed, self.weight, stride=self.factor, padding=padding, groups=self.weight.shape[0])


class FCN8s(nn.Module):
    """VGG-16 features scored at three depths, added from coarse to fine.

    As in the paper: the scores of the skips (pool4, pool3) start at zero, so that training starts from the coarse
    prediction; the two doublings are learned from a bilinear start; the last, eightfold enlargement is fixed and
    bilinear. Two departures: convolutions keep the size instead of the first one padding by 100 pixels, and fc6 and
    fc7 are left out unless asked for. They would hold 119 of 134 million parameters, and were made for the thousand
    classes of ImageNet; the coarse score is then taken from pool5.

    Args:
        in_channels: Number of modalities.
        num_classes: Number of classes with the background.
        fc_channels: Width of fc6 (7 x 7) and fc7 (1 x 1) as convolutions, 4096 in the paper; 0 leaves them out.
        dropout: Fraction of the activations dropped after fc6 and fc7 (0.5 in the paper), or of pool5 without them.
    """

    def __init__(self, in_channels: int, num_classes: int, fc_channels: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = make_layers(cfgs["D"])
        self.features[0] = nn.Conv2d(in_channels, cfgs["D"][0], kernel_size=3, padding=1)
        # Each pooling follows a convolution and its activation.
        third, fourth, last = (self.features[pool - 2].out_channels for pool in (POOL3, POOL4, POOL5))
        self.fc6 = nn.Conv2d(last, fc_channels, kernel_size=7, padding=3) if fc_channels else None
        self.fc7 = nn.Conv2d(fc_channels, fc_channels, kernel_size=1) if fc_channels else None
        self.dropout = nn.Dropout(dropout)
        self.score5 = nn.Conv2d(fc_channels or last, num_classes, kernel_size=1)
        self.score4 = nn.Conv2d(fourth, num_classes, kernel_size=1)
        self.score3 = nn.Conv2d(third, num_classes, kernel_size=1)
        self.up5 = BilinearUpsample(num_classes)
        self.up4 = BilinearUpsample(num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.kaiming_normal_(self.score5.weight, mode="fan_in", nonlinearity="linear")
        nn.init.zeros_(self.score4.weight)
        nn.init.zeros_(self.score3.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of images ``(batch, modality, height, width)`` whose sides are multiples of 32 pixels."""
        pools = []
        values = images
        for position, layer in enumerate(self.features):
            values = layer(values)
            if position in (POOL3, POOL4, POOL5):
                pools.append(values)
        pool3, pool4, deep = pools
        if self.fc6 is not None and self.fc7 is not None:
            deep = self.dropout(F.relu(self.fc6(deep)))
            deep = F.relu(self.fc7(deep))
        scores = self.score5(self.dropout(deep))
        scores = self.up5(scores) + self.score4(pool4)
        scores = self.up4(scores) + self.score3(pool3)
        return F.interpolate(scores, scale_factor=8.0, mode="bilinear", align_corners=False)


def from_vgg16(state: Mapping[str, torch.Tensor], net: nn.Module) -> dict[str, torch.Tensor]:
    """Bring torchvision's VGG-16 weights to :class:`FCN8s` keys.

    The convolutions keep their names. The classifier's two hidden layers become fc6 and fc7 if ``net`` has them: a
    linear layer on 512 x 7 x 7 values is a 7 x 7 convolution. The layer of the thousand ImageNet classes is dropped.
    """
    wanted = net.state_dict()
    renamed = {"classifier.0": "fc6", "classifier.3": "fc7"}
    translated: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        layer, _, kind = key.rpartition(".")
        name = f"{renamed.get(layer, layer)}.{kind}"
        if name in wanted:
            is_linear = layer in renamed and tensor.numel() == wanted[name].numel()
            translated[name] = tensor.reshape(wanted[name].shape) if is_linear else tensor
    return translated


@segmenter(
    "fcn-vgg16",
    help="FCN-8s on VGG-16, the network of the meta-tuning paper",
    citation="Long et al., CVPR 2015; Simonyan and Zisserman, ICLR 2015; Han et al. 2018",
    imagenet=ImageNetWeights("VGG-16", VGG16_Weights.IMAGENET1K_V1, "features.", from_vgg16),
)
def fcn_vgg16(
    in_channels: int,
    num_classes: int,
    fc_channels: Annotated[int, Field(ge=0)] = 0,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> PadToStride:
    """Build :class:`FCN8s`; see there for the options."""
    # No layer normalises over the image, so a bottleneck of one cell can train.
    return PadToStride(FCN8s(in_channels, num_classes, fc_channels, dropout), 32, in_channels, min_cells=1)
