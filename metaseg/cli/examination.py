"""The examination behind ``metaseg doctor``; each check tells what it found and never stops the others.

Tables that ``metaseg data`` prints.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from metaseg.cases.readers.index import Index
    from metaseg.cases.splits import Split
    from metaseg.cases.summary import Summary

COUNTED = {
    "cohort": "cohorts",
    "grade": "grades",
    "site": "sites",
    "format": "format",
    "label_scheme": "label scheme",
    "shape": "slices x height x width",
    "spacing": "spacing",
    "orientation": "orientation",
}
MOST_SHOWN = 6


def print_summary(summary: Summary) -> None:
    """Print what a data set holds."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    patients = len({case.patient for case in summary.cases})
    synthetic = ", SYNTHETIC phantoms" if summary.synthetic else ""
    console.print(Text(f"{len(summary.cases)} cases of {patients} patients{synthetic}"))
    facts = Table(show_header=False, box=None)
    for attribute, title in COUNTED.items():
        facts.add_row(title, Text(_counts(summary.counts(attribute))))
    facts.add_row("modalities", Text(_counts(summary.modalities())))
    slices = summary.tumour_slices()
    facts.add_row("labelled cases", str(slices["labelled_cases"]))
    facts.add_row("slices with tumour", f"{slices['tumour']} of {slices['all']}")
    console.print(facts)
    volumes = Table("Region", "Unit", "Present in", "Lowest", "Median", "Highest")
    for unit, regions in summary.volumes().items():
        for region, sizes in regions.items():
            present = f"{sizes['present']:g} of {sizes['labelled']:g}"
            cells = (f"{sizes[key]:.2f}" if sizes["present"] else "-" for key in ("min", "median", "max"))
            volumes.add_row(region, unit, present, *cells)
    if volumes.row_count:
        console.print(volumes)
    intensities = Table("Modality", "1st percentile", "Median", "99th percentile", "Highest value")
    for name, ranges in summary.intensities().items():
        cells = (f"{ranges[f'{key}_min']:.4g} to {ranges[f'{key}_max']:.4g}" for key in ("p1", "p50", "p99", "max"))
        intensities.add_row(Text(name), *cells)
    console.print(intensities)


def print_index(index: Index, table: Path, data: Path) -> None:
    """Print what was found in a folder, which files have no place in the table, and what to do with it."""
    patients = len({case.told["patient"] for case in index.cases})
    kinds = Counter(name for case in index.cases for name in case.files)
    print(f"{len(index.cases)} cases of {patients} patients: " + ", ".join(f"{name} {kinds[name]}" for name in kinds))
    reasons: dict[str, list[str]] = {}
    for file, reason in index.left_out.items():
        reasons.setdefault(reason, []).append(str(file.relative_to(data)))
    for reason, files in reasons.items():
        more = f" and {len(files) - MOST_SHOWN} more" if len(files) > MOST_SHOWN else ""
        print(f"left out: {reason}: {', '.join(files[:MOST_SHOWN])}{more}")
    print(f"written to {table}; look it over, then run: metaseg data check {table}")


def print_split(split: Split, file: Path) -> None:
    """Print how many patients and cases each part has."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("Part", "Patients", "Cases")
    for part, cases in split.parts.items():
        table.add_row(Text(part), str(len({split.patients[case] for case in cases})), str(len(cases)))
    console = Console()
    console.print(table)
    console.print(Text(f"written to {file}; use it with --split {file}"))


def _counts(counts: dict[str, int]) -> str:
    shown = [f"{name} ({count})" for name, count in list(counts.items())[:MOST_SHOWN]]
    rest = len(counts) - len(shown)
    return ", ".join(shown) + (f", {rest} more" if rest else "")


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

    from metaseg.adapt.engines import TaskBatch, build_engine

    started = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Conv2d(1, 2, 3, padding=1).to(device)
    images = torch.randn(1, 1, 8, 8, generator=generator).to(device)
    labels = torch.zeros(1, 8, 8, dtype=torch.long, device=device)
    task = TaskBatch(images, labels, images, labels)
    build_engine("learn2learn").step(model, [task], torch.nn.functional.cross_entropy, inner_lr=0.1)
    if model.weight.grad is None or not bool(torch.isfinite(model.weight.grad).all()):
        raise RuntimeError("the meta-gradient is missing or not finite")
    return f"learn2learn works ({time.perf_counter() - started:.2f} s)"
