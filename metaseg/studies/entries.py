"""The entries of a comparison: methods with their settings, and which setting may stand where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from metaseg.adapt.methods import find_method
from metaseg.config.io import present_names
from metaseg.config.options import DataOptions, RunOptions
from metaseg.config.segmentation import MetatuneConfig, NaivetuneConfig
from metaseg.config.studies import CompareConfig
from metaseg.errors import UsageError
from metaseg.sampling import ORDERS
from metaseg.studies.search import Parameter, Space, default_space, parse_space
from metaseg.studies.workers import ORACLE
from metaseg.verbs import verb_of_family

Kind = type[NaivetuneConfig] | type[MetatuneConfig]
CONFIGS: Mapping[str, Any] = {family: verb_of_family(family).config for family in ("plain", "meta")}
"""Settings of the verb that runs a family's methods."""
NAMES: Mapping[Kind, frozenset[str]] = {
    kind: frozenset(item.name for item in fields(kind)) for kind in CONFIGS.values()
}
OF_RUNS = frozenset(item.name for item in fields(RunOptions))
STUDYS_OWN = OF_RUNS | {"from_run", "shots", "folds", "budget", "marks", "first_marks", "watch_cases", "test_part"}
"""Settings of a run that the study itself decides."""
OF_TARGETS = frozenset(item.name for item in fields(DataOptions)) | {
    "source",
    "source_classes",
    "source_split",
    "train_part",
}
OF_METHODS = {
    kind: names - STUDYS_OWN - OF_TARGETS - {"method", "oracle", "phantom_cases"} for kind, names in NAMES.items()
}


@dataclass(frozen=True)
class Entry:
    """One line of the comparison: a method with its settings.

    Attributes:
        label: Its name in the study, also of its folders.
        title: Its name in tables and metrics.
        method: The method.
        family: ``plain`` or ``meta``.
        settings: What the entry sets.
        space: What is searched for it.
        searched_as: The entry whose search gives its values: itself, or one that it shares them with.
    """

    label: str
    title: str
    method: str
    family: str
    settings: Mapping[str, Any]
    space: Space
    searched_as: str

    @property
    def config(self) -> Kind:
        """The settings of the verb that runs it."""
        return CONFIGS[self.family]

    @property
    def needs_oracle(self) -> bool:
        """Whether its order asks a run that knows the target."""
        return self.settings.get("order") == ORACLE

    @property
    def needs_source_cases(self) -> bool:
        """Whether it draws from the source's training cases."""
        return find_method(self.method).needs_source == "always" or self.settings.get("replay", "none") != "none"


def check_numbers(what: str, given: Sequence[int | str], least: int = 0) -> None:
    """Raise UsageError where seeds, or numbers of shots, are too small or stand twice; words are left to their type."""
    numbers = [number for number in given if not isinstance(number, str)]
    if len(set(given)) < len(given) or min(numbers, default=least) < least:
        raise UsageError(f"'{what}' is {list(given)}", expected=f"numbers of at least {least} that differ")


def read_entry(label: str, given: Any, study: CompareConfig) -> Entry:
    """Read an entry as a settings file holds it.

    Args:
        label: Its name.
        given: Its settings, with ``method``, ``title`` and ``search`` (a space, or another entry's label) among them
            or not.
        study: The whole settings.

    Raises:
        UsageError: The method, the order or a setting is unknown, or the space makes no sense.
    """
    given = {} if given is None else given
    where = f"methods: {label}"
    if not isinstance(given, Mapping):
        raise UsageError(f"'{where}' is '{given}'", expected="a mapping of settings, such as {method: maml}")
    settings = plain(given)
    space, title = settings.pop("search", None), settings.pop("title", None)
    method = settings.pop("method", label)
    try:
        info = find_method(str(method))
    except UsageError as error:
        error.found = f"{where}: {error.found}"
        error.remedy = error.remedy if "method" in given else f"{error.remedy} Another label needs 'method: NAME'"
        raise
    config = CONFIGS[info.family]
    settings = present_names(config, settings)
    check_keys(settings, OF_METHODS[config], where, other=frozenset().union(*OF_METHODS.values()))
    if info.family == "meta":
        shared = plain(study.shared)
        settings = {key: shared[key] for key in ("order", "replay") if key in shared} | settings
        if "order" in settings:
            settings["order"] = ORDERS.get(str(settings["order"])).name
    searched_as, parsed = label, dict[str, Parameter]()
    if isinstance(space, str):
        searched_as = space
    else:
        # What an entry sets itself stays so, unless its own space names it.
        defaults = {key: value for key, value in default_space(method, info.family).items() if key not in settings}
        parsed = parse_space(defaults if space is None else space, config, OF_METHODS[config], where)
    return Entry(label, str(title or label), method, info.family, settings, parsed, searched_as)


def check_shared_searches(entries: Mapping[str, Entry]) -> None:
    """Check that entries which take the values of another's search can.

    Raises:
        UsageError: There is no such entry, it is not searched, or of the other family.
    """
    for label, entry in entries.items():
        if entry.searched_as == label:
            continue
        other = entries.get(entry.searched_as)
        if other is None or not other.space or other.family != entry.family:
            fitting = [label for label, named in entries.items() if named.space and named.family == entry.family]
            raise UsageError(
                f"methods: {label}: 'search' is '{entry.searched_as}'",
                expected="a space, or a searched entry of the same family: " + (", ".join(fitting) or "there is none"),
            )


def check_keys(
    settings: Mapping[str, Any], allowed: frozenset[str], where: str, other: frozenset[str] | None = None
) -> None:
    """Check that settings belong where they stand.

    Args:
        settings: The settings.
        allowed: Those that may stand there.
        where: The place, for messages.
        other: Those that may stand in an entry of some family.

    Raises:
        UsageError: One does not.
    """
    for key in settings:
        name = str(key).replace("-", "_")
        if name in allowed:
            continue
        if name in STUDYS_OWN or name == "from":
            raise UsageError(
                f"{where}: '{key}' is the study's to set", remedy="set it for the whole study, beside 'methods'"
            )
        if other is not None and name in other:
            raise UsageError(
                f"{where}: '{key}' is a setting of the other family of methods",
                expected="one of " + ", ".join(sorted(allowed)),
            )
        if other is not None and name in OF_TARGETS:
            raise UsageError(f"{where}: '{key}' is alike for all methods", remedy="set it under 'shared' or 'targets'")
        raise UsageError(f"{where}: unknown setting '{key}'", expected="one of " + ", ".join(sorted(allowed)))


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with ``_`` in their names."""
    return {str(key).replace("-", "_"): value for key, value in settings.items()}
