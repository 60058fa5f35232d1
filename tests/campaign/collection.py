"""All trials, by kind of fault."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from campaign import (
    arguments,
    background,
    defaults,
    disks,
    dropped,
    identity,
    labels,
    numbers,
    records,
    resume,
    settings,
    splits,
    tables,
)
from campaign.trial import Trial

_MODULES = (
    settings, numbers, background, identity, dropped, splits, labels, tables, disks, records, arguments, defaults, resume,
)  # fmt: skip
TRIALS = [trial for module in _MODULES for trial in module.TRIALS]
"""Every trial."""
OPEN = frozenset(
    line for line in Path(__file__).with_name("open.txt").read_text().splitlines() if line and not line.startswith("#")
)
"""Names of trials whose outcome is not yet as it must be."""
EVERY = 6


def quick() -> list[Trial]:
    """The share of the trials that the test suite takes: of each kind, every sixth that is quick and not open."""
    kinds: defaultdict[str, list[Trial]] = defaultdict(list)
    for trial in TRIALS:
        if str(trial) not in OPEN and not trial.slow:
            kinds[trial.kind].append(trial)
    return [trial for trials in kinds.values() for trial in trials[::EVERY]]
