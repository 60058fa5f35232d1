"""From scratch: the target is learned without any pretraining, as the floor that forward transfer is measured from."""

from __future__ import annotations

from lightning_fabric import Fabric
from torch import nn

from metaseg.adapt.methods.naive import Naive
from metaseg.adapt.methods.registry import register_method
from metaseg.adapt.setting import Setting
from metaseg.config import NaivetuneConfig
from metaseg.errors import UsageError
from metaseg.models import build_segmenter


@register_method(
    "scratch",
    "plain",
    title="the target alone, from random weights",
    paper="Lopez-Paz and Ranzato 2017, Gradient Episodic Memory for Continual Learning (the floor of forward transfer)",
)
class Scratch(Naive):
    """The pretrained network's architecture, drawn anew from the seed.

    Figures *before* are still those of the pretrained network, as for all methods.
    """

    inherits = False

    def __init__(self, config: NaivetuneConfig, setting: Setting, fabric: Fabric) -> None:
        if config.interpolation not in (None, 1.0):
            raise UsageError(
                "weights drawn anew cannot be interpolated with the pretrained ones",
                remedy="leave --interpolation away",
            )
        super().__init__(config, setting, fabric)

    def network(self, model: nn.Module) -> nn.Module:
        """Another network of the same architecture; ``model`` stays as it is."""
        card = self.setting.network.card
        return build_segmenter(card.name, card.in_channels, card.num_classes, seed=self.config.seed, **card.options)
