"""Read, check and write the settings of verbs.

A setting comes from a YAML file, from the command line or from Python; all three pass through :func:`load_config`, so
that a wrong value gives the same message wherever it was written.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from metaseg.config.fields import Config, FieldDescription, command_words, config_verb, describe_fields
from metaseg.config.sizes import OVERLAYS, merged, of_size, overlay_place
from metaseg.errors import UsageError, nearest, warn_user
from metaseg.files import FileKind, read_yaml, write_text

__all__ = ["Config", "FieldDescription", "config_text", "config_verb", "describe_fields", "dump_config", "load_config"]

EXTENDS = "extends"
"""Key of a settings file under which the file beside it stands that it is merged over."""

C = TypeVar("C", bound=Config)


def load_config(
    cls: type[C],
    file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    recorded: bool = False,
    used: Collection[str] = (),
) -> C:
    """Build a config from a YAML file and values that win over it.

    The YAML file holds the settings by name, with ``_`` or ``-``. It may name its verb (``verb: pretrain``), so that a
    file given to the wrong verb is refused, and a file beside it that it is merged over (``extends: NAME.yaml``). Names
    may be one text with commas, a list of paths one path, a mapping a JSON text. ``~`` in paths, and ``${NAME}`` or
    ``${NAME:-default}`` in paths and texts, are replaced.

    Args:
        cls: The config class.
        file: YAML file, or None.
        overrides: Values by field or option name; None is a value, not an absence.
        recorded: Whether they are read back from a run, of which nothing needs to be said again.
        used: Names of settings that the caller goes by, whether or not the verb ignores them.

    Returns:
        The checked config.

    Raises:
        UsageError: The file is unreadable, a key is unknown or given twice, a value is not allowed, or a positional
            argument is missing. All that is wrong is told at once.
    """
    fields = {field.name: field for field in describe_fields(cls)}
    values: dict[str, Any] = {}
    origin: dict[str, str | Path] = {}
    problems: list[UsageError] = []
    from_file, overlay = _settings_of(cls, file, (overrides or {}).get("size"))
    for source, where in ((from_file, file), (overrides or {}, None)):
        seen: set[str] = set()
        for key, value in source.items():
            field, place = _find_field(fields, key), overlay.get(key, where)
            if field is None or field.name in seen:
                problems.append(_unknown(key, fields, place) if field is None else _twice(field, place))
                continue
            seen.add(field.name)
            origin[field.name] = place or field.flag
            values[field.name] = value
    for name in list(values):
        try:
            values[name] = _prepare(fields[name], values[name])
        except UsageError as error:
            error.where = origin[name]
            problems.append(error)
            del values[name]
    for field in fields.values():
        # Its default is empty only so that a YAML file may set it: a positional argument is needed all the same.
        missing = field.argument and values.get(field.name, field.default) in ("", ())
        if missing and (field.name in values or field.name not in origin):
            values.pop(field.name, None)
            problems.append(_missing(field))
    config, wrong = _validate(cls, fields, values, origin)
    if config is None or problems:
        raise _one_error(problems + wrong)
    if not recorded:
        _tell_ignored(config, fields, [name for name in values if name not in used])
    return config


def _tell_ignored(config: Config, fields: Mapping[str, FieldDescription], values: Iterable[str]) -> None:
    """Warn of settings that have no meaning without another one, or beside it."""
    for name in values:
        field = fields[name]
        if getattr(config, name) == field.default:
            continue
        needed, _, allowed = field.needs.partition("=")
        if needed and not (getattr(config, needed) in allowed.split("|") if allowed else getattr(config, needed)):
            wanted = " ".join(filter(None, (fields[needed].flag, allowed.replace("|", " or "))))
            warn_user(f"{field.flag} is ignored", expected=f"{wanted} with it")
        if field.without and getattr(config, field.without):
            warn_user(f"{field.flag} is ignored beside {fields[field.without].flag}")


def dump_config(config: Config, path: Path) -> None:
    """Write a config as YAML, grouped as in ``--help``; :func:`load_config` reads an equal config back.

    Args:
        config: Any config.
        path: The file; it is replaced at once when the new one is complete.
    """
    write_text(path, config_text(config))


def config_text(config: Config) -> str:
    """The YAML text that :func:`dump_config` writes."""
    import yaml

    panels: dict[str, list[str]] = {}
    for field in describe_fields(type(config)):
        value = plain_value(getattr(config, field.name))
        # Flow style for what is inside of the value only; a mapping of one text would be {key: text} altogether.
        style = None if isinstance(value, list | dict) else False
        text = yaml.safe_dump({field.option: value}, default_flow_style=style, allow_unicode=True, width=110)
        panels.setdefault(field.panel, []).append(text)
    groups = [f"\n# {panel}\n" + "".join(lines) for panel, lines in panels.items()]
    return f"verb: {config_verb(type(config))}\n" + "".join(groups)


def shaping_values(config: Config) -> dict[str, Any]:
    """The settings that shape results, as plain JSON: all that are not declared free to change.

    They go by their first names, so that digests stay what they were when a setting gets another name.
    """
    return {
        field.first_name: plain_value(getattr(config, field.name))
        for field in describe_fields(type(config))
        if not field.free and not (field.later and getattr(config, field.name) == field.default)
    }


def asked_for(config: Config) -> dict[str, Any]:
    """:func:`shaping_values` without what is named by its place: networks and data are compared by their content.

    Raises:
        UsageError: ``overwrite`` and ``resume`` contradict each other.
    """
    if config.overwrite and config.resume:  # type: ignore[attr-defined]
        raise UsageError("--overwrite and --resume contradict each other", remedy="give one of the two")
    places = {field.name for field in describe_fields(type(config)) if field.path or field.argument}
    return {name: value for name, value in shaping_values(config).items() if name not in places}


def plain_value(value: Any) -> Any:
    """A setting as plain JSON: paths as texts, tuples as lists."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [plain_value(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    return value


