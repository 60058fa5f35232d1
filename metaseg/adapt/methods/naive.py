"""Naive fine-tuning (Han et al. 2018), the frame of all plain methods, and those that keep some of the weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from metaseg.adapt.batches import BalancedSlices, BatchSource
from metaseg.adapt.methods.registry import Stage, register_method
from metaseg.adapt.setup import AdaptationSetup
from metaseg.config.segmentation import NaivetuneConfig
from metaseg.errors import UsageError
from metaseg.models import build_segmenter
from metaseg.models.parts import (
    adapter_tensors,
    add_adapters,
    encoder_modules,
    freeze,
    head_modules,
    hold_still,
    merge_adapters,
    modules_beside,
)
from metaseg.training.optimization import build_loss


class Interpolation:
    """Gives the network that is kept, from the one that is tuned (WiSE-FT, Wortsman et al. 2022).

    Of two networks of which one was tuned from the other, a network on the straight line between their weights often
    does nearly as well as the tuned one on the target, and nearly as well as the pretrained one on the source. It costs
    no step and needs no source data.

    Args:
        pretrained: The network before tuning; its weights are copied.
        fraction: How far to go from the pretrained (0) to the tuned weights (1), in (0, 1].
    """

    def __init__(self, pretrained: nn.Module, fraction: float) -> None:
        self.fraction = fraction
        self.source = {name: value.detach().clone() for name, value in pretrained.state_dict().items()}

    def __call__(self, tuned: nn.Module) -> nn.Module:
        """The network to keep: ``tuned`` itself for a fraction of 1, otherwise a copy with the weights between.

        Parameters and running statistics are interpolated; counters are the tuned network's.

        Raises:
            UsageError: The tuned network is no longer of the pretrained one's architecture.
        """
        if self.fraction == 1:
            return tuned
        state = tuned.state_dict()
        if {name: value.shape for name, value in state.items()} != {n: v.shape for n, v in self.source.items()}:
            raise UsageError(
                "weights of two architectures cannot be interpolated", remedy="use --interpolation 1 with this method"
            )
        kept = copy.deepcopy(tuned)
        kept.load_state_dict(
            {
                name: torch.lerp(self.source[name].to(value), value, self.fraction)
                if value.is_floating_point()
                else value
                for name, value in state.items()
            }
        )
        return kept


PLAIN_DEFAULTS: MappingProxyType[str, Any] = MappingProxyType(
    {
        "learning_rate": 3e-4,
        "schedule": "constant",
        "augment": "none",
        "ema": 0.0,
        "interpolation": 1.0,
        "recall_weight": 0.7,
        "replay_fraction": 0.25,
        "replay_weight": 0.7,
    }
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
        defaults: Settings where none are given; see :func:`metaseg.adapt.methods.registry.resolve_defaults`.
        stages: What ``--effort`` tries, one stage after the other; see :mod:`metaseg.adapt.choice`.
        inherits: Whether the tuned weights descend from the pretrained ones, and so know the source's patients.
        still: Modules that are held in evaluation mode at every step; none unless :meth:`network` says so.

    Args:
        config: The verb's settings.
        setup: Network, shots and, where the method draws from it, source cases.
        fabric: Device and precision.
    """

    defaults: MappingProxyType[str, Any] = PLAIN_DEFAULTS
    stages: tuple[Stage, ...] = (
        Stage("rate", ({"learning_rate": 3e-4}, {"learning_rate": 1e-4}, {"learning_rate": 1e-3})),
    )
    inherits: bool = True
    still: Sequence[nn.Module] = ()

    def __init__(self, config: NaivetuneConfig, setup: AdaptationSetup, fabric: Fabric) -> None:
        self.config, self.setup, self.fabric = config, setup, fabric
        self.loss = build_loss(config.loss, setup.space, cast(float, config.recall_weight), fabric.device)

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
        return BalancedSlices.plan(self.setup, config.batch_size, steps, config.seed, config.augment)

    def objective(self, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        """What a step minimises, from images ``(batch, modality, height, width)`` and classes; a scalar.

        ``model`` may be wrapped for device and precision; take parameters from what :meth:`prepare` was given.
        """
        # At every step: the loop has put the whole network in training mode.
        hold_still(self.still)
        return self.loss(model(images), classes)

    def export(self, model: nn.Module) -> nn.Module:
        """The network to write as a checkpoint: one of the same architecture as the pretrained one."""
        return model

    def files(self, model: nn.Module) -> dict[str, dict[str, Tensor]]:
        """Tensors to write beside the checkpoint: those of ``NAME`` go to ``checkpoints/NAME.safetensors``."""
        return {}


@register_method(
    "scratch",
    "plain",
    title="the target alone, from random weights",
    paper="Lopez-Paz and Ranzato 2017, Gradient Episodic Memory for Continual Learning (the floor of forward transfer)",
)
class Scratch(Naive):
    """The pretrained network's architecture, drawn anew from the seed.

    Metrics *before* are still those of the pretrained network, as for all methods.
    """

    inherits = False

    def __init__(self, config: NaivetuneConfig, setup: AdaptationSetup, fabric: Fabric) -> None:
        if config.interpolation not in (None, 1.0):
            raise UsageError(
                "weights drawn anew cannot be interpolated with the pretrained ones",
                remedy="omit --interpolation",
            )
        super().__init__(config, setup, fabric)

    def network(self, model: nn.Module) -> nn.Module:
        """Another network of the same architecture; ``model`` stays as it is."""
        card = self.setup.network.card
        return build_segmenter(card.name, card.in_channels, card.num_classes, seed=self.config.seed, **card.options)


@register_method(
    "freeze-encoder",
    "plain",
    title="fine-tuning with a frozen encoder",
    paper="Yosinski et al. 2014, How transferable are features in deep neural networks?",
    cost="b for a batch of b slices, an upper bound: the backward pass ends at the encoder",
)
class FreezeEncoder(Naive):
    """The encoder, bottleneck included, stays that of the source; see :mod:`metaseg.models.parts`.

    Frozen layers are held in evaluation mode, so that they neither move the statistics of batch normalisation nor drop
    anything.
    """

    def frozen(self, model: nn.Module) -> tuple[nn.Module, ...]:
        """The modules that do not learn.

        Raises:
            UsageError: The parts of such a network are not known.
        """
        return encoder_modules(model)

    def network(self, model: nn.Module) -> nn.Module:
        """The network with some of its modules frozen, in place."""
        self.still = self.frozen(model)
        freeze(self.still)
        return model


@register_method(
    "head-only",
    "plain",
    title="fine-tuning of the head alone",
    paper="Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution",
    cost="b for a batch of b slices, an upper bound: the backward pass ends at the head",
)
class HeadOnly(FreezeEncoder):
    """All features stay those of the source; only the layers that classify them learn."""

    def frozen(self, model: nn.Module) -> tuple[nn.Module, ...]:
        """All modules but the head.

        Raises:
            UsageError: The parts of such a network are not known.
        """
        return modules_beside(model, head_modules(model))


@register_method(
    "wise-ft",
    "plain",
    title="weight interpolation",
    paper="Wortsman et al. 2022, Robust fine-tuning of zero-shot models (WiSE-FT)",
)
class WiseFt(Naive):
    """Naive fine-tuning whose network is kept half-way to the pretrained one, unless ``--interpolation`` says else."""

    defaults = MappingProxyType(Naive.defaults | {"interpolation": 0.5})


@register_method(
    "lora",
    "plain",
    title="LoRA: removable low-rank adapters",
    paper="Hu et al. 2022, LoRA: Low-Rank Adaptation of Large Language Models; Aleem et al. 2024, ConvLoRA",
)
class Lora(Naive):
    """Low-rank adapters on all convolutions, see :mod:`metaseg.models.parts`; nothing else learns.

    The update is not scaled (Hu et al.'s alpha is the rank). Batch normalisation keeps the source's statistics.

    The checkpoint has the adapters merged in. They also lie beside it, in ``checkpoints/adapters.safetensors`` (whole,
    also where ``--interpolation`` brings the checkpoint part of the way back): without them the network is the one that
    the run was tuned from, to the bit. In Python::

        source = load_network(tuned.parent).model
        load_adapters(source, load_file("RUN/checkpoints/adapters.safetensors"))  # the tuned network
        remove_adapters(source)  # the source network again
    """

    def network(self, model: nn.Module) -> nn.Module:
        """The network with adapters, all else frozen; in place."""
        add_adapters(model, self.config.lora_rank, self.config.seed)
        # Statistics of batch normalisation are no parameters, and would move in training mode.
        self.still = [module for module in model.modules() if any(True for _ in module.buffers(recurse=False))]
        return model

    def export(self, model: nn.Module) -> nn.Module:
        """A copy with the adapters merged in."""
        return merge_adapters(model)

    def files(self, model: nn.Module) -> dict[str, dict[str, Tensor]]:
        """The adapters alone."""
        return {"adapters": adapter_tensors(model)}
