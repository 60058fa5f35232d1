"""Run one comparison on every fold of a split, and put the folds' metrics together: each patient is tested once.

Usage: cross_validate.py CONFIG FOLDS OUT [JOBS], with a CONFIG that names its split as ${METASEG_SPLIT} and FOLDS from
'metaseg data split --folds'. Killed and started again, it goes on.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pandas as pd

import metaseg
from metaseg.studies.pairs import both_axes
from metaseg.studies.study_metrics import method_summary
from metaseg.studies.tables import read_study_table, write_table


def write_splits(folds: Path, out: Path) -> list[Path]:
    """One split a fold: that fold is part ``test``, the next one ``val``, all others are ``train``."""
    split = json.loads(folds.read_text(encoding="utf-8"))
    parts, paths = list(split["parts"].values()), []
    for number, test in enumerate(parts):
        val = (number + 1) % len(parts)
        train = [name for other, names in enumerate(parts) if other not in (number, val) for name in names]
        paths.append(out / f"split-{number}.json")
        paths[-1].write_text(json.dumps({**split, "parts": {"train": train, "val": parts[val], "test": test}}))
    return paths


def main(config: Path, folds: Path, out: Path, jobs: int = 2) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tables = []
    for number, split in enumerate(write_splits(folds, out)):
        os.environ["METASEG_SPLIT"] = str(split)
        study = out / f"fold-{number}"
        metaseg.compare(config=config, out=study, jobs=jobs)
        tables.append(read_study_table(study / "results"))
    pooled = pd.concat(tables, ignore_index=True)
    region = str(pooled["region"].iloc[0])
    write_table(pooled, out / "results")
    write_table(method_summary(pooled, region), out / "summary")
    write_table(both_axes(pooled, region, ["naive"]), out / "both_axes")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *map(int, sys.argv[4:5]))
