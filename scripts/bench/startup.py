"""How long ``metaseg VERB --help`` takes, against the least that a typer program can take.

The commands alternate, so that a busy neighbour on the machine slows all alike; the ratio of each to ``import typer``
is taken within a round, and the medians over the rounds are given.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

BASE = "import typer"
VERBS = ("data", "data check", "pretrain", "metatune", "naivetune", "evaluate", "predict", "runs", "doctor")
LIMIT = 3.0


def commands() -> dict[str, list[str]]:
    """Name to command line of everything that is timed; the base comes first."""
    timed = {BASE: [sys.executable, "-c", BASE], "--help": [sys.executable, "-m", "metaseg", "--help"]}
    for verb in VERBS:
        timed[f"{verb} --help"] = [sys.executable, "-m", "metaseg", *verb.split(), "--help"]
    return timed


def seconds(command: list[str]) -> float:
    """Wall time of a command."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "100"})
    return time.perf_counter() - start


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds and median ratio to the base of every command."""
    timed = commands()
    for command in timed.values():
        seconds(command)  # byte code and disk cache
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, command in timed.items():
            times[name].append(seconds(command))
    ratios = {name: [own / base for own, base in zip(times[name], times[BASE], strict=True)] for name in timed}
    return {
        name: {"seconds": round(statistics.median(times[name]), 4), "ratio": round(statistics.median(ratios[name]), 2)}
        for name in timed
    }


def main() -> None:
    """Print a table, or JSON; exit code 1 if a ratio is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.rounds)
    if options.json:
        print(json.dumps({"rounds": options.rounds, "limit": LIMIT, "commands": result}, indent=2))
    else:
        for name, row in result.items():
            print(f"{name:<20} {row['seconds'] * 1000:7.0f} ms  {row['ratio']:5.2f} x")
    sys.exit(any(row["ratio"] > LIMIT for row in result.values()))


if __name__ == "__main__":
    main()
