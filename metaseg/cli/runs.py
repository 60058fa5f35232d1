"""``metaseg runs``: what was run, how far it came and how good it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metaseg.cli.messages import messages

NARROW = 110
"""Columns of a terminal below which the time of the start is left out."""

if TYPE_CHECKING:
    from metaseg.runs.listing import RunRow


def runs(
    root: Annotated[Path, typer.Argument(help="Folder that holds runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List runs with their status and best figures."""
    with messages():
        from metaseg.errors import RunError
        from metaseg.runs.listing import list_runs

        if not root.is_dir() and root != Path("runs"):
            raise RunError("there is no such folder", where=root, expected="a folder that holds runs")
        rows = list_runs(root)
        if as_json:
            print(json.dumps([asdict(row) for row in rows], indent=2, default=str))
        elif rows:
            _print_table(rows)
        else:
            print(f"no runs in {root}; 'metaseg pretrain' makes one")


def figure_lines(figures: Mapping[str, float | None]) -> list[str]:
    """Figures, one line a domain: ``dice/target/WT`` and ``dice/target/ET`` share ``target  WT 0.710  ET 0.640``."""
    lines: dict[str, list[str]] = {}
    for name, value in figures.items():
        if value is not None:
            domain, _, region = name.removeprefix("dice/").rpartition("/")
            lines.setdefault(domain, []).append(f"{region} {value:.3f}")
    return [f"{domain}  {'  '.join(cells)}".strip() for domain, cells in lines.items()]


def _print_table(rows: list[RunRow]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table()
    narrow = console.width < NARROW
    for column in ("Run", "Verb", "Status", *(() if narrow else ("Started (UTC)",)), "Best figures", "Data"):
        table.add_column(column, overflow="fold", no_wrap=column in ("Verb", "Best figures"), min_width=8)
    for row in rows:
        figures = "\n".join(figure_lines(row.figures))
        data = "synthetic" if row.synthetic else "\n".join(row.data)
        status = row.status + (f"\n{row.reason}" if row.reason else "")
        started = () if narrow else (row.started[:16].replace("T", " "),)
        cells = (str(row.path), row.verb, status, *started, figures, data)
        # Text, not markup: brackets in paths are no styles.
        table.add_row(*map(Text, cells))
    console.print(table)
