"""The verbs that only show something: ``metaseg methods``, ``metaseg runs`` and ``metaseg doctor``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metaseg.cli.output import messages
from metaseg.verbs import verb_of_family

if TYPE_CHECKING:
    from metaseg.adapt.methods import MethodInfo
    from metaseg.runs.folder import RunRow


def methods(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """List adaptation methods: verb, need of source data, cost of a step in slice gradient evaluations, paper."""
    with messages():
        from metaseg.adapt.methods import METHODS

        entries = sorted(METHODS.entries().values(), key=_plain_first)
        if as_json:
            print(json.dumps([_values(entry) for entry in entries], indent=2))
        else:
            _print_methods(entries)


def _plain_first(entry: MethodInfo) -> tuple[bool, bool, str]:
    """The two that the others are measured against come first in their families."""
    return entry.family == "meta", entry.name not in ("naive", "maml"), entry.name


def _values(entry: MethodInfo) -> dict[str, str]:
    return {
        "name": entry.name,
        "verb": verb_of_family(entry.family).name,
        "title": entry.title,
        "needs_source": entry.needs_source,
        "cost": entry.cost,
        "paper": entry.paper,
    }


def _print_methods(entries: list[MethodInfo]) -> None:
    from metaseg.terminal import Table, print_text

    table = Table(
        ("Method", "Verb", "What it is", "Source data", "Cost of a step"), whole=("Method", "Verb"), spaced=True
    )
    for entry in entries:
        table.add(entry.name, verb_of_family(entry.family).name, entry.title, entry.needs_source, entry.cost)
    table.print()
    print_text("Cost of a step: slice gradient evaluations, the unit of --budget.")
    for entry in entries:
        print_text(f"{entry.name}: {entry.paper}")


def runs(
    root: Annotated[Path, typer.Argument(help="Folder that holds runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List runs with their status and best metrics."""
    with messages():
        from metaseg.errors import RunError
        from metaseg.runs.folder import list_runs

        if not root.is_dir() and root != Path("runs"):
            raise RunError("there is no such folder", where=root, expected="a folder that holds runs")
        rows = list_runs(root)
        if as_json:
            print(json.dumps([asdict(row) for row in rows], indent=2, default=str))
        elif rows:
            _print_runs(rows)
        else:
            print(f"no runs in {root}; 'metaseg pretrain' makes one")


def metric_lines(metrics: Mapping[str, float | None]) -> list[str]:
    """Metrics, one line a domain: ``dice/target/WT`` and ``dice/target/ET`` share ``target  WT 0.710  ET 0.640``."""
    lines: dict[str, list[str]] = {}
    for name, value in metrics.items():
        if value is not None:
            domain, _, region = name.removeprefix("dice/").rpartition("/")
            lines.setdefault(domain, []).append(f"{region} {value:.3f}")
    return [f"{domain}  {'  '.join(cells)}".strip() for domain, cells in lines.items()]


def _print_runs(rows: list[RunRow]) -> None:
    from metaseg.terminal import Table

    table = Table(
        ("Run", "Verb", "Status", "Started (UTC)", "Best metrics", "Data"),
        whole=("Run", "Verb", "Started (UTC)", "Best metrics"),
    )
    for row in rows:
        metrics = "\n".join(metric_lines(row.metrics))
        data = "synthetic" if row.synthetic else "\n".join(row.data)
        status = row.status + (f"\n{row.reason}" if row.reason else "")
        table.add(str(row.path), row.verb, status, row.started[:16].replace("T", " "), metrics, data)
    table.print()


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False) -> None:
    """Check versions, devices, learn2learn, memory and folders; exit code 1 if something does not work."""
    with messages():
        from metaseg.cli.examination import examine

        findings = examine()
        if as_json:
            content = [{"name": item.name, "ok": item.ok, "found": item.found} for item in findings]
            print(json.dumps({"ok": all(item.ok for item in findings), "checks": content}, indent=2))
        else:
            width = max(len(item.name) for item in findings)
            for item in findings:
                print(f"{'ok  ' if item.ok else 'BAD '} {item.name:<{width}}  {item.found}")
        if not all(item.ok for item in findings):
            raise typer.Exit(1)
