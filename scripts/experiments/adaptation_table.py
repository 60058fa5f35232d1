"""Print target and source Dice before and after adaptation, for methods over seeds, from evaluated runs.

Usage: adaptation_table.py OUT METHOD..., where OUT/METHOD-SEED/evaluation/metrics.json stand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np


def changes(file: Path, region: str) -> dict[str, float]:
    """Dice before and after on each domain of one run, and what was forgotten."""
    metrics = json.loads(file.read_text())["domains"][region]
    return {name: metrics[name] for name in ("target_before", "target_after", "source_before", "source_after")}


def main(out: Path, methods: list[str], region: str = "WT") -> None:
    print(f"| method | seeds | target {region} before | after | source {region} before | after | forgotten |")
    print("|---|---|---|---|---|---|---|")
    for method in methods:
        files = sorted(out.glob(f"{method}-*/evaluation/metrics.json"))
        rows = [changes(file, region) for file in files]
        means = {name: [row[name] for row in rows] for name in rows[0]}
        after = " | ".join(
            f"{np.mean(means[f'{domain}_before']):.3f} | {np.mean(means[f'{domain}_after']):.3f} "
            f"({', '.join(f'{value:.3f}' for value in means[f'{domain}_after'])})"
            for domain in ("target", "source")
        )
        forgotten = np.subtract(means["source_before"], means["source_after"])
        print(f"| {method} | {len(rows)} | {after} | {forgotten.mean():.3f} ± {forgotten.std(ddof=1):.3f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
