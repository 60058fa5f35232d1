"""WiSE-FT: fine-tune, then go back part of the way to the pretrained weights (Wortsman et al. 2022)."""

from __future__ import annotations

from types import MappingProxyType

from metaseg.adapt.methods.naive import Naive
from metaseg.adapt.methods.registry import register_method


@register_method(
    "wise-ft",
    "plain",
    title="weight interpolation",
    paper="Wortsman et al. 2022, Robust fine-tuning of zero-shot models (WiSE-FT)",
)
class WiseFt(Naive):
    """Naive fine-tuning whose network is kept half-way to the pretrained one, unless ``--interpolation`` says else."""

    defaults = MappingProxyType(Naive.defaults | {"interpolation": 0.5})
