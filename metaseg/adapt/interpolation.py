"""Interpolation between the pretrained and the tuned weights (WiSE-FT, Wortsman et al. 2022).

Of two networks of which one was tuned from the other, a network on the straight line between their weights often does
nearly as well as the tuned one on the target, and nearly as well as the pretrained one on the source. It costs no step
and needs no source data.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from metaseg.errors import UsageError


class Interpolation:
    """Gives the network that is kept, from the one that is tuned.

    Args:
        pretrained: The network before tuning; its weights are copied.
        share: How far to go from the pretrained (0) to the tuned weights (1), in (0, 1].
    """

    def __init__(self, pretrained: nn.Module, share: float) -> None:
        self.share = share
        self.source = {name: value.detach().clone() for name, value in pretrained.state_dict().items()}

    def __call__(self, tuned: nn.Module) -> nn.Module:
        """The network to keep: ``tuned`` itself for a share of 1, otherwise a copy with the weights between.

        Parameters and running statistics are interpolated; counters are the tuned network's.

        Raises:
            UsageError: The tuned network is no longer of the pretrained one's architecture.
        """
        if self.share == 1:
            return tuned
        state = tuned.state_dict()
        if {name: value.shape for name, value in state.items()} != {n: v.shape for n, v in self.source.items()}:
            raise UsageError(
                "weights of two architectures cannot be interpolated", remedy="use --interpolation 1 with this method"
            )
        kept = copy.deepcopy(tuned)
        kept.load_state_dict(
            {
                name: torch.lerp(self.source[name].to(value), value, self.share) if value.is_floating_point() else value
                for name, value in state.items()
            }
        )
        return kept
