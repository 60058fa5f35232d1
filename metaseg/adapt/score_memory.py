"""Scores of cases remembered between visits, until the network has moved too far for them.

How far is measured along the path: the relative change of the parameters, added up over the meta-steps since a case was
scored. By the triangle inequality this is no less than the change between then and now, up to the slow growth of the
weights' norm, so that a case is rather scored too often than too rarely; and it needs one number for all cases, where
the change itself would need a copy of the weights for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metaseg.sampling import Pool

SCORES = ("dice", "entropy", "foreground")
"""What :func:`metaseg.adapt.scoring.score_slices` gives; other scores are added to a pool afterwards."""


@dataclass(frozen=True)
class _Scored:
    """A pool, and how far the network had come when it was scored."""

    travelled: float
    pool: Pool


class ScoreMemory:
    """Decides whether a case is scored anew.

    Args:
        tolerance: Relative change of the parameters up to which the scores of a case are used again; 0 scores always.
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.travelled = 0.0
        self.reused = 0
        self._scored: dict[str, _Scored] = {}

    def pool(self, case: str, slices: np.ndarray, score: Callable[[], Pool]) -> Pool:
        """The scores of a case's slices: remembered ones where they are near enough, else new ones.

        Args:
            case: The case's id.
            slices: Its stored slices, or those that are left of them.
            score: Scores these slices under the current network.
        """
        if not self.tolerance:
            return score()
        known = self._scored.get(case)
        if known is not None and self.travelled - known.travelled <= self.tolerance:
            rows = {int(index): row for row, index in enumerate(known.pool.index)}
            if all(int(index) in rows for index in slices):
                self.reused += 1
                return known.pool.take(np.array([rows[int(index)] for index in slices]))
        pool = score()
        self._scored[case] = _Scored(self.travelled, pool)
        return pool

    @contextmanager
    def moving(self, model: nn.Module) -> Iterator[None]:
        """Around an update of the network: add how far it goes."""
        if not self.tolerance:
            yield
            return
        before = [parameter.detach().clone() for parameter in model.parameters()]
        yield
        after = [parameter.detach() for parameter in model.parameters()]
        self.travelled += relative_change(before, after)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; plain values and tensors."""
        return {
            "travelled": self.travelled,
            "reused": self.reused,
            "scored": {
                case: {
                    "travelled": scored.travelled,
                    "index": torch.from_numpy(scored.pool.index),
                    "values": {name: torch.from_numpy(scored.pool.score(name)) for name in SCORES},
                }
                for case, scored in self._scored.items()
            },
        }

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; of a run that remembered nothing, nothing."""
        self.travelled, self.reused = values.get("travelled", 0.0), values.get("reused", 0)
        self._scored = {
            case: _Scored(
                own["travelled"],
                Pool(index=own["index"].numpy(), **{name: scores.numpy() for name, scores in own["values"].items()}),
            )
            for case, own in values.get("scored", {}).items()
        }


def relative_change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Euclidean distance of two sets of parameters, in norms of the first; in double precision."""
    moved = sum(float((new.double() - old.double()).square().sum()) for old, new in zip(before, after, strict=True))
    size = sum(float(old.double().square().sum()) for old in before)
    return (moved / size) ** 0.5 if size else float("inf")
