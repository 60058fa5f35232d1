"""``metaseg methods``: what adaptation methods there are, what each needs and what to cite."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from metaseg.cli.messages import messages

NARROW = 130
"""Columns of a terminal below which the papers follow the table instead of standing in it."""

VERB_OF_FAMILY = {"plain": "naivetune", "meta": "metatune"}
"""The verb whose ``--method`` takes the methods of a family."""

if TYPE_CHECKING:
    from metaseg.adapt.methods import MethodInfo


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List adaptation methods: verb, need of source data, cost of a step in slice gradient evaluations, paper."""
    with messages():
        from metaseg.adapt.methods import METHODS

        entries = sorted(METHODS.values(), key=_plain_first)
        if as_json:
            print(json.dumps([_values(entry) for entry in entries], indent=2))
        else:
            _print_table(entries)


def _plain_first(entry: MethodInfo) -> tuple[bool, bool, str]:
    """The two that the others are measured against come first in their families."""
    return entry.family == "meta", entry.name not in ("naive", "maml"), entry.name


def _values(entry: MethodInfo) -> dict[str, str]:
    return {
        "name": entry.name,
        "verb": VERB_OF_FAMILY[entry.family],
        "title": entry.title,
        "needs_source": entry.needs_source,
        "cost": entry.cost,
        "paper": entry.paper,
    }


def _print_table(entries: list[MethodInfo]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    narrow = console.width < NARROW
    table = Table(show_lines=True)
    for column in ("Method", "Verb"):
        table.add_column(column, no_wrap=True)
    for column in ("What it is", "Source data", "Cost of a step", *(() if narrow else ("Paper",))):
        table.add_column(column, overflow="fold")
    for entry in entries:
        values = _values(entry)
        paper = () if narrow else (values["paper"],)
        cells = (*(values[name] for name in ("name", "verb", "title", "needs_source", "cost")), *paper)
        # Text, not markup: brackets are no styles.
        table.add_row(*map(Text, cells))
    console.print(table)
    console.print(Text("Cost of a step: slice gradient evaluations, the unit of --budget."))
    if narrow:
        for entry in entries:
            console.print(Text(f"{entry.name}: {entry.paper}"))