def _settings_of(cls: type[Config], file: Path | None, size: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings of a file in the size asked for, and the place of those that the size's overlay sets."""
    content = {} if file is None else _read_yaml(file, config_verb(cls))
    if file is None or "size" not in cls.__dataclass_fields__:
        return content, {}
    # What a study wrote down names its size as well, and holds no overlays any more.
    size = size or (content.get("size") if OVERLAYS in content else None)
    settings, overlay = of_size(content, size, file)
    return settings, dict.fromkeys(overlay, overlay_place(file, size))


def read_settings(file: Path, expected: str = "settings", extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a settings file holds, merged over the file that its ``extends`` names, if any.

    Args:
        file: The file.
        expected: What it should be, for messages.
        extended_by: The files that extend it.

    Raises:
        UsageError: The file holds no settings, or extends itself.
    """
    content = read_yaml(file, FileKind(expected, error=UsageError))
    content = {} if content is None else content
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError("the config file holds no settings by name", where=file, expected=expected)
    if EXTENDS not in content:
        return content
    below = file.parent / str(content.pop(EXTENDS))
    if below in (chain := (*extended_by, file)):
        raise UsageError(f"the config file extends {below.name}, which extends it", where=file)
    return merged(read_settings(below, expected, chain), content)


def _read_yaml(file: Path, verb: str) -> dict[str, Any]:
    expected = f"a YAML file with settings of 'metaseg {command_words(verb)}'"
    content = read_settings(file, expected)
    found = content.pop("verb", verb)
    if found != verb:
        words = command_words(str(found))
        raise UsageError(
            f"the config file is for 'metaseg {words}'",
            where=file,
            expected=expected,
            remedy=f"give it to 'metaseg {words}', or change its key 'verb'",
        )
    return content


def present_names(cls: type[Config], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the names that their fields have now; those of no field are left, with ``_`` for ``-``."""
    fields = {field.name: field for field in describe_fields(cls)}
    found = {str(key).replace("-", "_"): value for key, value in settings.items()}
    return {field.name if (field := _find_field(fields, key)) else key: value for key, value in found.items()}


def _find_field(fields: Mapping[str, FieldDescription], key: str) -> FieldDescription | None:
    key = key.replace("-", "_")
    return fields.get(key) or next((field for field in fields.values() if key in (field.option, *field.earlier)), None)


def _unknown(key: str, fields: Mapping[str, FieldDescription], where: str | Path | None) -> UsageError:
    known = {field.option: field for field in fields.values()}
    near = nearest(key.replace("-", "_"), known)
    return UsageError(
        f"unknown setting '{key}'",
        where=where,
        expected=f"{near}: {known[near].type_text}" if near else "one of " + ", ".join(sorted(known)),
        remedy=f"did you mean '{near}'?" if near else None,
    )


def _twice(field: FieldDescription, where: str | Path | None) -> UsageError:
    return UsageError(f"'{field.option}' is given twice, under two names", where=where, remedy="keep one of the two")


def _missing(field: FieldDescription) -> UsageError:
    return UsageError(
        f"{field.flag} is missing",
        expected=f"{field.type_text} ({field.help.rstrip('.')})",
        remedy="put it right after the verb, before the options",
    )


_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")


def _expand(text: str, field: FieldDescription) -> str:
    def replace(match: re.Match[str]) -> str:
        value = os.environ.get(match["name"]) or match["default"]
        if value is None:
            raise UsageError(
                f"'{field.option}' is '{text}', but the environment variable {match['name']} is not set",
                remedy=f"set it, or write ${{{match['name']}:-some/default}}",
            )
        return value

    return _VARIABLE.sub(replace, text)


def _prepare(field: FieldDescription, value: Any) -> Any:
    """Bring a value as typed or as YAML reads it to what the type expects; pydantic judges the result."""
    annotation = field.annotation
    if isinstance(value, str) and not field.is_mapping:
        value = _expand(value, field)
        unset = field.optional and annotation not in (str, Path) and "none" not in field.choices
        if unset and value.lower() == "none":
            return None
    if field.element is not None:
        return _prepare_tuple(field, value)
    if field.is_mapping and isinstance(value, str):
        return _read_mapping(field, value)
    if annotation is Path and isinstance(value, str | Path):
        return _path(field, value)
    if annotation is str and value == "" and not field.argument:
        # An unset shell variable; silently taking the default would train on something else.
        raise _wrong(field, value)
    if annotation is str and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if field.choice is not None and isinstance(value, str) and not field.choice.holds(value):
        raise _wrong(field, value)
    if annotation in (int, float) and isinstance(value, bool):
        raise _wrong(field, value)
    return value


def _read_mapping(field: FieldDescription, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"'{field.option}' is '{text[:200]}', which is no JSON: {error}",
            expected='a JSON object such as {"name": 3}, in single quotes for the shell',
        ) from None


def _prepare_tuple(field: FieldDescription, value: Any) -> Any:
    if field.element is Path:
        items = [value] if isinstance(value, str | Path) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str | Path) for item in items):
            raise _wrong(field, value)
        return tuple(_path(field, item) for item in items)
    if isinstance(value, str):
        separator = "[,x]" if field.element is int else ","
        parts = [part.strip() for part in re.split(separator, value)]
        if not all(parts) or len(set(parts)) < (len(parts) if field.element is str else 0):
            # An unset shell variable, or a name that was meant to be another.
            raise _wrong(field, value)
        value = parts
    if field.element is str and isinstance(value, list | tuple):
        return tuple(str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in value)
    return value


