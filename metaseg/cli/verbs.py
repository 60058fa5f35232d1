"""The command line's verbs, made from the table of verbs: their options are the fields of their config class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from glob import glob
from pathlib import Path
from typing import Annotated, Any

import typer

from metaseg.cli.help import PlainCommand, PlainGroup
from metaseg.cli.output import do_and_give, messages, say_loading
from metaseg.config.classification import ACTIVE, TRANSFER
from metaseg.config.fields import FieldDescription
from metaseg.config.options import ADAPT, DATA, METHOD, MODEL, OUT, RUN, TRAIN
from metaseg.config.studies import SEARCH, STUDY
from metaseg.verbs import COMPARING, VERBS, Verb

CLASSIFY = "classify"
PANEL_ORDER = ("Options", STUDY, DATA, MODEL, ADAPT, TRANSFER, ACTIVE, METHOD, SEARCH, TRAIN, OUT, RUN)
METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


def add_verbs(app: typer.Typer, words: Sequence[str] | None = None) -> None:
    """Enter the verbs of the table into the command line, those of classifiers below ``classify``.

    Args:
        app: The command line.
        words: The words to be read: a verb that they do not name gets no options, which take most of the time. None for
            all verbs with their options.
    """
    asked = None if words is None else find_words(words)[0]
    text = "Classify slices: fit, choose what to label next, evaluate, predict and compare."
    below = typer.Typer(help=text, cls=PlainGroup, no_args_is_help=True, rich_markup_mode=None)
    for verb in VERBS:
        examples = "\n".join(f"  {line}" for line in verb.examples)
        text = f"{verb.help}\n\nExamples:\n\n{examples}"
        group, _, last = verb.words.rpartition(" ")
        command = make_command(verb, verb.fields if words is None or verb is asked else ())
        (below if group else app).command(last, help=text, rich_help_panel=verb.panel, cls=PlainCommand)(command)
    app.add_typer(below, name=CLASSIFY, rich_help_panel=COMPARING)


def find_words(words: Sequence[str]) -> tuple[Verb | None, int]:
    """The verb of the table that a command line names, and how many of its words that takes."""
    given = [word for word in words if not word.startswith("-")][:2]
    for count in range(len(given), 0, -1):
        for verb in VERBS:
            if verb.words == " ".join(given[:count]):
                return verb, words.index(given[count - 1]) + 1
    return None, 0


def make_command(verb: Verb, fields: Sequence[FieldDescription]) -> Callable[..., None]:
    """A function with one parameter for each of some settings of a verb, as typer wants it."""

    def command(**given: Any) -> None:
        file, quiet, as_json = (given.pop(name) for name in ("config_file", "quiet", "as_json"))
        settings = {name: value for name, value in given.items() if value not in (None, [], ())}
        run_verb(verb, file, settings, quiet=quiet, as_json=as_json)

    ordered = sorted(fields, key=lambda field: (not field.argument, _panel_rank(field.panel)))
    parameters = [_config_parameter(verb), *map(option_for, ordered), *_output_parameters()]
    # typer reads the signature for order and defaults and the annotations for types, and help.py which are rare.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__name__ = verb.name
    command.rare = {field.name for field in fields if not (field.common or field.argument)}  # type: ignore[attr-defined]
    return command


def run_verb(
    verb: Verb, file: Path | None, overrides: dict[str, Any], *, quiet: bool = False, as_json: bool = False
) -> None:
    """Gather the settings and do the verb; every error becomes one message."""
    with messages(flag.flag for flag in verb.fields):
        from metaseg.errors import UsageError

        if file is None and overrides.get("resume") and overrides.get("out"):
            from metaseg.runs.folder import saved_settings

            file = saved_settings(Path(overrides["out"]).expanduser(), verb.config)
        if file is None and verb.file_argument:
            raise UsageError(
                "CONFIG is missing",
                expected=f"a YAML file with settings of 'metaseg {verb.words}'",
                remedy="put it right after the verb, before the options",
            )
        settings = verb.settings(file, overrides)
        if not quiet:
            say_loading()
        do = verb.load()
        do_and_give(lambda: do(settings), quiet=quiet, as_json=as_json)


def spelled_out(words: Sequence[str]) -> list[str]:
    """A command line with ``--data A B`` and ``--folds`` spelled out, and earlier names of options replaced."""
    verb, taken = find_words(words)
    if verb is None:
        return list(words)
    present = with_lone_values(present_flags(words[taken:], verb.earlier_flags), verb.lone_flags)
    return [*words[:taken], *expand_lists(present, verb.list_flags)]


def with_lone_values(arguments: Sequence[str], alone: Mapping[str, str]) -> list[str]:
    """The command line after a verb, with the values of options that stand there without one."""
    full: list[str] = []
    for word, after in zip(arguments, [*arguments[1:], "-"], strict=False):
        full += [word, alone[word]] if word in alone and after.startswith("-") else [word]
    return full


def present_flags(arguments: Sequence[str], renamed: Mapping[str, str]) -> list[str]:
    """The command line after a verb, with options that had other names in earlier releases by their present ones."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    split = [word.partition("=") for word in arguments[:end]]
    return [*(renamed.get(name, name) + sign + value for name, sign, value in split), *arguments[end:]]


