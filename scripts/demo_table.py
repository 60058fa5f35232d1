"""Print the demo's table: Dice on target and source before and after each method."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

METHODS = (
    ("naive", "naive"),
    ("passive", "passive meta-tune"),
    ("active", "active meta-tune"),
    ("recommended", "tune (recommended)"),
)
REGIONS = ("WT", "TC", "ET")


def main(out: Path) -> None:
    results = {name: json.loads((out / "runs" / name / "result.json").read_text()) for name, _ in METHODS}
    table = Table(title="Dice on watched SYNTHETIC phantoms, mean over cases", title_justify="left")
    table.add_column("network")
    for domain in ("target (MET)", "source (HGG)"):
        for region in REGIONS:
            table.add_column(f"{domain} {region}", justify="right")
    table.add_column("slice gradients", justify="right")

    def cells(metrics: dict[str, float | None]) -> list[str]:
        values = [metrics.get(f"dice/{domain}/{region}") for domain in ("target", "source") for region in REGIONS]
        return ["-" if value is None else f"{value:.3f}" for value in values]

    table.add_row("pretrained on HGG", *cells(results["naive"]["before"]), "0")
    for name, title in METHODS:
        table.add_row(title, *cells(results[name]["after"]), str(results[name]["spent"]))
    Console(width=150 if not sys.stdout.isatty() else None).print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