def _path(field: FieldDescription, value: str | Path) -> Path:
    text = _expand(str(value), field)
    if not text:
        raise _wrong(field, text)
    return Path(text).expanduser()


@lru_cache(maxsize=32)
def _adapter(cls: type[Any]) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _validate(
    cls: type[C], fields: Mapping[str, FieldDescription], values: dict[str, Any], origin: Mapping[str, str | Path]
) -> tuple[C | None, list[UsageError]]:
    """The config, or None and one error for each wrong setting."""
    from pydantic import ValidationError

    try:
        config = _adapter(cls).validate_python(values)
        problems = [
            UsageError(
                f"'{where}' is {number:.6g}" if isinstance(number, float) else f"'{where}' has more than 64 bits",
                where=origin[name],
                expected=f"{fields[name].type_text}; numbers finite and within 64 bits",
            )
            for name in values
            for where, number in _unusable_numbers(fields[name].option, getattr(config, name))
        ]
        return (None if problems else config), problems
    except ValidationError as error:
        wrong: dict[str, UsageError] = {}
        for detail in error.errors(include_url=False):
            name = str(detail["loc"][0]) if detail["loc"] else ""
            problem = UsageError(detail["msg"].removeprefix("Value error, "))
            if name in values:
                if detail["type"] == "value_error":
                    problem.found = f"'{fields[name].option}': {problem.found}"
                else:
                    problem = _wrong(fields[name], values[name])
                problem.where = origin[name]
            wrong.setdefault(name, problem)
        return None, list(wrong.values())


def _unusable_numbers(name: str, value: Any) -> Iterator[tuple[str, int | float]]:
    """Numbers in a value that are infinite, undefined or too large for the libraries that they are handed to."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _unusable_numbers(f"{name}: {key}", item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _unusable_numbers(name, item)
    elif (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, int) and abs(value) >= 1 << 63):
        yield name, value


def _wrong(field: FieldDescription, value: Any) -> UsageError:
    shown = (
        "empty" if value is None or value == "" else f"'{value}'" if isinstance(value, str) else f"{plain_value(value)}"
    )
    near = nearest(str(value), field.choices or field.words)
    return UsageError(
        f"'{field.option}' is {shown}",
        expected=field.type_text + (", or none" if field.optional else ""),
        remedy=f"did you mean '{near}'?" if near else None,
    )


def _one_error(problems: list[UsageError]) -> UsageError:
    if len(problems) == 1:
        return problems[0]
    lines = [f"{len(problems)} settings are wrong"]
    for problem in problems:
        where = f" (in {problem.where})" if problem.where else ""
        lines.append(f"  - {problem.found}{where}")
        lines += [f"    expected: {problem.expected}"] if problem.expected else []
        lines += [f"    to do:    {problem.remedy}"] if problem.remedy else []
    return UsageError("\n".join(lines))
