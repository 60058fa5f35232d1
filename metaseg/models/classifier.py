"""A network from slices to classes: any library's, with its input, its head and its base named."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from metaseg.errors import UsageError
from metaseg.models.classifier_blocks import Block, base_blocks
from metaseg.models.classifier_heads import Head
from metaseg.models.pretrained_input import InputStatistics, PretrainedInput


class Classifier(nn.Module):
    """Wraps a library's network for slices ``(batch, channel, height, width)``, z-scores with a background of 0.

    The wrapped network is :attr:`net`, so every key of the state dict is ``net.`` and the library's own key.

    Args:
        net: Gives logits ``(batch, class)``.
        name: As in :func:`~metaseg.models.classifiers.build_classifier`.
        in_channels: Number of input channels.
        num_classes: Number of classes.
        head: Kind of its head.
        head_path: Where the head is within ``net``.
        last_path: Where the head's last linear layer is within ``net``.
        image_size: Height and width that it was built for, in pixels.
        min_size: Least height and width that it takes; equal to ``image_size`` with ``fixed_size``.
        fixed_size: Whether it takes no other height and width.
        statistics: Of the images it was pretrained on, see :class:`~metaseg.models.pretrained_input.PretrainedInput`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        name: str,
        in_channels: int,
        num_classes: int,
        head: Head,
        head_path: str,
        last_path: str,
        image_size: int,
        min_size: int = 1,
        fixed_size: bool = False,
        statistics: InputStatistics | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.name, self.in_channels, self.num_classes = name, in_channels, num_classes
        self.head, self.head_path, self.last_path = head, head_path, last_path
        self.image_size, self.min_size, self.fixed_size = image_size, min_size, fixed_size
        self.input = PretrainedInput(statistics)

    @property
    def options(self) -> dict[str, Any]:
        """What a model card records under ``options``, so that the network can be built again."""
        statistics = self.input.statistics
        return {
            "head": self.head,
            "image_size": self.image_size,
            "input_statistics": None if statistics is None else statistics.to_json(),
        }

    @property
    def last_linear(self) -> nn.Linear:
        """The layer from the embedding to the logits."""
        layer = self.net.get_submodule(self.last_path)
        assert isinstance(layer, nn.Linear)
        return layer

    @property
    def head_modules(self) -> tuple[nn.Module, ...]:
        """The head: the last linear layer, or the dense head."""
        return (self.net.get_submodule(self.head_path),)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The base's blocks as ``(name, modules)``, from the image to the head: all parameters but the head's, once."""
        return base_blocks(self.net, self.net.get_submodule(self.head_path))

    def pretrained_on(self, statistics: InputStatistics | None) -> None:
        """From now on, bring images to these statistics, of any number of channels; None leaves them as they are."""
        fitted = None if statistics is None else statistics.for_channels(self.in_channels)
        self.input = PretrainedInput(fitted).to(self.last_linear.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(batch, class)`` of images ``(batch, channel, height, width)``.

        Raises:
            UsageError: The images have another number of axes or channels, or a size that the network cannot take.
        """
        self._check(images)
        return self.net(self.input(images))

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """The last linear layer's input ``(batch, feature)`` for images as in :meth:`forward`."""
        return self.forward_with_embedding(images)[1]

    def forward_with_embedding(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``(batch, class)`` and embedding ``(batch, feature)`` from one pass."""
        seen: list[torch.Tensor] = []
        hook = self.last_linear.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
        try:
            logits = self(images)
        finally:
            hook.remove()
        return logits, seen[-1]

    def _check(self, images: torch.Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise UsageError(
                f"the network '{self.name}' was given images of shape {tuple(images.shape)}",
                expected=f"(batch, {self.in_channels} channels, height, width)",
                remedy="give it the modalities that it was built for, in the same order",
            )
        height, width = images.shape[2:]
        if self.fixed_size and (height, width) != (self.image_size, self.image_size):
            raise UsageError(
                f"the network '{self.name}' was given images of {height} x {width} pixels",
                expected=f"{self.image_size} x {self.image_size} pixels: it takes the size that it was built for alone",
                remedy="resize the images, or build the network for another image size",
            )
        if min(height, width) < self.min_size:
            raise UsageError(
                f"the network '{self.name}' was given images of {height} x {width} pixels",
                expected=f"at least {self.min_size} x {self.min_size} pixels",
                remedy="resize the images to at least that",
            )
