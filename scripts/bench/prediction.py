"""Prediction of one case of 240 x 240 x 155 voxels and four modalities, from files to NIfTI.

First the stages, as ratios to the forward passes alone: batches of eight slices of the brain's box, already in memory,
through the network as often as there are views. What exceeds 1 is the rest: reading, cropping, probabilities, writing,
pictures.

With ``--peer PYTHON``, also against nnU-Net v2 on the same files: a 2-D network with random weights and about as many
parameters (both counts and the operations of a slice are printed). Both sides are processes of their own that are
asked in turn, with equal threads and equal views (``--views 4`` mirrors both axes on both sides), and each writes one
label map and no pictures. nnU-Net runs at its defaults (tile step 0.5, Gaussian weights) through
``predict_from_files_sequential``, which starts no other processes; its 2-D patch holds the whole cropped slice, so
that tiles do not overlap. Imports are measured apart. The peer's environment::

    uv venv /tmp/nnunet && VIRTUAL_ENV=/tmp/nnunet uv pip install nnunetv2
    python scripts/bench/prediction.py --peer /tmp/nnunet/bin/python

``--network dynunet`` gives metaseg the very layers that nnU-Net plans, so that what remains is not the network.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ratios import Ratio, compare, parser, show, write_json

MODALITIES = ("flair", "t1", "t1ce", "t2")
PATCH = (192, 160)
"""nnU-Net's patch for BraTS in 2-D; the crop of nearly every case fits into it."""


def find_case(options: argparse.Namespace, folder: Path) -> Path:
    """The case's folder: the one named, else a phantom of full size."""
    if options.case:
        return options.case
    from metaseg.cases.phantoms.write import make_phantoms

    return make_phantoms(folder / "phantoms", cases=1, size="full")[0]


def make_network(options: argparse.Namespace, folder: Path) -> Path:
    """A checkpoint with random weights."""
    from metaseg.models import ModelCard, build_segmenter, save_checkpoint

    values = {"filters": options.filters} if options.filters else {}
    model = build_segmenter(options.network, len(MODALITIES), 4, seed=0, **values)
    card = ModelCard(options.network, len(MODALITIES), 4, MODALITIES, "subregions", values)
    return save_checkpoint(folder / "network", model, card)


