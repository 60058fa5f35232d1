"""Monte-Carlo dropout: dropping at inference, so that repeated passes show a network's uncertainty.

Gal, Ghahramani: Dropout as a Bayesian approximation. ICML 2016.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from metaseg.errors import UsageError


@contextmanager
def mc_dropout(model: nn.Module) -> Iterator[None]:
    """Let the dropout layers of a model drop inside, whatever its mode; all else, batch norm too, stays as it is.

    Only layers count (``nn.Dropout`` and its kin with a rate above 0), not calls of ``F.dropout`` within a network nor
    stochastic depth. torchvision's networks have layers. timm's Xception calls the function, with a rate of 0.

    Raises:
        UsageError: The model has no dropout layer.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _DropoutNd) and layer.p > 0]
    if not layers:
        raise UsageError(
            f"the network '{getattr(model, 'name', type(model).__name__)}' has no dropout",
            expected="a dropout layer, for Monte-Carlo dropout",
            remedy="build it with the dense head, which has one (--head dense), or choose a network that has one, "
            "such as vgg16 or mobilenetv2",
        )
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.train(mode)
