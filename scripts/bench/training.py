"""A training step against the passes in it, and what formats, compilation and a drawing thread change.

The unit is forward, backward and update of a batch that is in memory already. ``step`` draws its batch out of a store,
augments it and does the same, as ``metaseg pretrain`` does; ``draw ...`` is the drawing alone, by strength of
augmentation. ``--compile`` adds a network compiled by torch (the first call takes a minute). Without ``--data``,
phantoms are made.

    python scripts/bench/training.py
    python scripts/bench/training.py --device cuda --precision bf16 --compile
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from ratios import Ratio, cases_or_phantoms, compare, parser, show, write_json
from torch import nn

from metaseg.cases.labels import SUBREGIONS
from metaseg.models import build_segmenter
from metaseg.models.device import make_fabric
from metaseg.store.prepare import build_store, common_modalities
from metaseg.store.prepare_case import PrepareOptions
from metaseg.store.stored_case import share_cache
from metaseg.training.augment import Augmentation
from metaseg.training.optimization import DiceCrossEntropy
from metaseg.training.slices import TrainingSlices, default_window

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
STRENGTHS = ("none", "light", "full")


def drawers(data: Path | None, folder: Path, batch_size: int) -> dict[str, TrainingSlices]:
    """Batches by strength of augmentation, out of one store."""
    cases = cases_or_phantoms(data, folder, 3, phantoms=2)
    modalities = common_modalities(cases)
    store = build_store(cases, folder / "store", PrepareOptions(modalities), jobs=1)
    share_cache(store, 1.0)
    window = default_window(store)
    return {
        strength: TrainingSlices(
            store, modalities, SUBREGIONS, window, batch_size, 300, 0.5, Augmentation(strength), seed=0
        )
        for strength in STRENGTHS
    }


def trainer(
    network: str, fabric: Fabric, loss: nn.Module, *, channels_last: bool = False, compiled: bool = False
) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Forward, backward and update of a network of its own."""
    module = build_segmenter(network, 4, SUBREGIONS.num_classes, seed=0)
    form = torch.channels_last if channels_last else torch.contiguous_format
    module = module.to(memory_format=form)
    model, optimizer = fabric.setup(module, torch.optim.AdamW(module.parameters(), lr=1e-4))
    called: Any = torch.compile(model) if compiled else model

    def update(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        images = fabric.to_device(images).contiguous(memory_format=form)
        fabric.backward(loss(called(images), fabric.to_device(labels)))
        optimizer.step()

    return update


def main() -> None:
    """Print a table."""
    found = parser(__doc__, rounds=7)
    found.add_argument("--data", type=Path, help="folder of cases with labels")
    found.add_argument("--network", default="unet")
    found.add_argument("--batch-size", type=int, default=8)
    found.add_argument("--threads", type=int, default=0, help="intra-op threads; 0: torch's own choice")
    found.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: time on all threads")
    found.add_argument("--precision", choices=PRECISIONS, default="fp32", help="bf16 is meant for a GPU")
    found.add_argument("--compile", action="store_true", help="also a compiled network")
    chosen = found.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    fabric = make_fabric(chosen.device, PRECISIONS[chosen.precision])
    loss = DiceCrossEntropy(SUBREGIONS, 0.7).to(fabric.device)
    with tempfile.TemporaryDirectory() as folder:
        slices = drawers(chosen.data, Path(folder), chosen.batch_size)
        batch = slices["full"].draw(0)
        number = {"step": 0}

        def whole(strength: str) -> Callable[[], None]:
            update = trainer(chosen.network, fabric, loss)

            def step() -> None:
                number["step"] += 1
                update(*slices[strength].draw(number["step"]))

            return step

        def drawing(strength: str) -> Callable[[], None]:
            def draw() -> None:
                number["step"] += 1
                slices[strength].draw(number["step"])

            return draw

        plain, last = trainer(chosen.network, fabric, loss), trainer(chosen.network, fabric, loss, channels_last=True)
        sides: dict[str, Callable[[], object]] = {
            "passes and update": lambda: plain(*batch),
            "step, augment full": whole("full"),
            "step, augment none": whole("none"),
            **{f"draw, augment {strength}": drawing(strength) for strength in STRENGTHS},
            "passes, channels last": lambda: last(*batch),
        }
        if chosen.compile:
            compiled = trainer(chosen.network, fabric, loss, compiled=True)
            sides["passes, compiled"] = lambda: compiled(*batch)
        synchronize = torch.cuda.synchronize if fabric.device.type == "cuda" else None
        rows: list[Ratio] = compare(
            sides,
            chosen.rounds,
            clock=chosen.clock,
            warm_up=2,
            synchronize=synchronize,
            limits={"step, augment none": 1.1},
        )
    shape = "x".join(map(str, batch[0].shape))
    show(f"{chosen.network}, batch {shape}, {torch.get_num_threads()} threads, {chosen.clock} time", rows)
    write_json(chosen.json, vars(chosen) | {"shape": shape, "threads": torch.get_num_threads()}, {"step": rows})


if __name__ == "__main__":
    main()
