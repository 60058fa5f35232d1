"""The registry of adaptation methods: names, papers, what they need and what a step of each costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from metaseg.config.segmentation import Effort, MetatuneConfig, NaivetuneConfig
from metaseg.errors import unknown_name
from metaseg.registry import Registry

Family = Literal["plain", "meta"]
"""``plain`` methods run in the ordinary loop (``metaseg naivetune``), ``meta`` methods in meta-steps (``metatune``)."""

T = TypeVar("T", bound=type)
C = TypeVar("C", NaivetuneConfig, MetatuneConfig)


@dataclass(frozen=True)
class Stage:
    """Values of one setting, or of some that belong together, of which ``--effort`` takes the best.

    Attributes:
        title: What they set, in a word or two.
        values: Settings by name; the first are the method's defaults.
        effort: The least effort at which they are tried.
    """

    title: str
    values: tuple[Mapping[str, Any], ...]
    effort: Literal["quick", "normal", "thorough"] = "quick"


EFFORT_LEVELS = ("none", "quick", "normal", "thorough")
WAY_BACK = "interpolation"
"""What every method's effort chooses besides, since it takes no training of its own."""


@dataclass(frozen=True)
class MethodInfo:
    """An entry of the registry.

    Attributes:
        name: As in ``--method``.
        family: Which verb runs it.
        title: A few words for tables and figures.
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


METHODS: Registry[MethodInfo] = Registry("method", "metaseg.methods", MethodInfo)
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
    """Enter the decorated class into :data:`METHODS`; see :class:`MethodInfo`.

    Raises:
        ValueError: The name is taken.
    """

    def enter(build: T) -> T:
        METHODS.add(name, MethodInfo(name, family, title, paper, needs_source, cost, build))
        return build

    return enter


def method_names(family: Family) -> tuple[str, ...]:
    """Names of the methods of a family."""
    return tuple(name for name, info in METHODS.entries().items() if info.family == family)


def find_method(name: str, family: Family | None = None) -> MethodInfo:
    """Look a method up.

    Raises:
        UsageError: There is none of that name, or none in the family.
    """
    if family is None or (name in METHODS and METHODS.get(name).family == family):
        return METHODS.get(name)
    raise unknown_name("method", name, method_names(family))


def stages_of(config: NaivetuneConfig | MetatuneConfig) -> Iterator[Stage]:
    """The stages that ``--effort`` goes through, without settings that are given.

    Raises:
        UsageError: There is no such method in the verb's family.
    """
    for stage in find_method(config.method, _family(config)).build.stages:
        open_ = [{name: value for name, value in row.items() if getattr(config, name) is None} for row in stage.values]
        values = tuple(row for place, row in enumerate(open_) if row and row not in open_[:place])
        if EFFORT_LEVELS.index(stage.effort) <= EFFORT_LEVELS.index(_effort(config)) and values:
            yield replace(stage, values=values)


def chosen_settings(config: NaivetuneConfig | MetatuneConfig) -> frozenset[str]:
    """The settings that ``--effort`` chooses: those of the stages and the way back, unless they are given.

    Raises:
        UsageError: There is no such method in the verb's family.
    """
    if _effort(config) == "none":
        return frozenset()
    way_back = {WAY_BACK} if getattr(config, WAY_BACK) is None else set()
    return frozenset(way_back | {name for stage in stages_of(config) for name in stage.values[0]})


def resolve_defaults(config: C) -> C:
    """The settings with the method's defaults where nothing was given; those that are given stand.

    What ``--effort`` chooses stays None, and the effort is ``none`` where it has nothing to choose, as in runs of
    releases that chose nothing.

    Raises:
        UsageError: There is no such method in the verb's family.
    """
    defaults = find_method(config.method, _family(config)).build.defaults
    left = chosen_settings(config)
    missing = (name for name in defaults if getattr(config, name) is None and name not in left)
    effort = _effort(config) if left else "none"
    return replace(config, effort=effort, **{name: defaults[name] for name in missing})


def _effort(config: NaivetuneConfig | MetatuneConfig) -> Effort:
    # Only tune's is None where it is not given: what a run of an earlier release had can then be told from it.
    return config.effort or "normal"


def _family(config: NaivetuneConfig | MetatuneConfig) -> Family:
    return "plain" if isinstance(config, NaivetuneConfig) else "meta"
