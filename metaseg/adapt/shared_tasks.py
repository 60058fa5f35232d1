"""Scores and tasks of meta-tuning shared out among processes; with one process everything is done by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from metaseg.adapt.engines import StepResult, TaskBatch
from metaseg.adapt.score_memory import SCORES
from metaseg.models.processes import combine_gradients, gather, row_bounds, several, share
from metaseg.sampling import Pool

T = TypeVar("T")


def score_shared(fabric: Fabric, score: Callable[[np.ndarray], Pool], slices: np.ndarray) -> Pool:
    """Score slices, each process a run of them.

    Args:
        fabric: Of this process.
        score: Scores stored slices; see :func:`~metaseg.adapt.scoring.score_slices`.
        slices: The slices of all.
    """
    if not several(fabric):
        return score(slices)
    bounds = row_bounds(len(slices), fabric.world_size)
    own = slices[bounds[fabric.global_rank] : bounds[fabric.global_rank + 1]]
    pools = [pool for pool in gather(fabric, [score(own) if len(own) else None]) if pool is not None]
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(pool, name) for pool in pools]) for name in ("index", *SCORES)
    }
    return Pool(**joined)


def of_first(fabric: Fabric, value: T) -> T:
    """The first process's value, for all."""
    return fabric.broadcast(value) if several(fabric) else value


def shared_step(
    fabric: Fabric,
    step: Callable[[Sequence[TaskBatch]], StepResult],
    tasks: Sequence[TaskBatch],
    learned: Sequence[Tensor],
) -> StepResult:
    """A meta-step whose tasks are shared out; outer gradients are summed, as over the tasks of one process.

    Args:
        fabric: Of this process.
        step: Adds the outer gradient of some tasks to ``p.grad``.
        tasks: All tasks of the meta-step.
        learned: What the outer optimiser learns.

    Returns:
        The losses of all tasks, in their order.
    """
    if not several(fabric):
        return step(tasks)
    own = share(fabric, tasks)
    result = step(own) if own else None
    combine_gradients(fabric, learned, mean=False)
    rows = [] if result is None else list(zip(result.support_losses.cpu(), result.query_losses.cpu(), strict=True))
    everyones = gather(fabric, rows)
    return StepResult(
        torch.stack([support for support, _ in everyones]), torch.stack([query for _, query in everyones])
    )
