"""LoRA: low-rank adapters learn, the network itself stays (Hu et al. 2022)."""

from __future__ import annotations

from torch import Tensor, nn

from metaseg.adapt.methods.naive import Naive
from metaseg.adapt.methods.registry import register_method
from metaseg.models.lora_layers import adapter_tensors, add_adapters, merge_adapters
from metaseg.models.parts import hold_still


@register_method(
    "lora",
    "plain",
    title="LoRA: removable low-rank adapters",
    paper="Hu et al. 2022, LoRA: Low-Rank Adaptation of Large Language Models; Aleem et al. 2024, ConvLoRA",
)
class Lora(Naive):
    """Low-rank adapters on all convolutions, see :mod:`metaseg.models.lora_layers`; nothing else learns.

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
        self.still = [module for module in model.modules() if any(True for _ in module.buffers(recurse=False))]
        return model

    def objective(self, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        """As in naive fine-tuning."""
        # Statistics of batch normalisation are no parameters, and would move in training mode.
        hold_still(self.still)
        return super().objective(model, images, classes)

    def export(self, model: nn.Module) -> nn.Module:
        """A copy with the adapters merged in."""
        return merge_adapters(model)

    def files(self, model: nn.Module) -> dict[str, dict[str, Tensor]]:
        """The adapters alone."""
        return {"adapters": adapter_tensors(model)}
