"""What the command line says: a verb's result, ``--quiet``, ``--json``, and one message where something goes wrong.

There is never a traceback unless it is asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from metaseg.errors import DataWarning, MetasegError, is_out_of_memory
from metaseg.files import explain_refusal

DEBUG_VARIABLE = "METASEG_DEBUG"
INTERRUPTED = 130
TERMINATED = 143
KNOBS = ("--batch-size", "--image-size", "--first-order", "--inner-steps", "--tasks-per-step", "--window")
"""Options that lower the memory of a step, in the order in which they are worth trying."""


class Terminated(KeyboardInterrupt):
    """The system or a scheduler asked the process to end (SIGTERM): treated like Ctrl-C."""


@contextlib.contextmanager
def messages(flags: Iterable[str] = ()) -> Iterator[None]:
    """Turn every exception of a verb into a message on standard error and an exit code.

    Args:
        flags: The verb's options, of which those are named that could help.
    """
    try:
        with _warnings_as_messages():
            yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except (Exception, KeyboardInterrupt) as error:
        if debugging():
            raise
        text, code = explain(error, frozenset(flags))
        say(text)
        raise typer.Exit(code) from None


def explain(error: BaseException, flags: frozenset[str] = frozenset()) -> tuple[str, int]:
    """Message and exit code of an exception."""
    notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, MetasegError):
        return f"{error}{notes}", error.exit_code
    if isinstance(error, Terminated):
        return f"ended by the system{notes}", TERMINATED
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted{notes}", INTERRUPTED
    if is_out_of_memory(error):
        knobs = ", ".join(knob for knob in KNOBS if knob in flags)
        remedy = f"\n  to do:    need less with {knobs}" if knobs else ""
        return f"out of memory: {_first_line(error)}{remedy}", 1
    if isinstance(error, OSError) and (error.errno is not None or "requested and" in str(error)):
        reason, remedy = explain_refusal(error)
        where = f"\n  in:       {error.filename}" if error.filename is not None else ""
        return f"{reason}{where}\n  to do:    {remedy}{notes}", 1
    return (
        f"unexpected {type(error).__name__}: {_first_line(error)}\n"
        f"  to do:    run again with {DEBUG_VARIABLE}=1 for the traceback, and report it",
        1,
    )


def say(text: str) -> None:
    """Print a message on standard error."""
    print(f"metaseg: {text}", file=sys.stderr)


@contextlib.contextmanager
def _warnings_as_messages() -> Iterator[None]:
    """Print each warning for the user once, without the line of code that Python's own form shows."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        show_other, said = warnings.showwarning, set[str]()

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, DataWarning):
                show_other(message, category, *place, **more)
            elif str(message) not in said:
                said.add(str(message))
                say(f"warning: {message}")

        warnings.showwarning = show
        yield


def debugging() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no further word")


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


def say_loading() -> None:
    """Say on a terminal that the libraries are being loaded, which takes seconds."""
    if sys.stderr.isatty():
        print("loading …", file=sys.stderr, flush=True)
