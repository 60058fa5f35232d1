"""Remember the worst predictions of an evaluation, so that they can be drawn at its end."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from lightning_fabric import Fabric

from metaseg.models.processes import gather, several
from metaseg.store.stored_case import StoredCase


@dataclass(frozen=True)
class Prediction:
    """A prediction in little memory: only its tumour voxels are kept.

    Attributes:
        case: The case.
        score: Mean Dice of its regions, in [0, 1].
        voxels: Flat positions of the voxels that are not background.
        values: Their classes.
    """

    case: StoredCase
    score: float
    voxels: np.ndarray
    values: np.ndarray

    def class_map(self) -> np.ndarray:
        """The prediction ``(slices, height, width)``, ``uint8``."""
        classes = np.zeros(self.case.info.geometry.canonical_shape, dtype=np.uint8)
        classes.reshape(-1)[self.voxels] = self.values
        return classes


@dataclass
class WorstCases:
    """The cases with the lowest scores among those offered.

    Attributes:
        count: How many to keep.
    """

    count: int
    _heap: list[tuple[float, int, Prediction]] = field(default_factory=list)
    _offered: int = 0

    def offer(self, case: StoredCase, classes: np.ndarray, score: float) -> None:
        """Keep a prediction if it is among the worst so far; of equal scores the first stays.

        Args:
            case: The case.
            classes: Class values ``(slices, height, width)``.
            score: Higher is better.
        """
        self._offered += 1
        if self.count == 0 or (len(self._heap) == self.count and score >= -self._heap[0][0]):
            return
        voxels = np.flatnonzero(classes)
        self._keep(Prediction(case, score, voxels, classes.reshape(-1)[voxels]))

    def merge(self, fabric: Fabric, cases: Sequence[StoredCase]) -> None:
        """Have in all processes what one would have kept that had been offered everything.

        Args:
            fabric: Of this process.
            cases: All cases, in their order.
        """
        if not several(fabric):
            return
        place = {case.id: number for number, case in enumerate(cases)}
        mine = [(place[one.case.id], one.score, one.voxels, one.values) for one in self.worst_first()]
        everyones = sorted(chain.from_iterable(gather(fabric, [mine])), key=lambda entry: entry[0])
        self._heap, self._offered = [], 0
        for number, score, voxels, values in everyones:
            self._offered += 1
            self._keep(Prediction(cases[number], score, voxels, values))

    def _keep(self, prediction: Prediction) -> None:
        # The heap's root is the best of the worst: lowest negative score, and of equals the latest.
        heapq.heappush(self._heap, (-prediction.score, -self._offered, prediction))
        if len(self._heap) > self.count:
            heapq.heappop(self._heap)

    def worst_first(self) -> list[Prediction]:
        """What was kept, the lowest score first."""
        return [kept for _, _, kept in sorted(self._heap, key=lambda entry: (-entry[0], -entry[1]))]
