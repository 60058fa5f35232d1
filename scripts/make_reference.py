"""Write docs/reference.md: every setting of every verb, from the config classes themselves.

``--check`` writes nothing and ends with exit code 1 if the file is not up to date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from metaseg.config.fields import FieldDescription
from metaseg.verbs import VERBS, Verb

FILE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"
HEAD = """# Settings

Every setting of every verb. Each can be an option (`--inner-steps 3`), a line of a YAML file given with `--config`
(`inner_steps: 3`) or an argument of the config class in Python (`MetatuneConfig(inner_steps=3)`). Options win over the
file. In files, `~` and `${NAME}` or `${NAME:-default}` are replaced; `metaseg VERB --help` shows the same texts.

This page is made by `python scripts/make_reference.py`.
"""


def reference() -> str:
    """The whole page."""
    return "\n".join([HEAD, *map(_verb, VERBS)])


def _verb(verb: Verb) -> str:
    settings = f"{verb.config.__module__}.{verb.config.__name__}"
    lines = [f"## metaseg {verb.words}", "", verb.help, "", f"In Python: `{settings}`.", ""]
    lines += ["```sh", *verb.examples, "```", ""]
    panels: dict[str, list[FieldDescription]] = {}
    for field in verb.fields:
        panels.setdefault("Arguments" if field.argument else field.panel, []).append(field)
    for panel in sorted(panels, key=lambda name: name != "Arguments"):
        lines += [f"### {panel}", "", "| setting | values | default | what it does |", "|---|---|---|---|"]
        lines += [_row(field) for field in panels[panel]]
        lines.append("")
    return "\n".join(lines)


def _row(field: FieldDescription) -> str:
    name = f"`{field.flag}`" + (f" (`{field.name}`)" if field.option != field.name else "")
    default = f"`{field.default_text}`" if field.default_text else "needed" if field.argument else "none"
    cells = (name, field.type_text, default, field.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = reference()
    if parser.parse_args().check:
        current = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
        if current != text:
            print(f"{FILE} is not up to date: run 'python scripts/make_reference.py'", file=sys.stderr)
            sys.exit(1)
        return
    FILE.write_text(text, encoding="utf-8")
    print(FILE)


if __name__ == "__main__":
    main()
