"""Fine-tuning of the head alone (linear probing; Kumar et al. 2022)."""

from __future__ import annotations

from torch import nn

from metaseg.adapt.methods.freeze_encoder import FreezeEncoder
from metaseg.adapt.methods.registry import register_method
from metaseg.models.parts import head_modules, modules_beside


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
