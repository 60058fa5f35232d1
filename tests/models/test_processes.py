"""Shares of a batch give the gradient of the whole one: threads stand in for processes, autograd for the answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metaseg.cases.labels import LABEL_SPACES
from metaseg.errors import UsageError
from metaseg.models import processes
from metaseg.models import processes as whole_batch_layers
from metaseg.models.device import make_fabric
from metaseg.models.processes import span_batches
from metaseg.training.optimization import DiceCrossEntropy

SPACE = LABEL_SPACES["subregions"]
LOSS = DiceCrossEntropy(SPACE, 0.7).double()


class Threads:
    """The collectives of ``torch.distributed`` among threads of one process."""

    def __init__(self, count: int) -> None:
        self.count, self.barrier = count, threading.Barrier(count, timeout=20)
        self.slots: list[Any] = [None] * count
        self.local = threading.local()

    def exchange(self, value: Any) -> list[Any]:
        self.slots[self.local.rank] = value
        self.barrier.wait()
        found = list(self.slots)
        self.barrier.wait()
        return found

    def all_reduce(self, tensor: Tensor) -> None:
        tensor.copy_(torch.stack(self.exchange(tensor.clone())).sum(dim=0))

    def all_gather(self, parts: list[Tensor], own: Tensor) -> None:
        for part, found in zip(parts, self.exchange(own), strict=True):
            part.copy_(found)

    def all_gather_object(self, parts: list[Any], own: Any) -> None:
        parts[:] = self.exchange(own)

    def run(self, function: Callable[[Any], Any]) -> list[Any]:
        """What ``function`` gives in each process."""

        def work(rank: int) -> Any:
            self.local.rank = rank
            fabric = SimpleNamespace(
                global_rank=rank, world_size=self.count, broadcast=lambda one, src=0: self.exchange(one)[src]
            )
            try:
                return function(fabric)
            except BaseException:
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(work, range(self.count)))


@pytest.fixture
def threads(monkeypatch) -> Callable[[int], Threads]:
    def make(count: int) -> Threads:
        found = Threads(count)
        for module in (processes, whole_batch_layers):
            monkeypatch.setattr(module, "distributed", found)
        return found

    return make


def network(norm: bool = False) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    layers = [nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, SPACE.num_classes, 3, padding=1)]
    if norm:
        layers.insert(1, nn.BatchNorm2d(6))
    model = nn.Sequential(*layers).double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3
    return model


def batch(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(size, 2, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randint(SPACE.num_classes, (size, 8, 8), generator=generator)


def objective(model: nn.Module, own: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Dice over all pixels of the batch, and a penalty on the weights."""
    penalty = torch.stack([parameter.pow(3).sum() for parameter in own.parameters()]).sum()
    return LOSS(model(images), classes) + 0.5 * penalty


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(("size", "count"), [(6, 2), (5, 2), (7, 3), (2, 4)])
@pytest.mark.parametrize("norm", [False, True])
def test_gradient_is_that_of_the_whole_batch(threads, size, count, norm):
    if norm and size < count:
        pytest.skip("batch normalisation needs a slice in each process")
    images, classes = batch(size)
    alone = network(norm)
    value = objective(alone, alone, images, classes)
    value.backward()

    def work(fabric):
        model = network(norm)
        span_batches(model)
        found = objective(processes.WholeBatch(model, fabric), model, images, classes)
        found.backward()
        processes.combine_gradients(fabric, model.parameters(), mean=True)
        return float(found.detach()), gradients(model), model.state_dict()

    for loss, found, state in threads(count).run(work):
        assert loss == pytest.approx(float(value.detach()), rel=1e-12)
        for expected, own in zip(gradients(alone), found, strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-11)
        for name, expected in alone.state_dict().items():
            torch.testing.assert_close(state[name], expected, rtol=1e-9, atol=1e-11)


def test_each_process_sees_its_own_slices_alone(threads):
    images, _ = batch(5)

    def work(fabric):
        seen: list[int] = []
        model = network()
        model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
        processes.WholeBatch(model, fabric)(images)
        return seen

    assert threads(2).run(work) == [[2], [3]]


def test_batch_normalisation_of_too_few_slices_is_refused(threads):
    def work(fabric):
        model = network(norm=True)
        span_batches(model)
        with pytest.raises(UsageError, match="batch of 2 slices for 3 processes"):
            processes.WholeBatch(model, fabric)(batch(2)[0])

    threads(3).run(work)


def test_parameter_without_gradient_stays_without(threads):
    def work(fabric):
        used, elsewhere, nowhere, frozen = (nn.Parameter(torch.ones(3)) for _ in range(4))
        frozen.requires_grad_(False)
        used.grad = torch.full((3,), float(fabric.global_rank + 1))
        if fabric.global_rank == 1:
            elsewhere.grad = torch.full((3,), 5.0)
        processes.combine_gradients(fabric, [used, elsewhere, nowhere, frozen], mean=False)
        return used.grad, elsewhere.grad, nowhere.grad, frozen.grad

    for used, elsewhere, nowhere, frozen in threads(2).run(work):
        assert used.tolist() == [3.0] * 3
        assert elsewhere.tolist() == [5.0] * 3
        assert nowhere is None
        assert frozen is None


@pytest.mark.parametrize("items", [0, 1, 2, 7])
def test_gathered_results_are_in_the_items_order(threads, items):
    for found in threads(3).run(lambda fabric: processes.distributed_map(fabric, str, range(items))):
        assert found == [str(item) for item in range(items)]


def test_one_process_is_left_alone():
    fabric = make_fabric("cpu", "32-true")
    assert processes.distributed_map(fabric, str, [1, 2]) == ["1", "2"]
    parameter = nn.Parameter(torch.ones(2))
    processes.combine_gradients(fabric, [parameter], mean=True)
    assert parameter.grad is None


@pytest.mark.parametrize(
    ("device", "devices", "variables", "words"),
    [
        ("cpu", 2, {"SLURM_STEP_NUM_TASKS": "3", "SLURM_NTASKS_PER_NODE": "3"}, "srun started 3 processes"),
        ("cpu", 2, {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0"}, "torchrun started"),
    ],
)
def test_other_number_of_processes_than_were_started(monkeypatch, device, devices, variables, words):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words):
        make_fabric(device, "32-true", devices)


def test_environments_are_recognised(monkeypatch):
    # A batch script has SLURM's variables too; without srun this process starts the others itself.
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    alone = make_fabric("cpu", "32-true", 2)
    assert type(alone.strategy.cluster_environment).__name__ == "LightningEnvironment"
    for name, value in {
        "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_NODELIST": "node[1-2]",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    fabric = make_fabric("cpu", "32-true", 2, 2)
    assert type(fabric.strategy.cluster_environment).__name__ == "SLURMEnvironment"
    assert (fabric.local_rank, fabric.node_rank) == (1, 1)


def test_more_processes_than_cores_are_refused() -> None:
    with pytest.raises(UsageError, match="--devices 9999, but there are"):
        make_fabric("cpu", "32-true", devices=9999)
