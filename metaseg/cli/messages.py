"""What the user sees when something goes wrong: one message, never a traceback unless asked for."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
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
