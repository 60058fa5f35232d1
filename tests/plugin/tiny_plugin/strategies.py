"""A strategy that takes the last slices first."""

from __future__ import annotations

import numpy as np

from metaseg.sampling.strategies import Candidates, Ranking, register_strategy


@register_strategy("last-first", help="the last slices first")
def last_first(candidates: Candidates, rng: np.random.Generator) -> Ranking:
    """All candidates, from the last."""
    return Ranking(np.arange(candidates.count)[::-1])
