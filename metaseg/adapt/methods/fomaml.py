"""First-order MAML: the outer gradient without the second derivative (Finn et al. 2017, section 5.2)."""

from __future__ import annotations

from metaseg.adapt.methods.maml import Maml
from metaseg.adapt.methods.registry import register_method
from metaseg.config import MetatuneConfig
from metaseg.errors import UsageError


@register_method(
    "fomaml",
    "meta",
    title="first-order MAML",
    paper="Finn et al. 2017, section 5.2",
    needs_source="optional",
    cost="per task: inner steps x support + query; multi-step loss: inner steps x query",
)
class FirstOrderMaml(Maml):
    """MAML whose inner gradients count as constants."""

    @classmethod
    def check(cls, config: MetatuneConfig) -> None:
        """Refuse a second derivative for a part of the budget.

        Raises:
            UsageError: Settings contradict the method.
        """
        if 0 < config.first_order_share < 1:
            raise UsageError(
                f"--first-order-share {config.first_order_share} with the method fomaml, which is first order always",
                remedy="use --method maml",
            )

    def first_order(self, progress: float) -> bool:
        """Always."""
        return True
