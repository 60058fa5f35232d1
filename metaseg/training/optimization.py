"""What a training minimises and how: the segmentation loss, optimisers, learning rates and averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from monai.losses.tversky import TverskyLoss
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from metaseg.cases.labels import LabelSpace
from metaseg.registry import import_object


class DiceCrossEntropy(nn.Module):
    """Pixel-wise cross-entropy plus soft Dice, summed.

    Soft Dice is taken over the label space's regions (WT, TC, ET), whose probabilities are sums of class
    probabilities: those are what metrics are given for, and small classes are then never alone (Wang et al. 2017,
    Isensee et al. 2020). Dice pools the pixels of the whole batch, so that a slice without a region does not turn
    the term into noise.

    With ``recall_weight`` other than 0.5 it is the Tversky index (Salehi et al. 2017), in which a missed pixel weighs
    ``recall_weight`` and a false one ``1 - recall_weight``; at 0.5 that is Dice. What a network trained on few patients
    gets wrong on an unseen scanner is nearly always missed tumour.

    Args:
        space: The classes of the logits.
        recall_weight: Weight of missed pixels, in [0, 1].
    """

    membership: Tensor

    def __init__(self, space: LabelSpace, recall_weight: float = 0.5) -> None:
        super().__init__()
        membership = torch.zeros(len(space.regions), space.num_classes)
        for row, classes in enumerate(space.regions.values()):
            membership[row, list(classes)] = 1.0
        self.register_buffer("membership", membership, persistent=False)
        # Half the smoothing, since the Tversky index halves numerator and denominator of Dice.
        self.overlap = TverskyLoss(
            alpha=1 - recall_weight, beta=recall_weight, batch=True, smooth_nr=5e-6, smooth_dr=5e-6
        )

    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Loss of logits ``(batch, class, height, width)`` and classes ``(batch, height, width)``; a scalar >= 0."""
        classes = classes.long()
        entropy = F.cross_entropy(logits, classes)
        membership = self.membership.to(logits)
        regions = torch.einsum("rc,bchw->brhw", membership, torch.softmax(logits, dim=1))
        truth = membership.t()[classes].permute(0, 3, 1, 2)
        return entropy + self.overlap(regions, truth)


Loss = Callable[[Tensor, Tensor], Tensor]
"""A loss: logits ``(batch, class, height, width)`` and classes ``(batch, height, width)`` to a scalar."""

_GIVEN: dict[str, Loss] = {}


def give_loss(loss: Loss) -> str:
    """A name under which this process finds a loss in memory, wherever ``--loss`` takes a name.

    Args:
        loss: A function, or a module of torch. Another process, such as one that resumes the run, imports it by the
            name, so it must be a function of a module there.
    """
    kind = loss if hasattr(loss, "__qualname__") else type(loss)
    name = f"{kind.__module__}:{kind.__qualname__}"
    _GIVEN[name] = loss
    return name


def build_loss(name: str, space: LabelSpace, recall_weight: float, device: torch.device) -> Loss:
    """The loss of ``--loss``, on a device.

    Args:
        name: ``dice-ce``, a name of :func:`give_loss`, or a reference ``package.module:function``.
        space: The classes of the logits.
        recall_weight: See :class:`DiceCrossEntropy`; other losses do without it.
        device: Where a loss that is a module goes.

    Raises:
        UsageError: There is no such function.
    """
    if name == "dice-ce":
        return DiceCrossEntropy(space, recall_weight).to(device)
    loss: Any = _GIVEN[name] if name in _GIVEN else import_object(name, "loss")
    if isinstance(loss, type):
        loss = loss()
    return loss.to(device) if isinstance(loss, nn.Module) else loss


def build_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter] | list[dict[str, Any]],
    rate: float,
    weight_decay: float = 0.0,
    momentum: float = 0.99,
    nesterov: bool = True,
) -> Optimizer:
    """An optimiser over the parameters that are trained.

    Args:
        name: ``adamw``, ``adam`` or ``sgd``.
        parameters: Parameters, of which those without gradient are left out; or groups of them, which are taken whole.
        rate: Learning rate.
        weight_decay: Decoupled for ``adamw``, an L2 term otherwise.
        momentum: Of ``sgd``.
        nesterov: Nesterov's momentum, where there is any.

    Raises:
        ValueError: Unknown name.
    """
    trained: list[Any] = [entry for entry in parameters if isinstance(entry, dict) or entry.requires_grad]
    if name == "adamw":
        return torch.optim.AdamW(trained, lr=rate, weight_decay=weight_decay)
    if name == "adam":
        return torch.optim.Adam(trained, lr=rate, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(
            trained, lr=rate, momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=weight_decay
        )
    raise ValueError(f"unknown optimiser {name!r}")


def learning_rate(step: int, total: int, first: float, schedule: str, warmup: int = 0) -> float:
    """Learning rate of one step.

    Args:
        step: Number of the step, from 0.
        total: Steps of the whole training.
        first: Rate after the warm-up.
        schedule: ``poly`` (power 0.9), ``cosine`` or ``constant``.
        warmup: Steps over which the rate rises linearly.

    Returns:
        A rate in (0, first].
    """
    warmup = min(warmup, total // 10)
    if step < warmup:
        return first * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    if schedule == "poly":
        return first * (1 - progress) ** 0.9
    if schedule == "cosine":
        return first * 0.5 * (1 + math.cos(math.pi * progress))
    return first


class AveragedModel:
    """A copy of a network whose weights follow the original's with a delay.

    The decay grows from 0 to its value over the first steps, ``min(decay, (1 + n) / (10 + n))``, so that the random
    initialisation is soon forgotten.

    Args:
        model: The network that is trained.
        decay: Share of the old average that is kept at each step, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average toward ``model``; buffers are copied."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages: list[Tensor] = [average.data for average in self.model.parameters()]
        values: list[Tensor] = [value.detach() for value in model.parameters()]
        torch._foreach_lerp_(averages, values, 1 - decay)
        for average, value in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(value)

    def saved(self) -> dict[str, Any]:
        """What a training state keeps of it."""
        return {"average": self.model.state_dict(), "average_updates": self.updates}

    def restore(self, values: Mapping[str, Any]) -> None:
        """The inverse of :meth:`saved`; other values of the training state are passed over."""
        self.model.load_state_dict(values["average"])
        self.updates = values["average_updates"]
