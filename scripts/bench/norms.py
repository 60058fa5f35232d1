"""Instance normalisation by torch's own kernel and by that of group normalisation, alone and in the default network.

python scripts/bench/norms.py --threads 1 --clock cpu
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from ratios import compare, parser, show, write_json
from torch import Tensor, nn
from torch.nn import functional as F

from metaseg.cases.labels import SUBREGIONS
from metaseg.models import build_segmenter
from metaseg.models.segmenters import GroupedInstanceNorm2d
from metaseg.training.optimization import DiceCrossEntropy

LAYERS = ((24, 88, 72), (48, 44, 36), (96, 22, 18), (192, 11, 9))
"""Channels, height and width of the default network's layers for slices of 176 x 144 pixels."""


def layer_sides(shape: tuple[int, int, int], backward: bool, device: str) -> dict[str, Callable[[], None]]:
    """One layer on a batch of eight."""
    images = torch.randn(8, *shape, device=device, requires_grad=backward)
    weight, bias = (torch.ones(shape[0], device=device, requires_grad=backward) for _ in range(2))

    def side(normalise: Callable[[], Tensor]) -> Callable[[], None]:
        def call() -> None:
            if backward:
                torch.autograd.grad(normalise().sum(), (images, weight, bias))
            else:
                with torch.inference_mode():
                    normalise()

        return call

    return {
        "instance": side(lambda: F.instance_norm(images, weight=weight, bias=bias)),
        "grouped": side(lambda: F.group_norm(images, shape[0], weight, bias)),
    }


def network_sides(batch: int, backward: bool, device: str) -> dict[str, Callable[[], None]]:
    """The default network with both kernels."""
    images = torch.randn(batch, 4, 176, 144, device=device)
    labels = torch.randint(SUBREGIONS.num_classes, (batch, 176, 144), device=device)
    loss = DiceCrossEntropy(SUBREGIONS, 0.7).to(device)
    sides: dict[str, Callable[[], None]] = {}
    for name in ("instance", "grouped"):
        model = build_segmenter("unet", 4, SUBREGIONS.num_classes, seed=0).to(device)
        if name == "instance":
            for module in model.modules():
                if type(module) is GroupedInstanceNorm2d:
                    module.__class__ = nn.InstanceNorm2d

        def call(model: nn.Module = model) -> None:
            if backward:
                model.zero_grad(set_to_none=True)
                loss(model(images), labels).backward()
            else:
                with torch.inference_mode():
                    model(images)

        sides[name] = call
    return sides


def main() -> None:
    """Print a table for each layer and for the network."""
    found = parser(__doc__, rounds=9)
    found.add_argument("--threads", type=int, default=0, help="intra-op threads; 0: torch's own choice")
    found.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: time on all threads")
    chosen = found.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    synchronize = torch.cuda.synchronize if chosen.device == "cuda" else None
    tables = {}
    for backward in (False, True):
        what = "forward and backward" if backward else "forward"
        sides = {f"{shape}, batch 8": layer_sides(shape, backward, chosen.device) for shape in LAYERS}
        sides |= {f"network, batch {count}": network_sides(count, backward, chosen.device) for count in (1, 8)}
        for name, pair in sides.items():
            title = f"{name}, {what}"
            tables[title] = compare(pair, chosen.rounds, clock=chosen.clock, synchronize=synchronize)
            show(title, tables[title])
    write_json(chosen.json, vars(chosen), tables)


if __name__ == "__main__":
    main()
