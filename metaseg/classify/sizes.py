"""How many labels a round and a whole run of active learning may take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metaseg.config_classify import ClassifyActiveConfig
from metaseg.errors import UsageError
from metaseg.sampling.bands import share_count, trim


@dataclass(frozen=True)
class Sizes:
    """Numbers of slices.

    Attributes:
        initial: Labelled by chance before the first choice.
        batch: Chosen in each round.
        budget: Labels in all.
    """

    initial: int
    batch: int
    budget: int


def read_sizes(config: ClassifyActiveConfig, total: int) -> Sizes:
    """The sizes that settings name, for a pool of ``total`` slices.

    Raises:
        UsageError: A number is not whole, a share is of no slice, or the ends that are dropped leave nothing.
    """
    initial = _number(config.initial, total, "initial")
    batch, budget = _number(config.batch, total, "batch"), _number(config.budget, total, "budget")
    if not len(trim(np.arange(total), config.drop_top, config.drop_bottom)):
        raise UsageError(
            f"--drop-top {config.drop_top:g} and --drop-bottom {config.drop_bottom:g} leave nothing of {total} slices",
            expected="shares that leave something to choose from",
        )
    return Sizes(min(initial, total), batch, min(budget, total))


def _number(value: float, total: int, name: str) -> int:
    """A number of slices, or a share of them."""
    if value > 1 and value != int(value):
        raise UsageError(f"--{name} {value:g}", expected="a whole number of slices, or a share up to 1")
    # 1 is one slice for the sizes of rounds, and everything for the budget.
    number = share_count(total, value) if value < 1 or (value == 1 and name == "budget") else int(value)
    if value and not number:
        raise UsageError(f"--{name} {value:g} of {total} slices is none", expected="at least one slice")
    return number


def within_budget(positions: np.ndarray, known: np.ndarray, left: int) -> np.ndarray:
    """Which of the chosen slices the budget pays for, as truth values.

    Args:
        positions: What was chosen, the first choice first.
        known: Whether each slice of the pool is labelled; such slices cost nothing.
        left: Labels that may still be spent.
    """
    new = ~known[positions]
    return ~new | (np.cumsum(new) <= left)
