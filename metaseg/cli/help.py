"""Help texts: plain, grouped under headings, and quick.

typer's own help loads rich and a Markdown parser, which takes longer than everything else that ``--help`` does.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

HELP_FLAGS = ("-h", "--help")
HELP_ALL = "--help-all"
WIDEST = 110
NAME_COLUMN = 34
COMPLETION_VARIABLE = "_METASEG_COMPLETE"


class PlainCommand(TyperCommand):
    """A command whose help is plain."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of a verb."""
        formatter.write(render(self, ctx))


class PlainGroup(TyperGroup):
    """A group of verbs whose help is plain and lists them in the order in which they are used."""

    order: Sequence[str] = (
        "data",
        "pretrain",
        "tune",
        "metatune",
        "naivetune",
        "train",
        "active",
        "evaluate",
        "predict",
        "compare",
        "report",
        "search",
        "classify",
        "methods",
        "runs",
        "doctor",
    )

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the verbs."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: self.order.index(name) if name in self.order else len(self.order))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of a group."""
        formatter.write(render(self, ctx))


def asked_help(command: Any, words: Sequence[str]) -> str | None:
    """The help that a command line asks for, found without reading the other words.

    Args:
        command: The whole command line.
        words: The words after ``metaseg``.

    Returns:
        The text; None if the words ask for something else.
    """
    if COMPLETION_VARIABLE in os.environ:
        return None
    context = typer.Context(command, info_name="metaseg", **command.context_settings)
    for word in words:
        if word in HELP_FLAGS:
            return str(command.get_help(context))
        if word == HELP_ALL:
            return render(command, context, rare=frozenset())
        if word == "--":
            return None
        below = command.get_command(context, word) if isinstance(command, TyperGroup) else None
        if below is not None:
            command, context = below, typer.Context(below, info_name=word, parent=context)
        elif isinstance(command, TyperGroup):
            return None
    return str(command.get_help(context)) if isinstance(command, TyperGroup) else None


def render(command: Any, context: Any, rare: Collection[str] | None = None) -> str:
    """The help of a command or group.

    Args:
        command: The command.
        context: Its context.
        rare: Names of parameters that are left out; None for those that the command says of itself.
    """
    rare = getattr(command.callback, "rare", frozenset()) if rare is None else rare
    width = min(shutil.get_terminal_size().columns, WIDEST) - 1
    parts = [f"Usage: {_usage(command, context)}", _text(command.help or "", width)]
    groups: dict[str, list[tuple[str, str]]] = {}
    if isinstance(command, TyperGroup):
        for name in command.list_commands(context):
            below: Any = command.get_command(context, name)
            groups.setdefault(_panel(below, "Verbs"), []).append((name, _first_sentence(below.help or "")))
    else:
        groups["Arguments"] = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and parameter.name not in rare:
            default, name = ("Arguments", _argument(parameter)) if _is_argument(parameter) else ("Options", record[0])
            groups.setdefault(_panel(parameter, default), []).append((_tidy_type(name), record[1]))
    parts += [_section(title, rows, width) for title, rows in groups.items() if rows]
    if rare:
        parts.append(_text(f"{len(rare)} more options: {context.command_path} {HELP_ALL}", width))
    return "\n\n".join(parts) + "\n"


def _usage(command: Any, context: Any) -> str:
    if isinstance(command, TyperGroup):
        return f"{context.command_path} VERB ..."
    arguments = [
        _argument(parameter) if parameter.required or parameter.default is None else f"[{_argument(parameter)}]"
        for parameter in command.get_params(context)
        if _is_argument(parameter)
    ]
    return " ".join([context.command_path, *arguments, "[OPTIONS]"])


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _argument(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _tidy_type(name: str) -> str:
    """``<int range>``, as newer typers write it, as ``INT``."""
    return re.sub(r"<(\w+)[^>]*>", lambda match: match[1].upper(), name)


def _text(text: str, width: int) -> str:
    """Paragraphs are filled; indented ones, such as command lines, stay as they are."""
    paragraphs = textwrap.dedent(text).strip("\n").split("\n\n")
    return "\n\n".join(
        paragraph
        if paragraph.startswith(" ")
        else textwrap.fill(" ".join(paragraph.split()), width, break_on_hyphens=False)
        for paragraph in paragraphs
    )


def _section(title: str, rows: Iterable[tuple[str, str]], width: int) -> str:
    rows = list(rows)
    column = min(max(len(name) for name, _ in rows), NAME_COLUMN) + 4
    lines = [_bold(f"{title}:")]
    for name, text in rows:
        wrapped = textwrap.wrap(" ".join(text.split()), max(width - column, 30), break_on_hyphens=False) or [""]
        # A long name stands on a line of its own.
        head, tail = ([f"  {name}"], wrapped) if len(name) > column - 4 else ([], wrapped)
        lines += head
        for number, line in enumerate(tail):
            left = f"  {name}" if number == 0 and not head else ""
            lines.append(f"{left:<{column}}{line}".rstrip())
    return "\n".join(lines)


def _panel(item: Any, default: str) -> str:
    panel = getattr(item, "rich_help_panel", None)
    return panel if isinstance(panel, str) else default


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(text.split("\n\n")[0].split()))[0]


def _bold(text: str) -> str:
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR")
    return text if plain else f"\033[1m{text}\033[0m"
