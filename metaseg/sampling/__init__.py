"""The sampler core: which slices are drawn, in what order, into which task.

Pure functions on arrays with a ``numpy.random.Generator`` passed in: no torch, no files, no global randomness.
"""

from metaseg.sampling.balance import class_balanced_draw, foreground_epoch
from metaseg.sampling.decompose import SIDES, THRESHOLD_RULES, Decomposition, Side, decompose
from metaseg.sampling.orders import ORDERS, Order, find_order, order_names, order_slices, register_order
from metaseg.sampling.pairing import group_support_query, pair_support_query
from metaseg.sampling.pool import Pool
from metaseg.sampling.scheduler import Exp3S, band_chances, difficulty_bands, slice_preferences
from metaseg.sampling.scores import predictive_entropy, slice_dice, slice_entropy
from metaseg.sampling.selection import tumour_slices
from metaseg.sampling.tasks import CasePlan, Step, Task, plan_case

__all__ = [
    "ORDERS",
    "SIDES",
    "THRESHOLD_RULES",
    "CasePlan",
    "Decomposition",
    "Exp3S",
    "Order",
    "Pool",
    "Side",
    "Step",
    "Task",
    "band_chances",
    "class_balanced_draw",
    "decompose",
    "difficulty_bands",
    "find_order",
    "foreground_epoch",
    "group_support_query",
    "order_names",
    "order_slices",
    "pair_support_query",
    "plan_case",
    "predictive_entropy",
    "register_order",
    "slice_dice",
    "slice_entropy",
    "slice_preferences",
    "tumour_slices",
]
