"""Slices of the source disease as tasks of a meta-step, so that it is rehearsed while the target is learned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metaseg.cases.labels import LabelSpace
from metaseg.sampling import group_support_query, tumour_slices
from metaseg.store.store import SliceStore
from metaseg.store.stored_case import StoredCase


@dataclass(frozen=True)
class SourceTask:
    """Support and query out of one source case; stored slices.

    Attributes:
        case: The case.
        support: Slices of the inner loop.
        query: Slices of the outer loop; none of them is support.
    """

    case: StoredCase
    support: tuple[int, ...]
    query: tuple[int, ...]


class SourceTasks:
    """Draws source tasks; each is a function of the seed and its number.

    Cases are visited in turn, in an order drawn anew for every pass; of a case, tumour-bearing slices are drawn
    without replacement.

    Args:
        memory: Labelled source cases.
        space: The network's label space.
        support_size: Slices of an inner loop.
        query_size: Slices of an outer loop.
        seed: Seed of all draws.

    Raises:
        ValueError: No case has slices enough for a task.
    """

    def __init__(self, memory: SliceStore, space: LabelSpace, support_size: int, query_size: int, seed: int) -> None:
        self.sizes, self.seed = (support_size, query_size), seed
        bearing = [(case, tumour_slices(case.areas(space)[:, 1:], case.num_slices)) for case in memory]
        self.cases = [(case, slices) for case, slices in bearing if len(slices) >= support_size + query_size]
        if not self.cases:
            raise ValueError(f"no source case has {support_size + query_size} slices with tumour")

    def draw(self, number: int) -> SourceTask:
        """The task of a number, counted from 0 over the whole tuning."""
        round_, position = divmod(number, len(self.cases))
        chosen = np.random.default_rng([self.seed, 41, round_]).permutation(len(self.cases))[position]
        case, slices = self.cases[chosen]
        shuffled = np.random.default_rng([self.seed, 42, number]).permutation(slices)
        support, query = group_support_query(shuffled, *self.sizes)[0]
        return SourceTask(case, support, query)
