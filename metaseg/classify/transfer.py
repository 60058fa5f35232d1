"""Transfer strategies: what of a pretrained classifier is trained, and how fast (Al-Janabi; Zhou et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from metaseg.models import Classifier
from metaseg.models.parts import freeze, hold_still

SMALL = 1000
"""Training slices below which a set counts as small; Al-Janabi names no number, his set has 250 images."""


def choose_strategy(slices: int, weights: str, like: bool) -> tuple[str, str]:
    """Al-Janabi's rules: what to train, and why.

    Args:
        slices: Number of training slices.
        weights: ``none``, ``imagenet`` or a file.
        like: Whether the data are like those that the weights come from.

    Returns:
        The strategy, and the reason in words.
    """
    if weights == "none":
        return "scratch", "there are no pretrained weights"
    size = f"{slices} training slices are {'few' if slices < SMALL else 'many'} ({SMALL} is the line)"
    kind = "like" if like else "unlike"
    text = f"{size}, {kind} what the weights come from"
    if slices < SMALL:
        return ("freeze", text) if like else ("gradual-unfreeze", text)
    return "finetune", text


@dataclass(frozen=True)
class Transfer:
    """What is trained at the moment, and what rests.

    Attributes:
        model: The classifier.
        strategy: ``freeze``, ``finetune``, ``gradual-unfreeze`` or ``scratch``.
    """

    model: Classifier
    strategy: str

    @property
    def num_blocks(self) -> int:
        """Blocks of the base."""
        return len(self.model.blocks)

    def released(self, extra: dict[str, Any]) -> int:
        """Blocks that are trained, counted from the last."""
        if self.strategy == "freeze":
            return 0
        return int(extra.get("released", 0)) if self.strategy == "gradual-unfreeze" else self.num_blocks

    def apply(self, extra: dict[str, Any]) -> None:
        """Let the released blocks learn and hold the others still, batch normalisation's statistics included.

        Args:
            extra: The loop's ``extra``, where the number of released blocks is kept.
        """
        resting = self.num_blocks - self.released(extra)
        for number, (_, modules) in enumerate(self.model.blocks):
            if number < resting:
                freeze(modules)
                hold_still(modules)
            else:
                for module in modules:
                    module.requires_grad_(True)

    def parameter_groups(self, head_factor: float, bias_factor: float) -> list[dict[str, Any]]:
        """Groups for the optimiser, each with its share of the learning rate.

        Args:
            head_factor: Of the head, against the base.
            bias_factor: Of biases, against weights; Zhou et al. 2017 have 2.
        """
        groups = []
        base = (module for _, modules in self.model.blocks for module in modules)
        for modules, factor in ((base, 1.0), (iter(self.model.head_modules), head_factor)):
            weights, biases = _weights_and_biases(modules)
            groups += [
                {"params": weights, "rate_factor": factor},
                {"params": biases, "rate_factor": factor * bias_factor},
            ]
        return [group for group in groups if group["params"]]


def _weights_and_biases(modules: Iterable[nn.Module]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    weights: dict[int, nn.Parameter] = {}
    biases: dict[int, nn.Parameter] = {}
    for module in modules:
        for name, parameter in module.named_parameters():
            (biases if name.rpartition(".")[2] == "bias" else weights)[id(parameter)] = parameter
    return list(weights.values()), list(biases.values())
