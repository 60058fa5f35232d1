"""Choose devices and precision through Lightning Fabric, and set the process up for fast training."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import warnings
from datetime import timedelta
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from metaseg.config.options import ProcessOptions, TeamOptions
from metaseg.errors import UsageError

Strategy = Literal["auto", "ddp"]
PATIENCE = timedelta(hours=24)
"""How long a process waits for the others: one may prepare hundreds of cases meanwhile. A dead one is noticed by its
closed connections and by whoever started it, not by this."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let glibc keep large freed blocks for the next tensor instead of handing them back to the system.

    Tensors above 32 MiB are otherwise page-faulted anew at every operation, which costs a CPU step up to a third.

    Returns:
        Whether the process's allocator could be set (Linux with glibc).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


class Replicas(DDPStrategy):
    """Fabric's data-parallel strategy without torch's wrapper around the network.

    The wrapper averages gradients of losses that each process computed by itself. Here every process computes the loss
    of the whole batch or of whole tasks, and :mod:`metaseg.models.processes` brings the gradients together.
    """

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        """The network itself."""
        return module


def fabric_of(config: Any) -> Fabric:
    """:func:`make_fabric` of a verb's settings; one process where they have no options for several."""
    strategy: Strategy = config.processes if isinstance(config, ProcessOptions) else "auto"
    devices, nodes = (config.devices, config.nodes) if isinstance(config, TeamOptions) else (1, 1)
    return make_fabric(config.device, config.precision, devices, nodes, strategy)


def make_fabric(device: str, precision: str, devices: int = 1, nodes: int = 1, strategy: Strategy = "auto") -> Fabric:
    """Fabric for one device, or for one process a device that :func:`metaseg.runs.together.together` starts and joins.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``32-true``, ``16-mixed`` or ``bf16-mixed``.
        devices: Processes on each machine, each with a GPU of its own where there are GPUs.
        nodes: Machines.
        strategy: How several processes work together; ``auto`` is ``ddp`` for several. With ``ddp`` one process
            joins a group of its own, with the same results.

    Raises:
        UsageError: The devices do not exist here, or cannot do the precision, or a launcher started another number of
            processes.
    """
    accelerator, _, index = device.partition(":")
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if accelerator not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise UsageError(f"unknown device '{device}'", expected="auto, cpu, cuda, cuda:N or mps")
    if accelerator == "cuda" and (not torch.cuda.is_available() or int(index or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise UsageError(f"device '{device}' is not here ({count} CUDA devices)", remedy="use --device auto or cpu")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps' is not here", remedy="use --device auto or cpu")
    if accelerator == "cpu" and precision == "16-mixed":
        raise UsageError("16-mixed needs a GPU", remedy="use --precision 32-true on a CPU")
    if accelerator == "cpu":
        keep_freed_memory()
    # Fabric tells of what was asked for, and that processes join, and advises a precision that no setting offers.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if devices * nodes == 1 and strategy == "auto":
            chosen: int | list[int] = [int(index)] if index and accelerator == "cuda" else 1
            return Fabric(accelerator=accelerator, devices=chosen, precision=precision)  # type: ignore[arg-type]
        _check_several(accelerator, device, devices)
        ddp = Replicas(cluster_environment=_environment(devices, nodes), timeout=PATIENCE)
        return Fabric(
            accelerator=accelerator,
            strategy=ddp,
            devices=devices,
            num_nodes=nodes,
            precision=precision,  # type: ignore[arg-type]
        )


def launched_outside() -> bool:
    """Whether torchrun or SLURM started this process as one of several."""
    return TorchElasticEnvironment.detect() or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _environment(devices: int, nodes: int) -> ClusterEnvironment:
    """Who tells a process its rank.

    SLURM's own variables stand in every batch script too, also where it calls metaseg without ``srun``: only those of a
    step count, in which ``srun`` starts the processes.

    Raises:
        UsageError: A launcher started another number of processes than the settings say.
    """
    if not launched_outside():
        return LightningEnvironment()
    launcher, started = "srun", int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if TorchElasticEnvironment.detect():
        launcher, started = "torchrun", int(os.environ["WORLD_SIZE"])
    if started != devices * nodes:
        raise UsageError(
            f"{launcher} started {started} processes, but --devices {devices} --nodes {nodes} are {devices * nodes}",
            remedy="give the number of processes of each machine with --devices, and that of machines with --nodes",
        )
    return TorchElasticEnvironment() if launcher == "torchrun" else SLURMEnvironment(auto_requeue=False)


def _check_several(accelerator: str, device: str, devices: int) -> None:
    """Refuse what several processes cannot have.

    Raises:
        UsageError: One GPU was named, there are too few, or the device is Apple's.
    """
    if accelerator == "mps":
        raise UsageError(
            f"{devices} devices of kind mps, of which a machine has one",
            remedy="omit --devices and --nodes, or add --device cpu",
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Two processes are let start on one core: slow, but a way to try a set-up.
    if accelerator == "cpu" and devices > max(2, cores):
        raise UsageError(
            f"--devices {devices}, but there are {cores} cores here",
            expected="at most one process a core",
            remedy="lower --devices",
        )
    if ":" in device:
        raise UsageError(
            f"--device {device} names one GPU, for several processes",
            expected="one GPU for each",
            remedy="use --device cuda, and choose GPUs with CUDA_VISIBLE_DEVICES",
        )
    if accelerator == "cuda" and devices > torch.cuda.device_count():
        raise UsageError(
            f"--devices {devices}, but there are {torch.cuda.device_count()} GPUs here",
            remedy="lower --devices; --device cpu starts processes without GPU",
        )
