"""First-order MAML: the outer gradient without the second derivative (Finn et al. 2017, section 5.2)."""

from __future__ import annotations

from metaseg.adapt.methods.maml import Maml
from metaseg.adapt.methods.registry import register_method


@register_method(
    "fomaml",
    "meta",
    title="first-order MAML",
    paper="Finn et al. 2017, section 5.2",
    needs_source="optional",
    cost="per task: inner steps x support + query",
)
class FirstOrderMaml(Maml):
    """MAML whose inner gradients count as constants."""

    def first_order(self, progress: float) -> bool:
        """Always."""
        return True
