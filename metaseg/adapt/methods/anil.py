"""ANIL: almost no inner loop (Raghu et al. 2020, Rapid Learning or Feature Reuse?)."""

from __future__ import annotations

from torch import nn

from metaseg.adapt.methods.maml import Maml, Parameters
from metaseg.adapt.methods.registry import register_method
from metaseg.errors import UsageError
from metaseg.models.parts import head_modules


@register_method(
    "anil",
    "meta",
    title="ANIL",
    paper="Raghu et al. 2020, Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML",
    needs_source="optional",
    cost="as maml, an upper bound: the inner backward pass ends at the head",
)
class Anil(Maml):
    """MAML whose inner loop adapts the head alone; the outer loop learns all layers.

    Its cost is counted as MAML's, which is an upper bound: the forward passes are the same, but the inner backward pass
    and its derivative go through the head only.
    """

    def inner_parameters(self, model: nn.Module, trainable: Parameters) -> Parameters:
        """Those of the head.

        Raises:
            UsageError: It is not known which layers are the head, or all of them are frozen.
        """
        head = {id(one) for module in head_modules(model) for one in module.parameters()}
        adapted = {name: one for name, one in trainable.items() if id(one) in head}
        if not adapted:
            raise UsageError(
                "the network's head is frozen, and the method anil adapts nothing else",
                remedy="unfreeze the head, or use --method maml",
            )
        return adapted
