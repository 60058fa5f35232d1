"""Choose device and precision through Lightning Fabric, and set the process up for fast training."""

from __future__ import annotations

import ctypes
import sys
import warnings

import torch
from lightning_fabric import Fabric

from metaseg.errors import UsageError

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


def make_fabric(device: str, precision: str) -> Fabric:
    """Fabric for one device.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``32-true``, ``16-mixed`` or ``bf16-mixed``.

    Raises:
        UsageError: The device does not exist here, or cannot do the precision.
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        devices: int | list[int] = [int(index)] if index and accelerator == "cuda" else 1
        return Fabric(accelerator=accelerator, devices=devices, precision=precision)  # type: ignore[arg-type]
