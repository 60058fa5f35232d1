"""What settings a config class of ``metaseg.config.segmentation`` has: names, types, limits, defaults and help.

The command line, the messages about wrong values and the reference are all made from this. Only the standard library
is imported, because ``metaseg VERB --help`` must answer at once.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Union

from annotated_types import Ge, Gt, Interval, Le, Lt, MinLen

from metaseg.config.options import Choice, Help
from metaseg.registry import plugin_of


class Config(Protocol):
    """Any of the dataclasses of ``metaseg.config.segmentation``."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldDescription(Help):
    """One setting, as the command line and the reference show it.

    Attributes:
        name: Name of the dataclass field.
        option: Key in YAML files and, with dashes, the option: ``"from"`` for the field ``from_run``.
        annotation: The bare type, without ``Annotated`` and without ``None``.
        optional: True if None is allowed.
        bounds: Limits of its values.
        choice: The registry whose names are its values; None for most.
        words: Words that may stand in place of a number, such as ``all``.
        default: The default value; None also where there is none.
        path: True if the value is a path, or a text that may be one.
    """

    name: str
    option: str
    annotation: Any
    optional: bool
    bounds: tuple[Any, ...]
    choice: Choice | None
    words: tuple[str, ...]
    default: Any

    @property
    def flag(self) -> str:
        """The option as typed: ``--inner-steps``, or ``RUN`` for a positional argument."""
        return self.option.upper() if self.argument else "--" + self.option.replace("_", "-")

    @property
    def first_name(self) -> str:
        """Its name in the earliest release that had it; what was recorded of settings goes by it."""
        return self.earlier[0] if self.earlier else self.name

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values of a choice, with those of installed plug-ins; otherwise empty."""
        if self.choice is not None:
            return self.choice.all_names()
        return typing.get_args(self.annotation) if typing.get_origin(self.annotation) is Literal else ()

    @property
    def element(self) -> Any:
        """Type of the elements of a tuple, otherwise None."""
        is_tuple = typing.get_origin(self.annotation) is tuple
        return _number_or_words(typing.get_args(self.annotation)[0])[0] if is_tuple else None

    @property
    def is_mapping(self) -> bool:
        """True for a setting that is a mapping, given as JSON on the command line."""
        return typing.get_origin(self.annotation) in (dict, Mapping)

    @property
    def type_text(self) -> str:
        """What values are allowed, in words, such as ``"a whole number of at least 1"``."""
        if self.choice is not None:
            others = f", or {self.choice.others}" if self.choice.others else ""
            return f"one of {', '.join(self.choices)}{others}"
        return ", or ".join((_type_text(self.annotation, self.bounds), *self.words))

    @property
    def default_text(self) -> str:
        """The default as it would be typed; empty where the default is None or holds nothing."""
        if isinstance(self.default, bool):
            return "yes" if self.default else "no"
        if self.default is None or self.default in ((), {}, ""):
            return ""
        if isinstance(self.default, tuple):
            return ",".join(map(str, self.default))
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


def config_verb(cls: type[Config]) -> str:
    """The verb that a config class belongs to: ``"pretrain"`` for ``PretrainConfig``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__.removesuffix("Config")).lower()


def plugins_of(config: Config) -> dict[str, str]:
    """The installed plug-ins whose names settings have, by option: ``{"order": "my-package 1.2"}``."""
    chosen = {
        field.option: plugin_of(field.choice.group, getattr(config, field.name))
        for field in describe_fields(type(config))
        if field.choice is not None and field.choice.group
    }
    return {option: plugin for option, plugin in chosen.items() if plugin is not None}


def command_words(verb: str) -> str:
    """A verb as it is typed: ``classify train`` for ``classify-train``."""
    return verb.replace("classify-", "classify ", 1)


@lru_cache(maxsize=32)
def describe_fields(cls: type[Config]) -> tuple[FieldDescription, ...]:
    """Describe every setting of a config class, in the order of its fields."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return tuple(_describe(field, hints[field.name]) for field in dataclasses.fields(cls))


def _describe(field: dataclasses.Field[Any], hint: Any) -> FieldDescription:
    hint, marks = _parts(hint)
    members = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    annotation, bounds, words = _number_or_words(hint)
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    # A field may say otherwise than the type that it uses.
    help_ = field.metadata.get("help") or next((mark for mark in marks if isinstance(mark, Help)), Help())
    known = vars(help_) | {
        "option": (help_.option or field.name).lstrip("-").replace("-", "_"),
        "path": help_.path or annotation is Path or Path in typing.get_args(annotation),
    }
    return FieldDescription(
        **known,
        name=field.name,
        annotation=annotation,
        optional=type(None) in members,
        bounds=tuple(_bounds((*marks, *bounds))),
        choice=next((mark for mark in marks if isinstance(mark, Choice)), None),
        words=words,
        default=None if default is dataclasses.MISSING else default,
    )


def _number_or_words(hint: Any) -> tuple[Any, tuple[Any, ...], tuple[str, ...]]:
    """A type, what it is annotated with, and words that may be given instead, of a hint as ``int | Literal["all"]``."""
    union = typing.get_origin(hint) in (Union, types.UnionType)
    members = [member for member in typing.get_args(hint) if member is not type(None)] if union else [hint]
    words = [member for member in members if len(members) > 1 and typing.get_origin(member) is Literal]
    others = [member for member in members if member not in words]
    bare, marks = _parts(others[0]) if len(others) == 1 else (hint, ())
    return bare, marks, tuple(word for member in words for word in typing.get_args(member))


def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type and what it is annotated with."""
    if typing.get_origin(hint) is not Annotated:
        return hint, ()
    bare, *marks = typing.get_args(hint)
    return bare, tuple(marks)


def _bounds(marks: tuple[Any, ...]) -> Iterator[Any]:
    for mark in marks:
        if isinstance(mark, Interval):
            yield from mark
        elif isinstance(mark, Ge | Gt | Le | Lt | MinLen):
            yield mark


def _type_text(annotation: Any, bounds: tuple[Any, ...]) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin is tuple and inner[-1] is not Ellipsis:
        element, marks = _parts(inner[0])
        each = _type_text(element, tuple(_bounds(marks)))
        return f"{len(inner)} values such as {','.join(['240'] * len(inner))}, each {each}"
    if origin is tuple:
        several = {Path: "a path or several", int: "whole numbers separated by commas, or a list"}
        element, _, others = _number_or_words(inner[0])
        text = ", or ".join((several.get(element, "names separated by commas, each once, or a list"), *others))
        return text + (", at least one" if any(isinstance(bound, MinLen) for bound in bounds) else "")
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
    text = words.get(annotation) or ("a mapping, or its JSON text" if origin in (dict, Mapping) else str(annotation))
    limits = " and ".join(_bound_text(bound) for bound in bounds if not isinstance(bound, MinLen))
    return f"{text} {limits}".rstrip()


def _bound_text(bound: Any) -> str:
    if isinstance(bound, Ge):
        return f"of at least {bound.ge}"
    if isinstance(bound, Gt):
        return f"above {bound.gt}"
    if isinstance(bound, Le):
        return f"of at most {bound.le}"
    return f"below {bound.lt}"
