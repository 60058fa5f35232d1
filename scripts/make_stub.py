"""Write metaseg/__init__.pyi: the signatures of the package's functions, from the config classes themselves.

Editors complete and mypy checks by it. ``--check`` writes nothing and ends with exit code 1 if the file is not up to
date.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

import metaseg
from metaseg.api import objects, positional
from metaseg.config.fields import FieldDescription
from metaseg.verbs import VERBS, Verb

FILE = Path(metaseg.__file__).with_suffix(".pyi")
HEAD = '''"""Signatures of the package's functions. This file is made by ``python scripts/make_stub.py``."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

{imports}

def load(
    run: str | Path | Result,
    checkpoint: Literal["best", "last"] = "best",
    *,
    device: str = "auto",
    tta: bool = False,
) -> Predictor:
    """The segmentation network of a run, ready to predict."""
'''
SHOWN = {
    ("metaseg.cases.case", "Case"),
    ("metaseg.errors", "MetasegError"),
    ("metaseg.inference.predictor", "Predictor"),
    ("metaseg.version", "__version__"),
}
"""What the package gives beside functions: in a stub, ``as`` says so."""
PATH, RUN = "str | Path", "str | Path | Result"
WORDS = {int: "int", float: "float", bool: "bool", str: "str", Path: PATH}
TUPLES = {Path: f"{PATH} | Sequence[{PATH}]", str: "str | Sequence[str]", int: "int | str | Sequence[int]"}
OBJECTS = {
    "model": " | Callable[..., nn.Module] | nn.Module",
    "loss": " | Callable[[Tensor, Tensor], Tensor]",
    "cases": " | Case | Sequence[Case]",
    "runs": " | Result | Sequence[Result]",
}
"""What may be given beside what the setting of that name takes."""
GIVEN = {
    "cases": "cases: Sequence[Case] | None = None",
    "network": "network: nn.Module | Predictor | None = None",
}


def stub() -> str:
    """The whole file."""
    names = {(*verb.result.split(":"), "") for verb in VERBS} | {("metaseg.results", "Result", "")}
    names |= {(module, name, f" as {name}") for module, name in SHOWN}
    imports = "\n".join(f"from {module} import {name}{shown}" for module, name, shown in sorted(names))
    return HEAD.format(imports=imports) + "".join(f"\n{_function(verb)}" for verb in VERBS)


def _function(verb: Verb) -> str:
    first = positional(verb)
    fields = {field.name: field for field in verb.fields}
    by_place = ["config: str | Path" if name == "config" else _parameter(fields[name]) for name in first]
    by_name = [_parameter(field) for name, field in fields.items() if name not in first]
    by_name += [] if first == ("config",) else ["config: str | Path | None = None"]
    by_name += [GIVEN[name] for name in objects(verb)]
    parameters = [*by_place, "*", *by_name, "progress: bool = True"]
    lines = "".join(f"    {parameter},\n" for parameter in parameters)
    text = textwrap.fill(verb.help.partition(". ")[0].rstrip("."), 112, subsequent_indent="    ")
    result = verb.result.partition(":")[2]
    return f'def {verb.identifier}(\n{lines}) -> {result}:\n    """{text}."""\n'


def _parameter(field: FieldDescription) -> str:
    annotation = _annotation(field) + OBJECTS.get(field.name, "")
    if field.optional:
        annotation += " | None"
    default = field.default
    if field.argument:
        return f"{field.name}: {annotation}"
    shown = repr(default) if default is None or isinstance(default, bool | int | float | str) else "..."
    return f"{field.name}: {annotation} = {shown}".replace("'", '"')


def _annotation(field: FieldDescription) -> str:
    if field.is_mapping:
        return "Mapping[str, Any] | str"
    if field.element is not None:
        return TUPLES.get(field.element, "str | Sequence[float]")
    if field.choice is None and field.choices:
        return f"Literal[{', '.join(map(repr, field.choices))}]"
    if field.words:
        return f"{WORDS[field.annotation]} | Literal[{', '.join(map(repr, field.words))}]"
    names_run = field.annotation is str and (field.path or field.name == "from_run")
    return RUN if names_run else WORDS[field.annotation]


def main() -> None:
    """Write or check the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = stub()
    if parser.parse_args().check:
        if not FILE.exists() or FILE.read_text(encoding="utf-8") != text:
            print(f"{FILE} is not up to date: run 'python scripts/make_stub.py'", file=sys.stderr)
            sys.exit(1)
        return
    FILE.write_text(text, encoding="utf-8")
    print(FILE)


if __name__ == "__main__":
    main()
