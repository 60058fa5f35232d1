"""Learning rate as a function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math


def learning_rate(step: int, total: int, first: float, schedule: str, warmup: int = 0) -> float:
    """Learning rate of one step.

    Args:
        step: Number of the step, from 0.
        total: Steps of the whole training.
        first: Rate after the warm-up.
        schedule: ``poly`` (power 0.9), ``cosine`` or ``constant``.
        warmup: Steps over which the rate rises linearly.

    Returns:
        A rate in (0, first].
    """
    warmup = min(warmup, total // 10)
    if step < warmup:
        return first * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    if schedule == "poly":
        return first * (1 - share) ** 0.9
    if schedule == "cosine":
        return first * 0.5 * (1 + math.cos(math.pi * share))
    return first
