"""MONAI's two-dimensional segmentation networks, with settings that suit single slices and few patients.

Wherever a network lets one choose, normalisation is by instance or group: the same function in training and evaluation,
and no running statistics that could leak from one task into the next. ``monai-fcn`` has batch normalisation built in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from monai.networks.blocks.fcn import MCFCN
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet
from pydantic import Field
from torch import nn
from torchvision.models import ResNet50_Weights

from metaseg.errors import UsageError
from metaseg.models.segmenters import ImageNetWeights, PadToStride, segmenter

Count = Annotated[int, Field(ge=1)]
MOST_LAYERS = 64
"""Layers of a level, beyond what anybody trains; a damaged card may ask for a milliard."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
INSTANCE = ("instance", {"affine": True})


@segmenter(
    "unet",
    help="U-Net with residual units and instance normalisation; the default",
    citation="Ronneberger et al., MICCAI 2015; Kerfoot et al., STACOM 2018 (MONAI UNet)",
)
def unet(
    in_channels: int,
    num_classes: int,
    channels: tuple[Count, ...] = (24, 48, 96, 192, 192),
    strides: tuple[Count, ...] = (2, 2, 2, 2),
    num_res_units: Annotated[int, Field(ge=0, le=MOST_LAYERS)] = 2,
    dropout: Fraction = 0.0,
) -> PadToStride:
    """Build MONAI's ``UNet``: ``channels`` from the top level down, ``strides`` between the levels."""
    if len(channels) < 2 or len(strides) != len(channels) - 1:
        raise UsageError(
            f"network 'unet' was given {len(channels)} channels and {len(strides)} strides",
            expected="at least two channels, and one stride fewer than channels",
        )
    net = UNet(
        2, in_channels, num_classes, channels, strides, num_res_units=num_res_units, norm=INSTANCE, dropout=dropout
    )
    return PadToStride(net, math.prod(strides), in_channels)


@segmenter(
    "basic-unet",
    help="plain U-Net of five levels with instance normalisation",
    citation="Falk et al., Nature Methods 16:67, 2019 (MONAI BasicUNet)",
)
def basic_unet(
    in_channels: int,
    num_classes: int,
    features: tuple[Count, Count, Count, Count, Count, Count] = (32, 32, 64, 128, 256, 32),
    dropout: Fraction = 0.0,
) -> PadToStride:
    """Build MONAI's ``BasicUNet``: ``features`` of the five levels from the top, then of the last layer."""
    net = BasicUNet(2, in_channels, num_classes, features, norm=INSTANCE, dropout=dropout)
    return PadToStride(net, 16, in_channels)


@segmenter(
    "dynunet",
    help="U-Net as nnU-Net would set it up for slices, without deep supervision",
    citation="Isensee et al., Nature Methods 18:203, 2021; Futrega et al., BrainLes 2021 (MONAI DynUNet)",
)
def dynunet(
    in_channels: int,
    num_classes: int,
    filters: Annotated[tuple[Count, ...], Field(min_length=3)] = (32, 64, 128, 256, 512),
    res_block: bool = False,
    dropout: Fraction = 0.0,
) -> PadToStride:
    """Build MONAI's ``DynUNet``: 3 x 3 kernels, ``filters`` per level, each level half the size of the one above."""
    halvings = [2] * (len(filters) - 1)
    net = DynUNet(
        2,
        in_channels,
        num_classes,
        kernel_size=[3] * len(filters),
        strides=[1, *halvings],
        upsample_kernel_size=halvings,
        filters=filters,
        dropout=dropout or None,
        norm_name=INSTANCE,
        res_block=res_block,
    )
    return PadToStride(net, 2 ** len(halvings), in_channels)


@segmenter(
    "segresnet",
    help="residual encoder-decoder with group normalisation, winner of BraTS 2018 (here without its autoencoder)",
    citation="Myronenko, BrainLes 2018 (MONAI SegResNet)",
)
def segresnet(
    in_channels: int,
    num_classes: int,
    init_filters: Count = 16,
    blocks_down: Annotated[tuple[Annotated[int, Field(ge=1, le=MOST_LAYERS)], ...], Field(min_length=2)] = (1, 2, 2, 4),
    num_groups: Count = 8,
    dropout: Fraction = 0.0,
) -> PadToStride:
    """Build MONAI's ``SegResNet``.

    ``init_filters`` on top, doubled per level; ``blocks_down`` residual blocks per level. The number of groups is the
    largest that divides both ``num_groups`` and ``init_filters``, and with it every level's width.
    """
    levels = len(blocks_down)
    net = SegResNet(
        2,
        init_filters,
        in_channels,
        num_classes,
        dropout_prob=dropout or None,
        norm=("group", {"num_groups": math.gcd(num_groups, init_filters)}),
        blocks_down=blocks_down,
        blocks_up=(1,) * (levels - 1),
    )
    return PadToStride(net, 2 ** (levels - 1), in_channels)


def from_resnet50(state: Mapping[str, torch.Tensor], net: nn.Module) -> dict[str, torch.Tensor]:
    """Bring torchvision's ResNet-50 weights to the keys of MONAI's ``FCN``, without the ImageNet classes."""
    encoder = {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
    # The blocks inside have a bn1 of their own, which keeps its name.
    return {"bn0." + key[4:] if key.startswith("bn1.") else key: tensor for key, tensor in encoder.items()}


@segmenter(
    "monai-fcn",
    help="FCN with global convolutions on ResNet-50; has batch normalisation",
    citation="Peng et al., CVPR 2017; Liu et al., MICCAI 2018 (MONAI MCFCN)",
    imagenet=ImageNetWeights("ResNet-50", ResNet50_Weights.IMAGENET1K_V1, "bn1.", from_resnet50),
)
def monai_fcn(
    in_channels: int, num_classes: int, upsample_mode: Literal["bilinear", "transpose"] = "bilinear"
) -> PadToStride:
    """Build MONAI's ``MCFCN``, which brings the modalities to three channels by a 1 x 1 convolution first."""
    net = MCFCN(in_channels, num_classes, upsample_mode, pretrained=False, progress=False)
    # MONAI makes this layer and never calls it: without it, every parameter has a gradient, as a meta-step needs.
    del net.transformer
    return PadToStride(net, 32, in_channels)
