"""Naive fine-tuning (Han et al. 2018), and the frame in which the forgetting-aware methods differ from it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor, nn

from metaseg.adapt.balanced_slices import BalancedSlices, BatchSource
from metaseg.adapt.methods.registry import register_method
from metaseg.adapt.setting import Setting
from metaseg.config import NaivetuneConfig
from metaseg.training.losses import DiceCrossEntropy

PLAIN_DEFAULTS: MappingProxyType[str, Any] = MappingProxyType(
    {"learning_rate": 3e-4, "schedule": "constant", "augment": "none", "ema": 0.0, "interpolation": 1.0}
)


@register_method(
    "naive",
    "plain",
    title="naive fine-tuning",
    paper="Han et al. 2018, Learning to Learn Unlearned Feature for Brain Tumor Segmentation",
)
class Naive:
    """Plain fine-tuning on class-balanced slices. A method of the plain family overrides what it does otherwise.

    The verb calls, in this sequence: :meth:`network` on the CPU, :meth:`prepare` on the device, :meth:`batches`, and
    then :meth:`objective` at every step; :meth:`export` and :meth:`files` whenever weights are written. A resumed run
    calls the first three again before it loads its weights, so they must be functions of the settings alone.

    Attributes:
        defaults: Settings where none are given; see :func:`metaseg.adapt.method_defaults.resolve_defaults`.
        inherits: Whether the tuned weights descend from the pretrained ones, and so know the source's patients.

    Args:
        config: The verb's settings.
        setting: Network, shots and, where the method draws from it, source memory.
        fabric: Device and precision.
    """

    defaults: MappingProxyType[str, Any] = PLAIN_DEFAULTS
    inherits: bool = True

    def __init__(self, config: NaivetuneConfig, setting: Setting, fabric: Fabric) -> None:
        self.config, self.setting, self.fabric = config, setting, fabric
        self.loss = DiceCrossEntropy(setting.space, config.recall_weight).to(fabric.device)

    def network(self, model: nn.Module) -> nn.Module:
        """The network to train, from the pretrained one: layers frozen, wrapped or drawn anew, in place or not."""
        return model

    def prepare(self, model: nn.Module) -> int:
        """Work before the first step, with the network to train on its device.

        Returns:
            Slice gradient evaluations that it cost; they count toward the budget.
        """
        return 0

    def batches(self, steps: int) -> BatchSource:
        """All batches of a training of so many steps."""
        config = self.config
        return BalancedSlices.plan(self.setting, config.batch_size, steps, config.seed, config.augment)

    def objective(self, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        """What a step minimises, from images ``(batch, modality, height, width)`` and classes; a scalar.

        ``model`` may be wrapped for device and precision; take parameters from what :meth:`prepare` was given.
        """
        return self.loss(model(images), classes)

    def export(self, model: nn.Module) -> nn.Module:
        """The network to write as a checkpoint: one of the same architecture as the pretrained one."""
        return model

    def files(self, model: nn.Module) -> dict[str, dict[str, Tensor]]:
        """Tensors to write beside the checkpoint: those of ``NAME`` go to ``checkpoints/NAME.safetensors``."""
        return {}
