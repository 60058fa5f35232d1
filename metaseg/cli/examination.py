"""The examination behind ``metaseg doctor``; each check tells what it found and never stops the others."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


LEAST_FREE_GIB = 5.0


@dataclass(frozen=True)
class CheckResult:
    """What one check found.

    Attributes:
        name: What was checked.
        ok: Whether metaseg can work with it.
        found: In a line, with what to do if it is not ok.
    """

    name: str
    ok: bool
    found: str


def examine() -> list[CheckResult]:
    """Run all checks."""
    results = [
        CheckResult("system", True, f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        *_packages(),
        CheckResult("cores", True, str(_cores())),
        _attempt("memory", _memory),
        _attempt("cache folder", _cache),
        _attempt("working folder", lambda: _writable(Path.cwd())),
    ]
    return [*results, *_devices()]


def _attempt(name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, True, check())
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        return CheckResult(name, False, text)


def _packages() -> Iterator[CheckResult]:
    from metaseg.runs.manifest import versions

    for name, version in versions().items():
        if name not in ("python", "system"):
            remedy = "not installed: install metaseg again, as the README says"
            yield CheckResult(name, version is not None, version or remedy)


def _cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "not told by this system"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"


def _cache() -> str:
    from metaseg.store.prepare import cache_root

    return _writable(cache_root())


def _writable(folder: Path) -> str:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error.strerror}); set METASEG_CACHE or use --out") from error
    free = shutil.disk_usage(existing).free / 2**30
    if free < LEAST_FREE_GIB:
        raise OSError(f"{folder} has only {free:.1f} GiB free; at least {LEAST_FREE_GIB:g} GiB are needed")
    return f"{folder} can be written, {free:.0f} GiB free"


def _devices() -> Iterator[CheckResult]:
    try:
        import torch
    except Exception as error:
        yield CheckResult("devices", False, f"torch cannot be imported: {error}")
        return
    names = [
        "cpu",
        *(f"cuda:{index}" for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)),
    ]
    names += ["mps"] if torch.backends.mps.is_available() else []
    for name in names:
        device = torch.device(name)
        yield _attempt(f"{name}: training step", lambda device=device: _training_step(device))  # type: ignore[misc]
        yield _attempt(f"{name}: meta-step", lambda device=device: _meta_step(device))  # type: ignore[misc]
    if names == ["cpu"]:
        yield CheckResult("GPU", True, "none found; everything works on the CPU, only slower")


def _training_step(device: torch.device) -> str:
    """A forward and a backward pass, compared with what they must give."""
    import torch

    started = time.perf_counter()
    weight = torch.full((1, 1, 3, 3), 0.5, device=device, requires_grad=True)
    image = torch.ones(1, 1, 8, 8, device=device)
    torch.nn.functional.conv2d(image, weight).sum().backward()
    assert weight.grad is not None
    # 6 x 6 positions, each adding an image value of 1 to every weight's gradient.
    if not torch.equal(weight.grad.cpu(), torch.full((1, 1, 3, 3), 36.0)):
        raise RuntimeError("a gradient is wrong; the driver or the torch build does not fit this device")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"works ({name}, {time.perf_counter() - started:.2f} s)"


def _meta_step(device: torch.device) -> str:
    """A second-order meta-step of learn2learn on a tiny network."""
    import torch

    from metaseg.adapt.engines import InnerLoop, TaskBatch, build_engine

    started = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Conv2d(1, 2, 3, padding=1).to(device)
    images = torch.randn(1, 1, 8, 8, generator=generator).to(device)
    labels = torch.zeros(1, 8, 8, dtype=torch.long, device=device)
    task = TaskBatch(images, labels, images, labels)
    build_engine("learn2learn").step(model, [task], torch.nn.functional.cross_entropy, InnerLoop(0.1))
    if model.weight.grad is None or not bool(torch.isfinite(model.weight.grad).all()):
        raise RuntimeError("the meta-gradient is missing or not finite")
    return f"learn2learn works ({time.perf_counter() - started:.2f} s)"
