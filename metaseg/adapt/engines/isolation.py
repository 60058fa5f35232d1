"""Normalisation statistics during adaptation: which are used, and that no task leaks into another through them.

A batch normalisation in train mode moves its running mean and variance at every forward. In meta-tuning this would
carry one task's intensities into the next and into the pretrained network, although no parameter was updated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from torch import Tensor, nn

from metaseg.errors import UsageError

NormStatistics = Literal["running", "batch"]
"""``running``: layers that keep running statistics normalise by them, frozen, as in evaluation. ``batch``: they
normalise by the slices at hand, as in training; the statistics that they would keep are thrown away."""


def check_norm_statistics(choice: str) -> None:
    """Check a choice of statistics.

    Raises:
        UsageError: It is not one of :data:`NormStatistics`.
    """
    if choice not in get_args(NormStatistics):
        raise UsageError(
            f"unknown normalisation statistics '{choice}'", expected="one of " + ", ".join(get_args(NormStatistics))
        )


def isolate_buffers(clone: nn.Module, statistics: NormStatistics) -> None:
    """Give a clone, whose modules are its own but whose buffers are still the model's, buffers of its own.

    Then set its normalisation layers with running statistics as ``statistics`` says. Layers without them (instance
    and group normalisation as a rule) know one way only and are left alone.

    Args:
        clone: A module whose submodules and ``_buffers`` tables are not shared with the model it was made from.
        statistics: Which statistics the layers use.
    """
    copies: dict[int, Tensor] = {}
    for module in clone.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                # A buffer that two modules share stays shared.
                module._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
        if getattr(module, "running_mean", None) is not None:
            module.train(statistics == "batch")


@contextmanager
def isolated_buffers(model: nn.Module, statistics: NormStatistics) -> Iterator[None]:
    """:func:`isolate_buffers` on the model itself, for as long as the context lasts.

    Then it has its own buffers again, and its modules the mode in which they came.

    Args:
        model: The network.
        statistics: Which statistics the layers use meanwhile.
    """
    before = [(module, dict(module._buffers), module.training) for module in model.modules()]
    try:
        isolate_buffers(model, statistics)
        yield
    finally:
        for module, buffers, training in before:
            module._buffers.clear()
            module._buffers.update(buffers)
            module.training = training