def size_of(checkpoint: Path) -> dict[str, Any]:
    """Parameters, and GFLOP of one slice of 176 x 144, a usual crop."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from metaseg.runs.networks import load_network

    model = load_network(checkpoint).model
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, len(MODALITIES), 176, 144))
    return {"parameters": sum(p.numel() for p in model.parameters()), "gflop": counter.get_total_flops() / 1e9}


def stages(options: argparse.Namespace, case_folder: Path, checkpoint: Path, folder: Path) -> list[Ratio]:
    """Each stage as a ratio to the forward passes alone."""
    import numpy as np
    import torch

    from metaseg.cases.labels import LABEL_SPACES
    from metaseg.cases.readers import read_cases
    from metaseg.config.segmentation import PredictConfig
    from metaseg.inference.case_pictures import case_heatmap, case_overlay
    from metaseg.inference.outputs import read_header, write_label, write_probabilities
    from metaseg.inference.predict import predict_cases, region_volumes
    from metaseg.inference.predictor import Predictor, full_probabilities
    from metaseg.models.device import make_fabric
    from metaseg.runs.networks import load_network
    from metaseg.store.prepare_case import PrepareOptions, read_unstored

    fabric = make_fabric(options.device, "32-true")
    network = load_network(checkpoint)
    space, tta = LABEL_SPACES["subregions"], options.views == 4
    predictor = Predictor.from_network(network, fabric, tta=tta)
    found = replace(read_cases(case_folder)[0], label=None)
    threads = torch.get_num_threads()
    case = read_unstored(found, PrepareOptions(MODALITIES), threads)
    starts = range(0, case.num_slices, 8)
    batches = [
        torch.from_numpy(case.images(slice(at, min(at + 8, case.num_slices)), MODALITIES)).to(fabric.device)
        for at in starts
    ]
    segmented = predictor.segment(case, range(4))
    path = found.images["flair"].files[0]
    geometry, header, classes = case.info.geometry, read_header(path), segmented.classes

    @torch.inference_mode()
    def forward() -> None:
        for _ in range(options.views):
            for batch in batches:
                predictor.network(batch)

    def whole(**values: bool) -> Callable[[], object]:
        config = PredictConfig(
            cases=(case_folder,), out=folder / "out", tta=tta, overwrite=True, device=options.device, **values
        )
        return lambda: predict_cases(network, config)

    def draw() -> None:
        case_overlay(case, classes, space, MODALITIES)
        case_heatmap(case, segmented.kept[3], space, MODALITIES)

    sides = {
        "forward passes": forward,
        "network to class map": lambda: predictor.segment(case),
        "read and prepare": lambda: read_unstored(found, PrepareOptions(MODALITIES), threads),
        "normalise": lambda: [case.images(slice(at, at + 8), MODALITIES) for at in starts],
        "label map": lambda: write_label(folder / "label.nii.gz", classes, geometry, header, "", 4),
        "volumes": lambda: region_volumes(classes, space, case),
        "pictures": draw,
        "probabilities": lambda: write_probabilities(
            folder / "p.nii.gz", full_probabilities(case, segmented.kept), 4, geometry, header, ""
        ),
        "whole, label map alone": whole(pictures=False),
        "whole, with pictures": whole(),
        "whole, with probabilities": whole(probabilities=True),
    }
    print(
        f"{len(np.unique(classes))} classes predicted, crop {case.info.shape}, {threads} threads, {options.views} views"
    )
    synchronize = torch.cuda.synchronize if fabric.device.type == "cuda" else None
    with open(os.devnull, "w") as nowhere:
        before, sys.stdout = sys.stdout, nowhere
        try:
            return compare(sides, options.rounds, clock=options.clock, synchronize=synchronize)
        finally:
            sys.stdout = before


def own_peak_mb() -> float:
    """Largest resident memory of this process; ``ru_maxrss`` would count from that of its parent."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def work(options: argparse.Namespace) -> None:
    """As the peer does: predict the case for every line on standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    wall, cpu = time.perf_counter(), time.process_time()
    from metaseg.config.segmentation import PredictConfig
    from metaseg.inference.predict import run_predict

    imported = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print(json.dumps({"import": imported, "size": size_of(options.checkpoint)}), file=answers, flush=True)
    config = PredictConfig(
        run=str(options.checkpoint),
        cases=(options.case,),
        out=options.work / "out",
        tta=options.views == 4,
        pictures=False,
        overwrite=True,
        device=options.device,
    )
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run_predict(config)
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        peak = own_peak_mb()
        print(json.dumps(seconds | {"peak_mb": peak}), file=answers, flush=True)


class Side:
    """A process that predicts when it is asked."""

    def __init__(self, command: list[str], threads: int, log: Path) -> None:
        self.log = log
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "nnUNet_def_n_proc": str(threads)}
        with log.open("w") as messages:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages, text=True, env=environment
            )
        self.start = self._answer()

    def predict(self) -> dict[str, float]:
        """Wall and CPU seconds of one case, and the peak of memory so far."""
        assert self.process.stdin is not None
        self.process.stdin.write("case\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended without an answer:\n{self.log.read_text()[-2000:]}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def against_peer(
    options: argparse.Namespace, case_folder: Path, checkpoint: Path, folder: Path
) -> tuple[dict[str, list[Ratio]], dict[str, Any]]:
    """Compare metaseg with nnU-Net, case by case in turn."""
    from metaseg.cases.readers import read_cases

    case = read_cases(case_folder)[0]
    size = size_of(checkpoint)
    images = [str(case.images[name].files[0]) for name in MODALITIES]
    device = ["--device", options.device]
    common = [sys.executable, __file__, "--work", str(folder), "--checkpoint", str(checkpoint), *device]
    own = [*common, "--case", str(case_folder), "--views", str(options.views)]
    peer = [options.peer, str(Path(__file__).with_name("nnunet_peer.py")), "--folder", str(folder / "peer"), *device]
    peer += ["--images", *images, "--parameters", str(size["parameters"]), "--patch", *map(str, PATCH)]
    peer += ["--mirror"] if options.views == 4 else []
    (folder / "peer").mkdir()
    sides: dict[str, Side] = {}
    times: dict[str, list[dict[str, float]]] = {"nnU-Net v2": [], "metaseg": []}
    try:
        for name, command in (("nnU-Net v2", peer), ("metaseg", own)):
            sides[name] = Side(command, options.threads, folder / f"{name}.log")
        for _ in range(options.rounds):
            for name, side in sides.items():
                times[name].append(side.predict())
    finally:
        for side in sides.values():
            side.close()
    starts = {name: side.start for name, side in sides.items()}
    tables = {clock: _ratios(times, clock, dict.fromkeys(times, 0.0)) for clock in ("wall", "cpu")}
    for clock in ("wall", "cpu"):
        tables[f"{clock} with imports"] = _ratios(times, clock, {n: s["import"][clock] for n, s in starts.items()})
    peaks = {name: max(row["peak_mb"] for row in rows) for name, rows in times.items()}
    return tables, {"starts": starts, "peak_mb": peaks}


def _ratios(times: dict[str, list[dict[str, float]]], clock: str, extra: dict[str, float]) -> list[Ratio]:
    totals = {name: [row[clock] + extra[name] for row in rows] for name, rows in times.items()}
    base = totals["nnU-Net v2"]
    rows = []
    for name, own in totals.items():
        ratios = [mine / other for mine, other in zip(own, base, strict=True)]
        limit = 1 / 3 if name == "metaseg" else None
        rows.append(Ratio(name, statistics.median(ratios), min(ratios), max(ratios), statistics.median(own), limit))
    return rows


def main() -> None:
    """Run the benchmark, or one side of it."""
    found = parser(__doc__, rounds=3)
    found.add_argument("--case", type=Path, help="folder of a case with four modalities; default: a phantom")
    found.add_argument("--views", type=int, choices=(1, 4), default=1, help="4: average over flips of both axes")
    found.add_argument("--threads", type=int, default=1, help="threads of each side")
    found.add_argument("--clock", choices=("wall", "cpu"), default="cpu", help="of the stages")
    found.add_argument("--network", default="unet", help="metaseg's network")
    found.add_argument("--filters", type=int, nargs="+", help="of dynunet, such as 16 32 64 128 256")
    found.add_argument("--peer", help="Python of an environment with nnunetv2")
    found.add_argument("--no-stages", action="store_true", help="leave the stages out")
    found.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    found.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    options = found.parse_args()
    if options.work:
        work(options)
        return
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch

    torch.set_num_threads(options.threads)
    tables: dict[str, list[Ratio]] = {}
    settings: dict[str, Any] = {**vars(options)}
    with tempfile.TemporaryDirectory(prefix="metaseg-bench-") as name:
        folder = Path(name)
        case_folder, checkpoint = find_case(options, folder), make_network(options, folder)
        if not options.no_stages:
            tables["stages"] = stages(options, case_folder, checkpoint, folder)
            show(f"stages over forward passes, {options.clock} time", tables["stages"])
            print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
        if options.peer:
            compared, facts = against_peer(options, case_folder, checkpoint, folder)
            settings |= facts
            for side, start in facts["starts"].items():
                size, imported = start["size"], start["import"]
                print(
                    f"{side:<11} {size['parameters'] / 1e6:.2f} M parameters, {size['gflop']:.2f} GFLOP a slice, "
                    f"import {imported['wall']:.1f} s ({imported['cpu']:.1f} s CPU), "
                    f"peak {facts['peak_mb'][side]:.0f} MB"
                )
            for clock, rows in compared.items():
                show(f"against nnU-Net v2, {clock}", rows)
            tables |= compared
    write_json(options.json, settings, tables)


if __name__ == "__main__":
    main()
