"""``metaseg``: the entry point of the command line."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_command

from metaseg.cli.data import data_app
from metaseg.cli.help import COMPLETION_VARIABLE, HELP_FLAGS, PlainCommand, PlainGroup, asked_help
from metaseg.cli.output import Terminated, debugging, explain, say
from metaseg.cli.runs import doctor, methods, runs
from metaseg.cli.verbs import add_verbs, find_words, spelled_out
from metaseg.errors import nearest
from metaseg.version import __version__

PREPARE, LOOK = "Prepare data", "Look around"
HELP = """Adapt a brain-tumour segmentation network to a new disease from a few patients, without forgetting the first.

Start here (both run on built-in synthetic phantoms):

  metaseg pretrain --epochs 5 --out runs/first
  metaseg metatune --from runs/first --out runs/second

Research only, not for clinical use."""


def build_app(words: Sequence[str] | None = None) -> typer.Typer:
    """The command line with all verbs; only the one that is named by words to be read, if any, then has its options."""
    app = typer.Typer(
        help=HELP,
        cls=PlainGroup,
        rich_markup_mode=None,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": list(HELP_FLAGS)},
    )
    app.callback()(_options)
    app.add_typer(data_app, name="data", rich_help_panel=PREPARE)
    add_verbs(app, words)
    app.command(rich_help_panel=LOOK, cls=PlainCommand)(methods)
    app.command(rich_help_panel=LOOK, cls=PlainCommand)(runs)
    app.command(rich_help_panel=LOOK, cls=PlainCommand)(doctor)
    return app


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and end the process.

    Args:
        arguments: The words after ``metaseg``; those of the process if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _treat_termination_as_interruption()
    try:
        code = _call(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has gone; Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _call(words: Sequence[str]) -> int:
    """Run a command line and return the exit code."""
    try:
        command: Any = get_command(build_app(None if COMPLETION_VARIABLE in os.environ else words))
        text = asked_help(command, words)
        if text is not None:
            print(text)
            return 0
        result = command.main(spelled_out(words), prog_name="metaseg", standalone_mode=False)
    except typer.Abort:
        say("interrupted")
        return 130
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        if _is_usage_error(error):
            _say_usage(error, words)
            return 2
        if debugging():
            raise
        text, code = explain(error)
        say(text)
        return code
    return result if isinstance(result, int) else 0


def _is_usage_error(error: BaseException) -> bool:
    # typer carries its own copy of click since 0.26: identified by shape, not by class.
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _say_usage(error: Any, words: Sequence[str]) -> None:
    verb, _ = find_words(words)
    context = getattr(error, "ctx", None)
    command = (f"metaseg {verb.words}" if verb else "metaseg") if context is None else context.command_path
    text, remedy = " ".join(error.format_message().split()), f"see '{command} --help'"
    if context is not None and hasattr(error, "option_name"):
        text = f"there is no option {error.option_name}"
        flags = [flag for item in context.command.params for flag in item.opts if flag.startswith("--")]
        likely = nearest(error.option_name, flags)
        remedy = f"did you mean {likely}? {remedy[0].upper()}{remedy[1:]}" if likely else remedy
    say(f"{text}\n  to do:    {remedy}")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"metaseg {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", show_default=False, is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    pass


def _treat_termination_as_interruption() -> None:
    """A scheduler's SIGTERM ends a run as Ctrl-C does: its status is kept and the way to continue is told."""
    process = os.getpid()

    def end(number: int, frame: object) -> None:
        if os.getpid() != process:
            os._exit(143)
        raise Terminated("SIGTERM")

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)
