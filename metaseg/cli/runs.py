"""``metaseg runs``: what was run, how far it came and how good it is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metaseg.cli.messages import messages

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


def _print_table(rows: list[RunRow]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("Run", "Verb", "Status", "Started (UTC)", "Best figures", "Data"):
        table.add_column(column, overflow="fold")
    for row in rows:
        figures = "\n".join(f"{name} {value:.3f}" for name, value in row.figures.items() if value is not None)
        data = "synthetic" if row.synthetic else "\n".join(row.data)
        status = row.status + (f"\n{row.reason}" if row.reason else "")
        cells = (str(row.path), row.verb, status, row.started[:16].replace("T", " "), figures, data)
        # Text, not markup: brackets in paths are no styles.
        table.add_row(*map(Text, cells))
    Console().print(table)
