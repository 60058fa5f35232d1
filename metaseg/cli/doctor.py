"""``metaseg doctor``: does everything that metaseg needs work here?"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from metaseg.cli.messages import messages


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
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
