"""Where what a verb says and gives goes: ``--quiet``, ``--json``, and the first words of a start."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


def do_and_give(work: Callable[[], Any], *, quiet: bool, as_json: bool) -> None:
    """Do a verb.

    Args:
        work: Does it and gives its result.
        quiet: Print nothing but warnings, errors and, with ``as_json``, the result.
        as_json: Print the result as JSON on standard output and all else on standard error.
    """
    from metaseg.terminal import quiet as silence

    with silence() if quiet else contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        result = work()
    if as_json:
        print(json.dumps(json_value(result), indent=2, ensure_ascii=False))


def json_value(value: Any) -> Any:
    """A verb's result as JSON knows it: tables as lists of rows, paths as texts, numbers not finite as null."""
    if dataclasses.is_dataclass(value):
        return {item.name: json_value(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Path):
        return str(value)
    # Without importing them: tables of pandas, then arrays and numbers of numpy.
    if hasattr(value, "to_dict"):
        return json_value(value.to_dict("records"))
    return json_value(value.tolist())


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Say on a terminal that the libraries are being loaded, which takes seconds, until they are."""
    shown = sys.stderr.isatty()
    if shown:
        print("loading …", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
