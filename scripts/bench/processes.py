"""Several processes on one machine against one process with all its cores.

``metaseg pretrain`` and ``metaseg metatune`` run on phantoms, each with few and with more steps; the difference of the
two gives the time of a step, without start and preparation. Rounds alternate. One process gets all cores as threads; of
two, each gets half of them. With ``--device cuda`` each process has a GPU of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ratios import Ratio, parser, show, write_json

from metaseg.cases.phantoms import make_phantoms

BATCH, FEW, MORE = 8, 4, 24
"""Slices of a step; steps of the short run and of the long one."""


def seconds(words: list[str], environment: dict[str, str]) -> float:
    """Wall clock of a command."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "metaseg", *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"metaseg {' '.join(words)}\n{done.stderr}")
    return time.perf_counter() - start


def pretrain_words(steps: int, data: Path) -> list[str]:
    """A pretraining of so many steps, validated at its end."""
    settings = {"data": data, "epochs": 1, "slices-per-epoch": steps * BATCH, "batch-size": BATCH, "augment": "none"}
    return ["pretrain", *(str(word) for name, value in settings.items() for word in (f"--{name}", value))]


def metatune_words(steps: int, data: Path, source: Path) -> list[str]:
    """A first-order meta-tuning of so many steps of eight tasks, evaluated at its end."""
    settings = {
        "from": source, "data": data, "shots": 1, "slices": 40, "tasks-per-step": BATCH // 2, "marks": 1,
        "budget": steps * BATCH * 2, "method": "fomaml",
    }  # fmt: skip
    return ["metatune", *(str(word) for name, value in settings.items() for word in (f"--{name}", value))]


def main() -> None:
    """Print a table for each verb."""
    found = parser(__doc__, rounds=3)
    found.add_argument("--processes", type=int, default=2)
    chosen = found.parse_args()
    cores = os.cpu_count() or 1
    tables: dict[str, list[Ratio]] = {}
    with tempfile.TemporaryDirectory(prefix="metaseg-bench-") as temporary:
        folder = Path(temporary)
        hgg = make_phantoms(folder / "hgg", cohort="hgg", cases=3, seed=0)[0].parent
        met = make_phantoms(folder / "met", cohort="met", cases=2, seed=1)[0].parent
        environment = os.environ | {"METASEG_CACHE": str(folder / "cache")}
        source = folder / "source"
        seconds([*pretrain_words(FEW, hgg), "--out", str(source), "--device", chosen.device], environment)
        for verb, words in (
            ("pretrain", lambda steps: pretrain_words(steps, hgg)),
            ("metatune", lambda steps: metatune_words(steps, met, source)),
        ):
            times: dict[int, list[float]] = {1: [], chosen.processes: []}
            for number in range(chosen.rounds):
                for processes, own in times.items():
                    share = {"OMP_NUM_THREADS": str(max(1, cores // processes))}
                    taken = {}
                    for steps in (FEW, MORE):
                        out = folder / f"{verb}-{number}-{processes}-{steps}"
                        command = [*words(steps), "--out", str(out), "--devices", str(processes)]
                        taken[steps] = seconds([*command, "--device", chosen.device], environment | share)
                    own.append((taken[MORE] - taken[FEW]) / (MORE - FEW))
            tables[verb] = [row(f"{count} processes", own, times[1]) for count, own in times.items()]
            show(f"metaseg {verb}, time of a step, by that of one process with {cores} threads", tables[verb])
    write_json(chosen.json, vars(chosen) | {"cores": cores}, tables)


def row(name: str, own: list[float], base: list[float]) -> Ratio:
    """Ratios within rounds."""
    ratios = sorted(mine / other for mine, other in zip(own, base, strict=True))
    return Ratio(name, ratios[len(ratios) // 2], ratios[0], ratios[-1], sorted(own)[len(own) // 2])


if __name__ == "__main__":
    main()
