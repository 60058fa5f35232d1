"""Networks for images of any size: padding to what a network can divide, and cropping back.

An encoder halves its input a fixed number of times, so most networks take only multiples of their stride, and instance
or batch normalisation cannot train on a bottleneck of a single pixel. :class:`PadToStride` takes both limits away.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from metaseg.errors import UsageError


class PadToStride(nn.Module):
    """A network that takes any image size and gives logits of that size.

    The input is padded evenly on both sides by repeating its border pixels, and the logits are cropped back. Repeating
    the border adds no edge, whatever value the background has after normalisation; zeros would draw a frame around a
    scan whose background is not zero, and reflection cannot pad an image by more than its own size. An input that
    already fits is handed on as it is: the result is the bare network's, bit for bit.

    The wrapped network is :attr:`net`, so every key of the state dict is ``net.`` and the network's own key.

    Args:
        net: Takes ``(batch, modality, height, width)``, gives logits ``(batch, class, height, width)``.
        stride: By what the height and width that ``net`` takes must be divisible, in pixels.
        in_channels: Number of modalities that ``net`` takes.
        min_cells: Least height and width of the bottleneck, in cells of ``stride`` pixels; 2 lets normalisation over
            the image train on any input.
    """

    def __init__(self, net: nn.Module, stride: int, in_channels: int, min_cells: int = 2) -> None:
        super().__init__()
        self.net = net
        self.stride = stride
        self.in_channels = in_channels
        self.min_cells = min_cells

    def padded(self, size: int) -> int:
        """Height or width, in pixels, that ``net`` sees for an image of height or width ``size``."""
        return max(-(-size // self.stride), self.min_cells) * self.stride

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(batch, class, height, width)`` of images ``(batch, modality, height, width)``.

        Raises:
            UsageError: The images have another number of axes or modalities, or no pixels.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels or 0 in images.shape[2:]:
            raise UsageError(
                f"the network was given images of shape {tuple(images.shape)}",
                expected=f"(batch, {self.in_channels} modalities, height, width)",
                remedy="choose the modalities that the network was built for with --modalities",
            )
        height, width = images.shape[2:]
        rows, columns = self.padded(height) - height, self.padded(width) - width
        if rows == 0 and columns == 0:
            return self.net(images)
        top, left = rows // 2, columns // 2
        padded = F.pad(images, (left, columns - left, top, rows - top), mode="replicate")
        return self.net(padded)[..., top : top + height, left : left + width]
