"""The sampler core: which slices are drawn, in what order, into which task, and which are worth a label.

Pure functions on arrays with a ``numpy.random.Generator`` passed in: no torch, no files, no global randomness.
"""

from metaseg.sampling.balance import class_balanced_draw, foreground_epoch
from metaseg.sampling.decompose import decompose, tumour_slices
from metaseg.sampling.orders import ORDERS, order_slices, register_order
from metaseg.sampling.patterns import PATTERNS, pattern_counts, prediction_patterns
from metaseg.sampling.pool import Pool
from metaseg.sampling.scheduler import Exp3S
from metaseg.sampling.scores import (
    aift_score,
    aift_scores,
    bald_score,
    band,
    committee_score,
    draw_from_band,
    fraction_count,
    least_confidence,
    margin_score,
    predictive_entropy,
    slice_dice,
    slice_entropy,
    trim,
)
from metaseg.sampling.strategies import (
    STRATEGIES,
    Candidates,
    Ranking,
    highest_first,
    rank_candidates,
    register_strategy,
)
from metaseg.sampling.tasks import pair_support_query, plan_case

__all__ = [
    "ORDERS",
    "PATTERNS",
    "STRATEGIES",
    "Candidates",
    "Exp3S",
    "Pool",
    "Ranking",
    "aift_score",
    "aift_scores",
    "bald_score",
    "band",
    "class_balanced_draw",
    "committee_score",
    "decompose",
    "draw_from_band",
    "foreground_epoch",
    "fraction_count",
    "highest_first",
    "least_confidence",
    "margin_score",
    "order_slices",
    "pair_support_query",
    "pattern_counts",
    "plan_case",
    "prediction_patterns",
    "predictive_entropy",
    "rank_candidates",
    "register_order",
    "register_strategy",
    "slice_dice",
    "slice_entropy",
    "trim",
    "tumour_slices",
]
