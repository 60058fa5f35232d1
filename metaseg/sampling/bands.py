"""Bands of a ranking: drop its ends, or keep what lies between two shares (Hao et al. 2021)."""

from __future__ import annotations

import math

import numpy as np

from metaseg.errors import UsageError
from metaseg.sampling.scores import IntArray


def share_count(total: int, share: float) -> int:
    """How many of ``total`` a share is: ``total * share``, rounded, halves up.

    A product that falls short of a whole or half number by float error alone is taken as that number.

    Args:
        total: At least 0.
        share: ``0 .. 1``.

    Raises:
        ValueError: A value is out of range.
    """
    if total < 0 or not 0 <= share <= 1:
        raise ValueError(f"need a total from 0 on and a share in 0 .. 1, got {total} and {share}")
    return min(math.floor(total * share + 0.5 + 1e-9), total)


def band(ranking: np.ndarray, low: float, high: float) -> IntArray:
    """What lies between two shares of a ranking.

    Args:
        ranking: Positions, first to be drawn first, as :func:`~metaseg.sampling.orders.order_slices` gives them.
        low: Share of the ranking that comes before the band.
        high: Share at which the band ends; bands that share an edge neither overlap nor leave a gap.

    Returns:
        The positions in the band, in the sequence of the ranking.

    Raises:
        ValueError: Not ``0 <= low <= high <= 1``.
    """
    if not low <= high:
        raise ValueError(f"a band from {low} to {high}")
    ranked = np.asarray(ranking, dtype=np.int64)
    return ranked[share_count(ranked.size, low) : share_count(ranked.size, high)]


def trim(ranking: np.ndarray, drop_top: float = 0.1, drop_bottom: float = 0.1) -> IntArray:
    """A ranking without its ends.

    Args:
        ranking: Positions, first to be drawn first.
        drop_top: Share that is left out at the beginning.
        drop_bottom: Share that is left out at the end.

    Returns:
        What is left, in the sequence of the ranking; nothing where both shares together take all.

    Raises:
        ValueError: A share is outside ``0 .. 1``.
    """
    ranked = np.asarray(ranking, dtype=np.int64)
    begin, end = share_count(ranked.size, drop_top), ranked.size - share_count(ranked.size, drop_bottom)
    return ranked[begin : max(begin, end)]


def draw_from_band(
    ranking: np.ndarray, count: int, rng: np.random.Generator, drop_top: float = 0.1, drop_bottom: float = 0.1
) -> IntArray:
    """Draw at random from a ranking whose ends were dropped (Hao et al. 2021, step 4 and the study of sizes).

    In the paper the most uncertain tenth and the least uncertain tenth are left out, both having made results worse.

    Args:
        ranking: Positions, first to be drawn first.
        count: How many to draw; often :func:`share_count` of the *whole* ranking, as in the paper's Table 5.
        rng: The source of randomness.
        drop_top: Share that is left out at the beginning.
        drop_bottom: Share that is left out at the end.

    Returns:
        ``(count,)`` positions, in the sequence in which they were drawn, each once.

    Raises:
        UsageError: Fewer are left than are wanted.
        ValueError: A share is outside ``0 .. 1`` or the count below 0.
    """
    if count < 0:
        raise ValueError(f"cannot draw {count}")
    rest = trim(ranking, drop_top, drop_bottom)
    if count > rest.size:
        raise UsageError(
            f"{count} samples are wanted, but {rest.size} of {np.size(ranking)} are left in the band",
            expected=f"at most {rest.size}",
            remedy=f"ask for fewer, or drop less than {drop_top:g} at the top and {drop_bottom:g} at the bottom",
        )
    return rng.permutation(rest)[:count]
