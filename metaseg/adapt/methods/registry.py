"""The registry of adaptation methods: names, papers, what they need and what a step of each costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from metaseg.errors import unknown_name

Family = Literal["plain", "meta"]
"""``plain`` methods run in the ordinary loop (``metaseg naivetune``), ``meta`` methods in meta-steps (``metatune``)."""

T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class MethodInfo:
    """An entry of the registry.

    Attributes:
        name: As in ``--method``.
        family: Which verb runs it.
        title: A few words for tables and metrics.
        paper: What to cite.
        needs_source: Whether it draws from the source's training cases; ``"never"``, ``"always"`` or ``"optional"``.
        cost: What a step costs in slice gradient evaluations, in words.
        build: Its class.
    """

    name: str
    family: Family
    title: str
    paper: str
    needs_source: Literal["never", "always", "optional"]
    cost: str
    build: type[Any]


METHODS: dict[str, MethodInfo] = {}
"""Methods by name."""


def register_method(
    name: str,
    family: Family,
    *,
    title: str,
    paper: str,
    needs_source: Literal["never", "always", "optional"] = "never",
    cost: str = "b for a batch of b slices",
) -> Callable[[T], T]:
    """Enter a class into :data:`METHODS`; see :class:`MethodInfo`.

    Raises:
        ValueError: The name is taken.
    """

    def enter(build: T) -> T:
        if name in METHODS:
            raise ValueError(f"there is a method '{name}' already")
        METHODS[name] = MethodInfo(name, family, title, paper, needs_source, cost, build)
        return build

    return enter


def method_names(family: Family | None = None) -> tuple[str, ...]:
    """Names of the methods, of one family or of all."""
    return tuple(name for name, info in METHODS.items() if family in (None, info.family))


def find_method(name: str, family: Family | None = None) -> MethodInfo:
    """Look a method up.

    Raises:
        UsageError: There is none of that name in the family.
    """
    names = method_names(family)
    if name in names:
        return METHODS[name]
    raise unknown_name("method", name, names)
