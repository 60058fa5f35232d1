"""Write the generated pages: docs/reference.md, every setting of every verb, and docs/modules.md, every module.

``--check`` writes nothing and ends with exit code 1 if a page is not up to date.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path

from metaseg.config.fields import FieldDescription
from metaseg.verbs import VERBS, Verb

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = """# Settings

Every setting of every verb. Each can be an option (`--inner-steps 3`), a line of a YAML file given with `--config`
(`inner_steps: 3`) or an argument in Python (`metaseg.metatune(inner_steps=3)`). Options win over the
file. In files, `~` and `${NAME}` or `${NAME:-default}` are replaced; `metaseg VERB --help-all` shows the same texts.

This page is made by `python scripts/make_reference.py`.
"""
MODULES = """# Modules

Every module of metaseg with the first sentence of its documentation, room by room in the
[order of imports](architecture.md#import-order). This page is made by `python scripts/make_reference.py`.
"""


def reference() -> str:
    """The page of settings."""
    return "\n".join([REFERENCE, *map(_verb, VERBS)])


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


def modules() -> str:
    """The page of modules."""
    architecture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    order = re.split(r"\s*<\s*", architecture.split("## Import order")[1].split("```text\n")[1].split("```")[0].strip())
    package = ROOT / "metaseg"
    lines = [MODULES]
    for room in order:
        files = (
            [package / f"{room}.py"] if (package / f"{room}.py").is_file() else sorted((package / room).rglob("*.py"))
        )
        said = [(file, ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))) for file in files]
        lines += [f"## {room}", "", "| module | what it does |", "|---|---|"]
        lines += [f"| `{file.relative_to(package)}` | {_first_paragraph(text)} |" for file, text in said if text]
        lines.append("")
    return "\n".join(lines)


def _first_paragraph(text: str) -> str:
    plain = " ".join(text.split("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", plain)


def main() -> None:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for name, text in (("reference.md", reference()), ("modules.md", modules())):
        file = ROOT / "docs" / name
        if not check:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            print(f"docs/{name} is not up to date: run 'python scripts/make_reference.py'", file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
