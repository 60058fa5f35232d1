"""Tables that ``metaseg data`` prints."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metaseg.cases.index import Index
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
