"""Transfer of a pretrained classifier: which blocks of its base learn, from when on, and how ``auto`` chooses.

Al-Janabi: Deep learning transfer methods for biomedical classification of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from metaseg.config.classification import ClassifyTrainConfig
from metaseg.errors import UsageError
from metaseg.models import Classifier
from metaseg.models.card import checkpoint_files
from metaseg.models.parts import freeze, hold_still
from metaseg.runs.networks import weights_file

AUTO: Mapping[tuple[str, str], str] = {
    ("large", "similar"): "freeze",
    ("small", "similar"): "freeze",
    ("small", "different"): "gradual-unfreeze",
    ("large", "different"): "finetune",
}
"""What Al-Janabi's text has for a data set by its size and its similarity to what the weights were trained on."""
LARGE = 1000
"""Training slices from which a set counts as large; Al-Janabi names no number, his set has 250 images."""
KEEPING = ("freeze", "last-block", "gradual-unfreeze")
"""Ways of transfer that keep part of the base as it comes, and so need weights that are worth it."""


def choose_transfer(config: ClassifyTrainConfig, slices: int) -> tuple[str, str]:
    """The transfer that is asked for, or what ``auto`` stands for by Al-Janabi's four cases; and why.

    The size is ``config.auto_size`` or, where that is not given, ``large`` from :data:`LARGE` training slices on. The
    similarity is ``config.auto_similarity`` or ``similar`` for weights of another run, which has learned scans, and
    ``different`` for all others, such as ImageNet's, from the library or from a file.

    Args:
        config: The settings.
        slices: Number of training slices.

    Returns:
        The transfer, and the reason in words.
    """
    if config.transfer != "auto":
        return config.transfer, "as asked for"
    if config.weights == "none":
        return "scratch", "there are no pretrained weights"
    size = config.auto_size or ("large" if slices >= LARGE else "small")
    of_run = config.weights != "imagenet" and checkpoint_files(Path(weights_file(config.weights)))[1].is_file()
    similarity = config.auto_similarity or ("similar" if of_run else "different")
    line = "as stated" if config.auto_size else f"large from {LARGE} on"
    told = "as stated" if config.auto_similarity else f"they are {'' if of_run else 'not '}of a run"
    reason = f"{slices} training slices are a {size} set ({line}), {similarity} to what the weights are of ({told})"
    transfer = AUTO[size, similarity]
    if transfer == "freeze" and config.head == "linear":
        reason += "; the paper puts dense layers on the frozen base (--head dense)"
    return transfer, reason


def check_transfer(config: Any) -> None:
    """Raise where the transfer, the weights to begin with and what ``auto`` is told contradict each other.

    Args:
        config: Settings with ``transfer`` and ``weights``.

    Raises:
        UsageError: They do.
    """
    transfer, weights = config.transfer, config.weights
    if transfer == "scratch" and weights != "none":
        raise UsageError(
            f"--transfer scratch with --weights {weights}", remedy="omit the weights, or choose another transfer"
        )
    if transfer in KEEPING and weights == "none":
        raise UsageError(
            f"--transfer {transfer} without --weights",
            expected="weights that are worth keeping",
            remedy="give --weights imagenet, a file or the run of another classifier, or use --transfer scratch",
        )


@dataclass(frozen=True)
class Transfer:
    """What is trained at the moment, and what rests.

    Attributes:
        model: The classifier.
        name: ``freeze``, ``last-block``, ``finetune``, ``gradual-unfreeze`` or ``scratch``.

    Raises:
        UsageError: ``last-block`` of a network without a last convolutional block.
    """

    model: Classifier
    name: str

    def __post_init__(self) -> None:
        if self.name == "last-block" and not 0 < self._last_block < self.num_blocks:
            raise UsageError(
                f"the network '{self.model.name}' has no last convolutional block: of its blocks "
                + ", ".join(name for name, _ in self.model.blocks)
                + (" only the first has convolutions" if self._last_block == 0 else " none has convolutions"),
                expected="a convolutional network, for --transfer last-block",
                remedy="choose another network, or --transfer gradual-unfreeze",
            )

    @cached_property
    def _last_block(self) -> int:
        """Number of the last block with a convolution; that of all blocks if none has one."""
        convolutional = [
            number
            for number, (_, modules) in enumerate(self.model.blocks)
            if any(isinstance(part, nn.Conv2d) for module in modules for part in module.modules())
        ]
        return max(convolutional, default=self.num_blocks)

    @property
    def num_blocks(self) -> int:
        """Blocks of the base."""
        return len(self.model.blocks)

    def released(self, extra: Mapping[str, Any]) -> int:
        """Blocks that are trained, counted from the last."""
        if self.name == "freeze":
            return 0
        if self.name == "last-block":
            return self.num_blocks - self._last_block
        return int(extra.get("released", 0)) if self.name == "gradual-unfreeze" else self.num_blocks

    def stage_ends(self, total_steps: int, stage_steps: int) -> tuple[int, ...]:
        """Steps after which gradual unfreezing lets the next block go; none for other ways of transfer.

        Args:
            total_steps: Steps of the whole training, which all stages share.
            stage_steps: Steps of a stage, the last of which lasts to the end; 0 divides them evenly.
        """
        if self.name != "gradual-unfreeze":
            return ()
        stages = range(1, self.num_blocks + 1)
        ends = [stage * (stage_steps or total_steps / (self.num_blocks + 1)) for stage in stages]
        return tuple(sorted({round(end) for end in ends if 0 < round(end) < total_steps}))

    def apply(self, extra: Mapping[str, Any]) -> None:
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
        """Groups for the optimiser, each with its part of the learning rate.

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
