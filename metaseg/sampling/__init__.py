"""The sampler core: which slices are drawn, in what order, into which task, and which are worth a label.

Pure functions on arrays with a ``numpy.random.Generator`` passed in: no torch, no files, no global randomness.
"""

from metaseg.sampling.active_orders import (
    NEEDS,
    STRATEGIES,
    Candidates,
    Ranking,
    Strategy,
    highest_first,
    rank_candidates,
    register_strategy,
)
from metaseg.sampling.balance import class_balanced_draw, foreground_epoch
from metaseg.sampling.decompose import SIDES, THRESHOLD_RULES, Decomposition, Side, decompose, tumour_slices
from metaseg.sampling.orders import ORDERS, Order, order_slices, register_order
from metaseg.sampling.pool import Pool
from metaseg.sampling.scheduler import Exp3S, band_chances, difficulty_bands, slice_preferences
from metaseg.sampling.scores import (
    aift_score,
    aift_scores,
    bald_score,
    band,
    committee_score,
    draw_from_band,
    least_confidence,
    margin_score,
    predictive_entropy,
    share_count,
    slice_dice,
    slice_entropy,
    trim,
)
from metaseg.sampling.tasks import CasePlan, Step, Task, group_support_query, pair_support_query, plan_case

__all__ = [
    "NEEDS",
    "ORDERS",
    "SIDES",
    "STRATEGIES",
    "THRESHOLD_RULES",
    "Candidates",
    "CasePlan",
    "Decomposition",
    "Exp3S",
    "Order",
    "Pool",
    "Ranking",
    "Side",
    "Step",
    "Strategy",
    "Task",
    "aift_score",
    "aift_scores",
    "bald_score",
    "band",
    "band_chances",
    "class_balanced_draw",
    "committee_score",
    "decompose",
    "difficulty_bands",
    "draw_from_band",
    "foreground_epoch",
    "group_support_query",
    "highest_first",
    "least_confidence",
    "margin_score",
    "order_slices",
    "pair_support_query",
    "plan_case",
    "predictive_entropy",
    "rank_candidates",
    "register_order",
    "register_strategy",
    "share_count",
    "slice_dice",
    "slice_entropy",
    "slice_preferences",
    "trim",
    "tumour_slices",
]
