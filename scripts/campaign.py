"""Try bad and borderline inputs and print a table of the outcomes.

``python scripts/campaign.py [WORD ...]`` takes the trials whose names hold every word; ``K-`` takes those of kind K,
and ``@FILE`` those that a file lists. Ends with exit code 1 if one fails that is not in ``tests/campaign/open.txt``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from campaign.bench import Assets
from campaign.collection import OPEN, TRIALS
from campaign.runner import faults

SLOW = 3.0
"""Seconds from which a trial is named as slow."""
COLUMNS = ("refused", "warned", "told", "same", "goes on", "right", "open", "wrong")


def matches(name: str, word: str) -> bool:
    """Whether a trial is asked for by a word of the command line."""
    if word.startswith("@"):
        return name in Path(word[1:]).read_text().splitlines()
    return name.startswith(word) if len(word) == 2 and word.endswith("-") else word in name


def main() -> int:
    chosen = [trial for trial in TRIALS if all(matches(str(trial), word) for word in sys.argv[1:])]
    counts: Counter[tuple[str, str]] = Counter()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        assets = Assets(Path(folder))
        for number, trial in enumerate(chosen):
            started = time.perf_counter()
            found = faults(trial, assets, Path(folder) / "trials" / str(number))
            if (seconds := time.perf_counter() - started) > SLOW:
                print(f"slow: {trial}, {seconds:.1f} s")
            end = "right" if not found else "open" if str(trial) in OPEN else "wrong"
            counts[trial.kind, trial.outcome] += 1
            counts[trial.kind, end] += 1
            if found:
                print(f"{end.upper()} {trial}: {trial.outcome} expected\n" + "\n".join(f"  {line}" for line in found))
    print("kind    trials" + "".join(f"{name:>9}" for name in COLUMNS))
    for kind in sorted({trial.kind for trial in chosen}):
        total = sum(trial.kind == kind for trial in chosen)
        print(f"{kind:<8}{total:6}" + "".join(f"{counts[kind, name]:9}" for name in COLUMNS))
    wrong = sum(number for (_, end), number in counts.items() if end == "wrong")
    right = sum(number for (_, end), number in counts.items() if end == "right")
    print(f"{len(chosen)} trials in {time.perf_counter() - begun:.0f} s: {right} right, {wrong} wrong")
    return min(1, wrong)


if __name__ == "__main__":
    sys.exit(main())
