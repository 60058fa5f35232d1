"""What the benchmarks share: sides timed in turn, ratios within a round, one small table.

Machines are shared and noisy. The sides of a comparison therefore alternate, each round gives a ratio of its own, and
median and range over the rounds are printed; absolute times are given for orientation alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metaseg.cases.case import Case
from metaseg.cases.phantoms import make_phantoms
from metaseg.cases.readers import read_cases

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""``cpu`` is the process's time on all its threads: with one thread it does not notice a busy neighbour."""


@dataclass(frozen=True)
class Ratio:
    """How one side did against the base.

    Attributes:
        name: The side.
        ratio: Median over rounds of its time divided by the base's time in the same round.
        low: Smallest of these ratios.
        high: Largest.
        seconds: Median time of one call.
        limit: What the ratio is held against, if anything.
    """

    name: str
    ratio: float
    low: float
    high: float
    seconds: float
    limit: float | None = None


def timed(call: Callable[[], object], clock: str = "wall", synchronize: Callable[[], object] | None = None) -> float:
    """Seconds of one call; ``synchronize`` waits for a device before the clock is read."""
    read = CLOCKS[clock]
    if synchronize is not None:
        synchronize()
    start = read()
    call()
    if synchronize is not None:
        synchronize()
    return read() - start


def compare(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    base: str | None = None,
    clock: str = "wall",
    warm_up: int = 1,
    synchronize: Callable[[], object] | None = None,
    scale: Mapping[str, float] | None = None,
    limits: Mapping[str, float] | None = None,
) -> list[Ratio]:
    """Time all sides in turn.

    Args:
        sides: Name to call.
        rounds: How often each is timed.
        base: The side that the others are divided by; the first if not given.
        clock: A name of :data:`CLOCKS`.
        warm_up: Calls of each side before the first round.
        synchronize: Waits for the device.
        scale: Units of work that a call of a side does, by which its time is divided; 1 where not given.
        limits: What a side's ratio is held against.

    Returns:
        One row a side, in order.
    """
    for call in sides.values():
        for _ in range(warm_up):
            call()
    base, scale, limits = base or next(iter(sides)), scale or {}, limits or {}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            times[name].append(timed(call, clock, synchronize) / scale.get(name, 1.0))
    rows = []
    for name, own in times.items():
        ratios = [mine / other for mine, other in zip(own, times[base], strict=True)]
        middle = statistics.median(ratios)
        rows.append(Ratio(name, middle, min(ratios), max(ratios), statistics.median(own), limits.get(name)))
    return rows


def show(title: str, rows: Sequence[Ratio], unit: str = "ratio") -> None:
    """Print a table of ratios."""
    width = max(len(row.name) for row in rows)
    print(f"\n{title}")
    print(f"{'':<{width}}  {unit:>8}  {'range':>16}  {'time':>11}  limit")
    for row in rows:
        limit = "" if row.limit is None else f"{row.limit:g}"
        span = f"{row.low:.3f}..{row.high:.3f}"
        print(f"{row.name:<{width}}  {row.ratio:8.3f}  {span:>16}  {row.seconds * 1e3:8.2f} ms  {limit}")


def cases_or_phantoms(data: Path | None, folder: Path, count: int, phantoms: int = 1) -> list[Case]:
    """The first cases of a data set; without one, full-sized phantoms of gliomas.

    Args:
        data: The data set.
        folder: Where phantoms are made.
        count: Most cases of the data set.
        phantoms: How many are made.
    """
    if data is None:
        data = folder / "phantoms"
        make_phantoms(data, cohort="hgg", cases=phantoms, seed=0, size="full")
    return read_cases(data)[:count]


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes: ``--rounds``, ``--device``, ``--json``."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--rounds", type=int, default=rounds, help="how often each side is timed")
    found.add_argument("--device", default="cpu", help="cpu or cuda")
    found.add_argument("--json", type=Path, help="file to write the metrics to as well")
    return found


def write_json(path: Path | None, settings: Mapping[str, Any], tables: Mapping[str, Sequence[Ratio]]) -> None:
    """Write the tables as JSON where a file was asked for."""
    if path is not None:
        content = {
            "settings": dict(settings),
            "tables": {name: [asdict(row) for row in t] for name, t in tables.items()},
        }
        path.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