def expand_lists(arguments: Sequence[str], flags: Collection[str]) -> list[str]:
    """Write an option's name before each of its values.

    Args:
        arguments: The command line after the verb.
        flags: Options that take several values. Values end at the next word that begins with ``-``; ``--`` ends them
            where a positional argument follows.

    Returns:
        The command line in which each such option has one value.
    """
    expanded: list[str] = []
    flag: str | None = None
    waiting = False
    for position, word in enumerate(arguments):
        if word == "--":
            return [*expanded, *arguments[position:]]
        if word.startswith("-") and word != "-":
            flag = word if word in flags else None
            waiting = flag is not None
            expanded.append(word)
        elif flag is None or waiting:
            waiting = False
            expanded.append(word)
        else:
            expanded += [flag, word]
    return expanded


def _panel_rank(panel: str) -> int:
    return PANEL_ORDER.index(panel) if panel in PANEL_ORDER else len(PANEL_ORDER) - 2


def _output_parameters() -> list[inspect.Parameter]:
    quiet = typer.Option("--quiet", help="Print nothing but warnings and errors.")
    as_json = typer.Option("--json", help="Print the result as JSON, and all else on standard error.")
    return [_keyword("quiet", bool, quiet, False), _keyword("as_json", bool, as_json, False)]


def _config_parameter(verb: Verb) -> inspect.Parameter:
    text = "YAML file of settings; options on the command line win over it."
    if verb.file_argument:
        return _keyword("config_file", Path | None, typer.Argument(metavar="CONFIG", help=text, show_default=False))
    return _keyword("config_file", Path | None, typer.Option("--config", metavar="FILE", help=text))


def option_for(field: FieldDescription) -> inspect.Parameter:
    """The parameter of one setting. None stands for "not given", so that a config file's value holds."""
    several = field.element is Path
    # Paths are taken as texts: "" from an unset shell variable would become the working directory.
    annotation: Any = list[str] if several else bool if field.annotation is bool else str
    if field.argument:
        # Shown as needed, although a config file may hold it.
        metavar = field.flag + ("..." if several else "")
        return _keyword(
            field.name, annotation | None, typer.Argument(metavar=metavar, help=_help(field), show_default=False)
        )
    option = partial(typer.Option, help=_help(field), rich_help_panel=field.panel, show_default=False)
    if annotation is bool:
        return _keyword(field.name, bool | None, option(f"{field.flag}/--no-{field.flag[2:]}"))
    completion = _matching(field.choices) if field.choices else _paths if field.path else None
    return _keyword(
        field.name, annotation | None, option(field.flag, metavar=_metavar(field), autocompletion=completion)
    )


def _metavar(field: FieldDescription) -> str:
    if field.choice is not None:
        return "NAME"
    if field.choices:
        return f"[{'|'.join(field.choices)}]"
    if field.is_mapping or field.element is not None:
        return "JSON" if field.is_mapping else "PATH..." if field.element is Path else "A,B"
    return "|".join((METAVARS.get(field.annotation, "TEXT"), *field.words))


def _keyword(name: str, annotation: Any, info: Any, default: Any = None) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=Annotated[annotation, info])


def _matching(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    # typer wants a function, nothing else that can be called.
    def matching(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return matching


def _paths(incomplete: str) -> list[str]:
    return sorted(f"{path}/" if Path(path).is_dir() else path for path in glob(incomplete + "*"))


def _help(field: FieldDescription) -> str:
    names = f" {field.type_text[0].upper()}{field.type_text[1:]}." if field.choice is not None else ""
    default = f" [default: {field.default_text}]" if field.default_text and not field.argument else ""
    return field.help + names + default
