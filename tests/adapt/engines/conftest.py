"""Small float64 networks and tasks, and the engines that must agree on them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from metaseg.adapt.engines import BatchedEngine, MetaStepEngine, TaskBatch, build_engine
from metaseg.models.segmenters import build_segmenter

CLASSES = 3

ENGINES: dict[str, Callable[..., MetaStepEngine]] = {
    "learn2learn": lambda **options: build_engine("learn2learn", **options),
    "functional": lambda **options: build_engine("functional", **options),
    "threads": lambda **options: BatchedEngine(together=False, threads=2, **options),
    "one pass": lambda **options: BatchedEngine(together=True, **options),
    "auto": lambda **options: build_engine("auto", **options),
}


def tiny_net(norm: Callable[[int], nn.Module] | None = None) -> nn.Module:
    torch.manual_seed(0)
    middle = [norm(4)] if norm else []
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), *middle, nn.SiLU(), nn.Conv2d(4, CLASSES, 3, padding=1)
    ).double()


def batch_norm(channels: int) -> nn.Module:
    norm = nn.BatchNorm2d(channels)
    nn.init.uniform_(norm.running_mean, -0.5, 0.5)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


def frozen_front() -> nn.Module:
    net = tiny_net()
    net[0].requires_grad_(False)
    return net


def segmenter(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: build_segmenter(name, in_channels=2, num_classes=CLASSES, seed=0, **options).double()


NETS = {
    "plain": tiny_net,
    "batch norm": lambda: tiny_net(batch_norm),
    "frozen": frozen_front,
    "default unet": segmenter("unet"),
    # Holds some of its modules twice, and pads.
    "dynunet": segmenter("dynunet", filters=(4, 6, 8)),
    "segresnet": segmenter("segresnet", init_filters=4, blocks_down=(1, 1), num_groups=2),
}


def make_tasks(count: int = 2, size: int = 8, modalities: int = 2, slices: int = 1, seed: int = 1) -> list[TaskBatch]:
    generator = torch.Generator().manual_seed(seed)

    def images() -> Tensor:
        return torch.randn(slices, modalities, size, size, dtype=torch.float64, generator=generator)

    def labels() -> Tensor:
        return torch.randint(CLASSES, (slices, size, size), generator=generator)

    return [TaskBatch(images(), labels(), images(), labels()) for _ in range(count)]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    difference = sum(((found[name] - grad) ** 2).sum() for name, grad in expected.items())
    return float((difference / sum((grad**2).sum() for grad in expected.values())) ** 0.5)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert found.keys() == expected.keys()
    scale = max(grad.abs().max().item() for grad in expected.values())
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="session")
def lab() -> SimpleNamespace:
    return SimpleNamespace(
        CLASSES=CLASSES,
        net=tiny_net,
        nets=NETS,
        batch_norm=batch_norm,
        tasks=make_tasks,
        gradients=gradients,
        relative_error=relative_error,
        assert_same=assert_same,
    )


@pytest.fixture(scope="module", params=ENGINES)
def build(request: pytest.FixtureRequest) -> Callable[..., MetaStepEngine]:
    """Builds one engine after the other."""
    return ENGINES[request.param]


@pytest.fixture(scope="module")
def engine(build: Callable[..., MetaStepEngine]) -> MetaStepEngine:
    return build()
