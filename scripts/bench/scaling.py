"""What a large study costs, from the unit costs of this machine: the plan of docs/scaling.md.

Units are measured (seconds and operations of a slice forward, and forward with backward; bytes of a prepared case) or
counted; seconds are those of one core, or of one GPU. What other hardware would take follows from the operations and
the speed that is given for it, which is an assumption and is named as one.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch
from ratios import cases_or_phantoms
from torch.utils.flop_counter import FlopCounterMode

from metaseg.cases.labels import LABEL_SPACES
from metaseg.models import build_segmenter
from metaseg.store.prepare import build_store, common_modalities
from metaseg.store.prepare_case import PrepareOptions
from metaseg.training.optimization import DiceCrossEntropy

SECOND_ORDER_TASK = 4
"""Passes of a slice in a second-order task, by counted operations (docs/performance.md)."""
FIRST_ORDER_TASK = 2


def slice_costs(model: str, size: tuple[int, int], batch: int, rounds: int, device: str) -> dict[str, float]:
    """Operations and seconds of one slice, forward and with backward."""
    space = LABEL_SPACES["subregions"]
    net = build_segmenter(model, 4, space.num_classes, seed=0).to(device)
    images = torch.randn(batch, 4, *size, device=device, generator=torch.Generator(device).manual_seed(0))
    labels = torch.randint(0, space.num_classes, (batch, *size), device=device)
    loss = DiceCrossEntropy(space, 0.7).to(device)

    def forward() -> None:
        with torch.inference_mode():
            net(images)

    def backward() -> None:
        loss(net(images), labels).backward()

    costs: dict[str, float] = {}
    for name, call in (("forward", forward), ("backward", backward)):
        with FlopCounterMode(display=False) as counter:
            call()
        # On a CPU the seconds of all cores, which a busy neighbour does not lengthen.
        clock = time.process_time if device == "cpu" else time.perf_counter
        seconds = []
        for _ in range(rounds):
            start = clock()
            call()
            if device != "cpu":
                torch.cuda.synchronize()
            seconds.append(clock() - start)
        costs[f"{name}_flop"] = counter.get_total_flops() / batch
        costs[f"{name}_seconds"] = sorted(seconds)[len(seconds) // 2] / batch
    return costs


def case_costs(data: Path | None) -> dict[str, float]:
    """Seconds to prepare a case, its bytes, its slices; of full phantoms without data."""
    with tempfile.TemporaryDirectory() as folder:
        cases = cases_or_phantoms(data, Path(folder), 3, phantoms=2)
        start = time.process_time()
        store = build_store(cases, Path(folder) / "store", PrepareOptions(common_modalities(cases)), jobs=1)
        seconds = (time.process_time() - start) / len(cases)
        stored = sum(file.stat().st_size for file in (Path(folder) / "store").rglob("*.npy")) / len(cases)
        files = sum(os.stat(file).st_size for case in cases for file in case.files) / len(cases)
        shapes = [case.info.shape for case in store]
    middle = sorted(shapes, key=lambda shape: shape[1] * shape[2])[len(shapes) // 2]
    return {
        "prepare_seconds": seconds,
        "store_bytes": stored,
        "file_bytes": files,
        "slices": middle[0],
        "height": -(-middle[1] // 16) * 16,
        "width": -(-middle[2] // 16) * 16,
    }


def plan(given: argparse.Namespace, unit: dict[str, float], case: dict[str, float]) -> dict[str, float]:
    """Hours and bytes of a study on this machine, and on devices of the speed given."""
    steps = given.epochs * given.slices_per_epoch
    work = {
        "pretraining": steps * unit["backward_flop"],
        "meta-tuning, first order": given.tasks * FIRST_ORDER_TASK * unit["backward_flop"],
        "meta-tuning, second order": given.tasks * SECOND_ORDER_TASK * unit["backward_flop"],
        "prediction of all cases, four views": given.cases * case["slices"] * 4 * unit["forward_flop"],
    }
    here = unit["backward_flop"] / unit["backward_seconds"]
    forward = unit["forward_flop"] / unit["forward_seconds"]
    there = given.tflops * 1e12 * given.efficiency * given.devices
    hours = {}
    for name, flop in work.items():
        speed = forward if name.startswith("prediction") else here
        hours[f"{name}: core hours here"] = flop / speed / 3600
        hours[f"{name}: hours on {given.devices} devices"] = flop / there / 3600
    return hours | {
        "preparing: core hours": given.cases * case["prepare_seconds"] / 3600,
        "store: GB": given.cases * case["store_bytes"] / 1e9,
        "files: GB": given.cases * case["file_bytes"] / 1e9,
    }


def main() -> None:
    """Measure, plan, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="folder of cases to measure preparing on; a full phantom if not given"
    )
    parser.add_argument("--model", default="unet")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--slices-per-epoch", type=int, default=12_500, help="default: 25 of each of 500 cases")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--tflops", type=float, default=20.0, help="assumed: speed of a device in 32-bit")
    parser.add_argument("--efficiency", type=float, default=0.2, help="assumed: share of it that is reached")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    case = case_costs(given.data)
    unit = slice_costs(given.model, (int(case["height"]), int(case["width"])), given.batch, given.rounds, given.device)
    rows = {"unit": unit, "case": case, "plan": plan(given, unit, case)}
    for title, table in rows.items():
        print(f"\n{title}")
        for name, value in table.items():
            print(f"  {name:<55} {value:14.4g}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
