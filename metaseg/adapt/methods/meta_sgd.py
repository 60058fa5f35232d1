"""Meta-SGD: MAML that learns the direction and size of its inner step (Li et al. 2017)."""

from __future__ import annotations

from metaseg.adapt.inner_rates import LearnedRates
from metaseg.adapt.methods.maml import Maml, Parameters
from metaseg.adapt.methods.registry import register_method
from metaseg.config import MetatuneConfig
from metaseg.errors import UsageError


@register_method(
    "meta-sgd",
    "meta",
    title="Meta-SGD",
    paper="Li et al. 2017, Meta-SGD: Learning to Learn Quickly for Few-Shot Learning",
    needs_source="optional",
    cost="as maml",
)
class MetaSgd(Maml):
    """MAML with an inner rate for every element of every parameter, learned by the outer optimiser.

    The rates begin at ``inner_learning_rate``, serve all inner steps alike and are plain values, which may become
    negative, as in the paper. :data:`metaseg.adapt.inner_rates.UNIT` says how fast they move.
    """

    @classmethod
    def check(cls, config: MetatuneConfig) -> None:
        """Refuse a second set of learned rates.

        Raises:
            UsageError: Settings contradict the method or each other.
        """
        super().check(config)
        if config.learned_inner_rates:
            raise UsageError(
                "--learned-inner-rates with the method meta-sgd, which learns a rate for every element already",
                remedy="leave the option out, or use --method maml",
            )

    def learned_rates(self, adapted: Parameters) -> LearnedRates:
        """A rate for every element."""
        return LearnedRates(adapted, self.config.inner_learning_rate, self.config.inner_steps, "element")
