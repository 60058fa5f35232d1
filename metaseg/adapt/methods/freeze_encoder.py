"""Fine-tuning behind a frozen encoder (Yosinski et al. 2014)."""

from __future__ import annotations

from torch import Tensor, nn

from metaseg.adapt.methods.naive import Naive
from metaseg.adapt.methods.registry import register_method
from metaseg.models.parts import encoder_modules, freeze, hold_still


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

    def objective(self, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        """As in naive fine-tuning."""
        # At every step: the loop has put the whole network in training mode.
        hold_still(self.still)
        return super().objective(model, images, classes)
