"""How long ``metaseg tune`` takes with each ``--effort``, against what it says at its start, and against none.

    python scripts/bench/effort.py RUN --data DATA --source SOURCE [--split SPLIT] [--set NAME=VALUE ...]

The times are those of the run folder's manifest: told when the choice begins, and taken by the whole session. Nobody
else should use the machine: what is told goes by the first seconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import metaseg


def measure(settings: dict[str, Any], efforts: list[str], folder: Path) -> list[dict[str, Any]]:
    """Seconds told and taken of each effort; those that take none come without a told time."""
    rows = []
    for effort in efforts:
        run = metaseg.tune(**settings, effort=effort, out=folder / effort).run
        [session] = json.loads((run / "manifest.json").read_text())["sessions"]
        rows.append({"effort": effort, "told": session.get("seconds_told"), "taken": session["wall_seconds"]})
    return rows


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    for name in ("data", "source", "split"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--set", action="append", default=[], help="another setting of tune, its value as JSON")
    parser.add_argument("--efforts", default="none,quick,normal")
    given = parser.parse_args()
    settings = {"from_run": given.run, "data": given.data, "source": given.source, "split": given.split}
    for text in given.set:
        name, _, value = text.partition("=")
        settings[name] = json.loads(value)
    settings = {name: value for name, value in settings.items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        rows = measure({"pictures": False, **settings}, given.efforts.split(","), Path(folder))
    print(f"{'effort':<10}{'told, s':>10}{'taken, s':>10}{'taken / told':>14}")
    for row in rows:
        ratio = "" if row["told"] is None else f"{row['taken'] / row['told']:.2f}"
        print(f"{row['effort']:<10}{row['told'] or '':>10}{row['taken']:>10.0f}{ratio:>14}")


if __name__ == "__main__":
    main()
