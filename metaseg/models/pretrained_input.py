"""Bringing slices to the intensities that a pretrained network was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from metaseg.errors import UsageError

WINDOW = 2.5
"""Standard deviations around the mean of the foreground that become 0 to 1."""


@dataclass(frozen=True)
class InputStatistics:
    """Mean and standard deviation, for each input channel, of the images that a network was pretrained on.

    Attributes:
        mean: Of intensities from 0 to 1.
        std: Likewise.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def for_channels(self, in_channels: int) -> InputStatistics:
        """The same for another number of channels, each of which then gets the mean over the channels there were."""
        if len(self.mean) == in_channels:
            return self
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return InputStatistics((mean,) * in_channels, (std,) * in_channels)

    def to_json(self) -> dict[str, list[float]]:
        """As a model card records it."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any] | None) -> InputStatistics | None:
        """From what :meth:`to_json` gave; None stays None.

        Raises:
            UsageError: It is something else.
        """
        if raw is None:
            return None
        try:
            return cls(tuple(map(float, raw["mean"])), tuple(map(float, raw["std"])))
        except (TypeError, KeyError, ValueError) as error:
            raise UsageError(
                f"the input statistics {raw} cannot be read ({error!r})", expected="lists of numbers, mean and std"
            ) from error


class PretrainedInput(nn.Module):
    """From z-scores of the foreground, background 0, to what a pretrained network expects.

    Z-scores from -2.5 to 2.5 become 0 to 1, those beyond are cut off, and the background, which is exactly 0, becomes
    0, black, as in a picture; then the statistics' mean is subtracted and their deviation divided by. Without
    statistics images pass unchanged.

    The statistics are no part of the state dict: a model card records them.

    Args:
        statistics: Of the pretraining, for each channel; None for a network that was not pretrained.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, statistics: InputStatistics | None) -> None:
        super().__init__()
        self.statistics = statistics
        if statistics is not None:
            for name in ("mean", "std"):
                values = torch.tensor(getattr(statistics, name), device="cpu").view(1, -1, 1, 1)
                self.register_buffer(name, values, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images ``(batch, channel, height, width)``, brought to the statistics."""
        if self.statistics is None:
            return images
        pictures = ((images + WINDOW) / (2 * WINDOW)).clamp(0, 1)
        pictures = torch.where(images == 0, 0, pictures)
        return (pictures - self.mean) / self.std
