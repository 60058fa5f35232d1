"""Meta-step engines against the limit, in forward+backward passes of one slice.

The unit is one forward and backward pass of one slice, timed in the same rounds with the same number of threads. By
counted operations a task costs 2 units in first order and 4 in exact second order with one inner step; ratios are to
that limit, so that 1 means: as quick as a plain pass of the same operations. Memory is what a step adds at its peak to
what the process (or the GPU) held before it, in MiB; "summed loss" is learn2learn as its own examples use it, all tasks
in one graph.

    python scripts/bench/engines.py                            # the default network, 8 and 2 tasks
    python scripts/bench/engines.py --device cuda --precision bf16
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import re
from collections.abc import Callable
from pathlib import Path

import torch
from lightning_fabric import Fabric
from ratios import compare, parser, show, write_json
from torch import nn

from metaseg.adapt.engines import BatchedEngine, InnerLoop, TaskBatch, build_engine
from metaseg.cases.labels import SUBREGIONS
from metaseg.models.device import make_fabric
from metaseg.models.segmenters import build_segmenter
from metaseg.training.optimization import DiceCrossEntropy

INNER_RATE = 0.01
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
Side = Callable[[], object]


def random_tasks(count: int, size: tuple[int, int], fabric: Fabric) -> list[TaskBatch]:
    """Tasks of one support and one query slice of noise, ``size`` in pixels."""
    generator = torch.Generator().manual_seed(1)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.randn(1, 4, *size, generator=generator)
        labels = torch.randint(SUBREGIONS.num_classes, (1, *size), generator=generator)
        return fabric.to_device(images), fabric.to_device(labels)

    return [TaskBatch(*batch(), *batch()) for _ in range(count)]


def summed_learn2learn(model: nn.Module, tasks: list[TaskBatch], loss: nn.Module, first_order: bool) -> None:
    """learn2learn with the losses of all tasks summed before the one backward pass."""
    build_engine("learn2learn")  # silently imported
    from learn2learn.algorithms import MAML

    maml, total = MAML(model, lr=INNER_RATE, first_order=first_order), torch.zeros((), device=loss.membership.device)
    for task in tasks:
        learner = maml.clone()
        learner.adapt(loss(learner(task.support_images), task.support_labels))
        total = total + loss(learner(task.query_images), task.query_labels)
    total.backward()


def sides_of(
    names: list[str], model: nn.Module, tasks: list[TaskBatch], loss: nn.Module, fabric: Fabric, first_order: bool
) -> dict[str, Side]:
    """The unit, and a step by every engine named."""

    def clean(call: Side) -> Side:
        def run() -> None:
            model.zero_grad(set_to_none=True)
            with fabric.autocast():
                call()

        return run

    def unit() -> None:
        task = tasks[0]
        loss(model(task.support_images), task.support_labels).backward()

    def step(name: str) -> Side:
        if name == "summed loss":
            return lambda: summed_learn2learn(model, tasks, loss, first_order)
        engine = BatchedEngine(record=False) if name == "one pass" else build_engine(name)
        return lambda: engine.step(model, tasks, loss, InnerLoop(INNER_RATE, 1, first_order))

    return {"unit": clean(unit)} | {name: clean(step(name)) for name in names}


def peak_mib(call: Side, device: torch.device) -> float:
    """What a call adds at its peak to the memory held before it, in MiB; NaN where the system does not tell."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before = _status("VmRSS")
        call()
        return (_status("VmHWM") - before) / 1024
    except (OSError, AttributeError):
        call()
        return math.nan


def _status(name: str) -> int:
    """A line of the process's status, in KiB."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise OSError(name)
    return int(found[1])


def options() -> argparse.Namespace:
    """The command line."""
    found = parser(__doc__, rounds=5)
    found.add_argument("--networks", nargs="+", default=["unet"], help="networks, such as unet basic-unet dynunet")
    found.add_argument("--tasks", nargs="+", type=int, default=[8, 2], help="tasks of a step")
    found.add_argument("--orders", nargs="+", type=int, choices=(1, 2), default=[1, 2], help="1: first order")
    found.add_argument("--size", nargs=2, type=int, default=[144, 176], help="height and width in pixels")
    found.add_argument("--precision", choices=PRECISIONS, default="fp32", help="bf16 is meant for a GPU")
    found.add_argument("--threads", type=int, default=0, help="intra-op threads; 0: torch's own choice")
    found.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: time on all threads")
    found.add_argument("--memory", action="store_true", help="measure memory only")
    found.add_argument(
        "--engines",
        nargs="+",
        default=["learn2learn", "functional", "batched", "summed loss"],
        help="engines, 'summed loss', and 'one pass': batched without recordings on a GPU",
    )
    return found.parse_args()


def main() -> None:
    """Print a table for every network, number of tasks and order."""
    chosen = options()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    fabric = make_fabric(chosen.device, PRECISIONS[chosen.precision])
    loss = DiceCrossEntropy(SUBREGIONS, 0.6).to(fabric.device)
    synchronize = torch.cuda.synchronize if fabric.device.type == "cuda" else None
    tables, memory = {}, {}
    for network in chosen.networks:
        model = build_segmenter(network, in_channels=4, num_classes=SUBREGIONS.num_classes, seed=0).eval()
        model = model.to(fabric.device)
        for count in chosen.tasks:
            tasks = random_tasks(count, tuple(chosen.size), fabric)
            for order in chosen.orders:
                sides = sides_of(chosen.engines, model, tasks, loss, fabric, order == 1)
                title = f"{network}, {count} tasks, order {order}"
                peaks = memory[title] = {name: round(peak_mib(call, fabric.device), 1) for name, call in sides.items()}
                print(
                    f"{title}: peak MiB  " + "  ".join(f"{name} +{peak:.0f}" for name, peak in peaks.items()),
                    flush=True,
                )
                if not chosen.memory:
                    scale = dict.fromkeys(chosen.engines, count * 2.0 * order)
                    limits = {"batched": 0.8 if order == 1 else 1.0} if fabric.device.type == "cpu" else {}
                    tables[title] = compare(
                        sides,
                        chosen.rounds,
                        clock=chosen.clock,
                        warm_up=0 if fabric.device.type == "cpu" else 3,  # memory was measured by a call of each
                        synchronize=synchronize,
                        scale=scale,
                        limits=limits,
                    )
                    show(f"{title}: time by the limit of {2 * order} units a task", tables[title], "x limit")
    write_json(chosen.json, vars(chosen) | {"threads": torch.get_num_threads(), "peak_mib": memory}, tables)


if __name__ == "__main__":
    main()
