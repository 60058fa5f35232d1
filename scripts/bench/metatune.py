"""What ``metaseg metatune`` costs from files to final metrics: time and memory against the number of cases.

Every run is a process of its own with an empty cache, so that reading and preparing the files is counted. Shots are the
number of cases and the budget grows with them. Time is fitted by a line in the cases; memory is the process's own peak
(``VmHWM``, pages of the store's memory maps included) and the largest part of it that is not pages of files. On a
machine with neighbours the CPU time is what can be compared. Without ``--data``, phantoms are made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ratios import parser

from metaseg.cases.phantoms import make_phantoms

GRADIENTS_A_CASE = 120
"""Slice gradient evaluations of a case: the default budget of 600 for the default of 5 shots."""


@dataclass(frozen=True)
class Cost:
    """What one run took.

    Attributes:
        cases: Number of shots.
        wall: Seconds by the clock.
        cpu: Seconds on all cores.
        peak_mb: Largest resident memory.
        own_mb: Largest resident memory that is not pages of files.
    """

    cases: int
    wall: float
    cpu: float
    peak_mb: float
    own_mb: float


def run(command: list[str], environment: dict[str, str], log: Path) -> tuple[float, float, float, float]:
    """Run a command; gives wall and CPU seconds, peak memory and peak memory without file pages, in MB."""
    start = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    own, peak = 0.0, 0.0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        try:
            values = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            own = max(own, int(values["RssAnon"].split()[0]) / 1e3)
            peak = max(peak, int(values["VmHWM"].split()[0]) / 1e3)
        except (OSError, KeyError, ValueError):
            pass
        time.sleep(0.1)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the run failed:\n{log.read_text()[-2000:]}")
    # The kernel's metric for a child counts from its parent's size before it became another program.
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, peak, own


def measure(cases: int, arguments: list[str], folder: Path) -> Cost:
    """One metatune of so many shots."""
    environment = {**os.environ, "METASEG_CACHE": str(folder / f"cache-{cases}")}
    command = [sys.executable, "-m", "metaseg", "metatune", *arguments, "--out", str(folder / f"run-{cases}")]
    command += ["--shots", str(cases), "--budget", str(GRADIENTS_A_CASE * cases)]
    return Cost(cases, *run(command, environment, folder / f"log-{cases}.txt"))


def line(costs: list[Cost], name: str) -> tuple[float, float, float]:
    """Value at no case, growth a case, and the largest share of a value that lies off the line."""
    cases, values = np.array([cost.cases for cost in costs]), np.array([getattr(cost, name) for cost in costs])
    slope, base = np.polyfit(cases, values, 1) if len(costs) > 1 else (0.0, values[0])
    return float(base), float(slope), float(np.abs(values - base - slope * cases).max() / values.max())


def main() -> None:
    """Print the costs and the lines through them."""
    options = parser(__doc__, rounds=1)
    options.add_argument("--data", type=Path, help="target cases")
    options.add_argument("--source", type=Path, help="cases for a throw-away pretraining; phantoms by default")
    options.add_argument("--cases", default="2,4", help="numbers of shots, comma-separated")
    options.add_argument("--watch-cases", type=int, default=2, help="cases that are evaluated at marks")
    options.add_argument("--size", default="small", choices=("small", "full"), help="size of phantoms")
    options.add_argument("--more", default="", help="further options of metatune, separated by blanks")
    chosen = options.parse_args()
    numbers = [int(text) for text in chosen.cases.split(",")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data, source = chosen.data, chosen.source
        if data is None:
            data = folder / "target"
            make_phantoms(data, cohort="met", cases=max(numbers) + chosen.watch_cases, seed=1, size=chosen.size)
        if source is None:
            source = folder / "source"
            make_phantoms(source, cohort="hgg", cases=3, seed=2, size="small")
        pretrain = [sys.executable, "-m", "metaseg", "pretrain", "--data", str(source), "--epochs", "1"]
        pretrain += ["--slices-per-epoch", "16", "--device", chosen.device, "--out", str(folder / "source-run")]
        run(pretrain, {**os.environ, "METASEG_CACHE": str(folder / "cache-source")}, folder / "log-source.txt")
        arguments = ["--from", str(folder / "source-run"), "--data", str(data), "--slices", "25"]
        arguments += ["--device", chosen.device, "--watch-cases", str(chosen.watch_cases), *chosen.more.split()]
        costs = []
        print(f"{'cases':>5}  {'wall s':>8}  {'CPU s':>8}  {'peak MB':>8}  {'own MB':>8}")
        for _ in range(chosen.rounds):
            for number in numbers:
                if chosen.rounds > 1:
                    subprocess.run(
                        ["rm", "-rf", str(folder / f"cache-{number}"), str(folder / f"run-{number}")], check=True
                    )
                cost = measure(number, arguments, folder)
                costs.append(cost)
                print(
                    f"{cost.cases:5d}  {cost.wall:8.1f}  {cost.cpu:8.1f}  {cost.peak_mb:8.0f}  {cost.own_mb:8.0f}",
                    flush=True,
                )
    fits = {name: line(costs, name) for name in ("wall", "cpu", "peak_mb", "own_mb")}
    for name, (base, slope, off) in fits.items():
        print(f"{name}: {base:.1f} + {slope:.2f} a case; at most {off:.1%} of the largest off this line")
    if chosen.json:
        content = {"settings": vars(chosen), "costs": [asdict(cost) for cost in costs], "lines": fits}
        chosen.json.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
