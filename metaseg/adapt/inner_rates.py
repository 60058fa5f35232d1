"""Inner learning rates that are learned with the network: one for each element, or for each layer and inner step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from metaseg.errors import RunError

UNIT = 32.0
"""Learned values are in units of so many α: an Adam step at outer rate β moves a rate by about 32 β α, one hundredth of
α at the default β of 3e-4. MAML++ moves its rates at the same pace (β 1e-3, α 0.1). Moved by β itself, a rate of 0.01
would double within 33 steps. A power of two, so that rates start at α to the bit."""


class LearnedRates:
    """Inner rates, plain values as in the papers: they may pass zero and become negative.

    Args:
        adapted: The parameters of the inner loop, by name.
        rate: α, with which all begin.
        steps: Inner steps.
        each: ``"element"``: a rate for every element, the same in all steps (Meta-SGD, Li et al. 2017);
            ``"layer"``: a rate for every parameter tensor and step (MAML++, Antoniou et al. 2019).
    """

    def __init__(
        self, adapted: Mapping[str, nn.Parameter], rate: float, steps: int, each: Literal["element", "layer"]
    ) -> None:
        self.scale, self.steps, self.each = UNIT * rate, steps, each
        self.values = {
            name: nn.Parameter(
                one.new_full(one.shape if each == "element" else (steps,), 1 / UNIT, requires_grad=False)
            )
            for name, one in adapted.items()
        }

    def parameters(self) -> list[nn.Parameter]:
        """What the outer optimiser learns: the rates in units of :data:`UNIT` α."""
        return list(self.values.values())

    def tables(self) -> list[dict[str, Tensor]]:
        """The rates of each inner step, tied to :meth:`parameters` by their graph."""
        with torch.enable_grad():
            rates = {name: self.scale * value for name, value in self.values.items()}
            if self.each == "element":
                return [rates] * self.steps
            return [{name: rate[step] for name, rate in rates.items()} for step in range(self.steps)]

    def state_dict(self) -> dict[str, Tensor]:
        """The learned values, by the parameter's name."""
        return {name: value.detach() for name, value in self.values.items()}

    def load_state_dict(self, values: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            RunError: The values are those of another network or number of inner steps.
        """
        found = {name: tuple(value.shape) for name, value in values.items()}
        expected = {name: tuple(value.shape) for name, value in self.values.items()}
        if found != expected:
            raise RunError(
                "the saved inner rates do not fit the network and its inner steps",
                expected="the settings with which the run was begun",
                remedy="start the run again with --overwrite",
            )
        with torch.no_grad():
            for name, value in values.items():
                self.values[name].copy_(value)
