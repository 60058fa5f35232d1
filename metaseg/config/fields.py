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

from metaseg.config.options import Help


class Config(Protocol):
    """Any of the dataclasses of ``metaseg.config.segmentation``."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


@dataclasses.dataclass(frozen=True)
class FieldDescription:
    """One setting, as the command line and the reference show it.

    Attributes:
        name: Name of the dataclass field.
        option: Key in YAML files and, with dashes, the option: ``"from"`` for the field ``from_run``.
        type_text: What values are allowed, in words, such as ``"a whole number of at least 1"``.
        default: The default value; None also where there is none.
        help: What it does.
        panel: Heading under which ``--help`` lists it.
        argument: True for a positional argument.
        annotation: The bare type, without ``Annotated`` and without ``None``.
        optional: True if None is allowed.
        free: Why another value changes no results; empty where it may.
        path: True if the value is a path, or a text that may be one.
        needs: The setting without which this one is ignored; empty for most.
        without: The setting beside which this one is ignored; empty for most.
    """

    name: str
    option: str
    type_text: str
    default: Any
    help: str
    panel: str
    argument: bool
    annotation: Any
    optional: bool
    free: str
    path: bool
    needs: str
    without: str

    @property
    def flag(self) -> str:
        """The option as typed: ``--inner-steps``, or ``RUN`` for a positional argument."""
        return self.option.upper() if self.argument else "--" + self.option.replace("_", "-")

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values of a choice, otherwise empty."""
        return typing.get_args(self.annotation) if typing.get_origin(self.annotation) is Literal else ()

    @property
    def element(self) -> Any:
        """Type of the elements of a tuple, otherwise None."""
        if typing.get_origin(self.annotation) is not tuple:
            return None
        first = typing.get_args(self.annotation)[0]
        return typing.get_args(first)[0] if typing.get_origin(first) is Annotated else first

    @property
    def is_mapping(self) -> bool:
        """True for a setting that is a mapping, given as JSON on the command line."""
        return typing.get_origin(self.annotation) in (dict, Mapping)

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


def command_words(verb: str) -> str:
    """A verb as it is typed: ``classify train`` for ``classify-train``."""
    return verb.replace("classify-", "classify ", 1)


@lru_cache(maxsize=32)
def describe_fields(cls: type[Config]) -> tuple[FieldDescription, ...]:
    """Describe every setting of a config class, in the order of its fields."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return tuple(_describe(field, hints[field.name]) for field in dataclasses.fields(cls))


def _describe(field: dataclasses.Field[Any], hint: Any) -> FieldDescription:
    metadata: tuple[Any, ...] = ()
    if typing.get_origin(hint) is Annotated:
        hint, *rest = typing.get_args(hint)
        metadata = tuple(rest)
    help_ = next((item for item in metadata if isinstance(item, Help)), Help(""))
    members = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    bare = [member for member in members if member is not type(None)]
    annotation = bare[0] if len(bare) == 1 else hint
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return FieldDescription(
        name=field.name,
        option=(help_.option or field.name).lstrip("-").replace("-", "_"),
        type_text=_type_text(annotation, tuple(_bounds(metadata))),
        default=None if default is dataclasses.MISSING else default,
        help=help_.text,
        panel=help_.panel,
        argument=help_.argument,
        annotation=annotation,
        optional=type(None) in members,
        free=help_.free,
        needs=help_.needs,
        without=help_.without,
        path=help_.path or annotation is Path or Path in typing.get_args(annotation),
    )


def _bounds(metadata: tuple[Any, ...]) -> Iterator[Any]:
    for item in metadata:
        if isinstance(item, Interval):
            yield from item
        elif isinstance(item, Ge | Gt | Le | Lt | MinLen):
            yield item


def _type_text(annotation: Any, bounds: tuple[Any, ...] = ()) -> str:
    """What values are allowed, in words."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type_text(inner[0], tuple(_bounds(inner[1:])))
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"{len(inner)} values such as {','.join(['240'] * len(inner))}, each {_type_text(inner[0])}"
    if origin is tuple:
        several = {Path: "a path or several", int: "whole numbers separated by commas, or a list"}
        text = several.get(inner[0], "names separated by commas, each once, or a list")
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
