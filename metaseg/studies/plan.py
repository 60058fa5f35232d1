"""The plan of a comparison: its entries, its targets, and every unit of work with the settings it runs with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from metaseg.adapt.metatune import parse_threshold
from metaseg.adapt.methods import find_method
from metaseg.adapt.session import resolve_defaults
from metaseg.config.io import load_config
from metaseg.config.segmentation import MetatuneConfig, NaivetuneConfig, PretrainConfig
from metaseg.config.studies import CompareConfig
from metaseg.errors import UsageError
from metaseg.studies.entries import (
    NAMES,
    OF_RUNS,
    OF_TARGETS,
    ORACLE,
    STUDYS_OWN,
    Entry,
    check_keys,
    check_shared_searches,
    plain,
    read_entry,
)
from metaseg.studies.phantoms import phantom_pretraining, phantom_target

CELLS, SEARCHES, PRETRAIN = "cells", "searches", "pretrain"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""Names that are safe as folders everywhere."""


@dataclass(frozen=True)
class Unit:
    """One piece of work, done by one process: a cell, the search of an entry, or a target's oracle run."""

    kind: Literal["oracle", "search", "cell"]
    target: str
    label: str = ORACLE
    shots: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """As in messages: ``met/naive/shots-5/seed-0``."""
        last = {"oracle": (), "search": ("search",), "cell": (f"shots-{self.shots}", f"seed-{self.seed}")}[self.kind]
        return "/".join((self.target, self.label, *last))

    @property
    def folder(self) -> Path:
        """Its folder within the study."""
        if self.kind == "search":
            return Path(SEARCHES, self.target, self.label)
        return Path(CELLS, *self.name.split("/"))


@dataclass(frozen=True)
class Plan:
    """A whole comparison.

    Attributes:
        study: Its settings.
        folder: Its folder.
        pretrain: Settings of the pretraining inside the study; None if the network comes from elsewhere.
        targets: Settings of each target's data.
        entries: The entries by label.
        units: All work, in an order in which each stands behind what it needs.
        patients: Usable patients in each target's training part, where known; what an oracle run tunes on.
    """

    study: CompareConfig
    folder: Path
    pretrain: PretrainConfig | None
    targets: Mapping[str, Mapping[str, Any]]
    entries: Mapping[str, Entry]
    units: tuple[Unit, ...]
    patients: Mapping[str, int] = field(default_factory=dict)

    @property
    def network(self) -> Path:
        """The run or checkpoint that everything starts from."""
        return self.folder / PRETRAIN if self.pretrain else Path(str(self.study.from_run)).expanduser()

    @property
    def search_shots(self) -> int:
        """Patients that a trial tunes on."""
        return self.study.search_shots or self.study.shots[0]

    @property
    def cells(self) -> Iterator[Unit]:
        """The units whose metrics are compared."""
        return (unit for unit in self.units if unit.kind == "cell")

    def is_searched(self, label: str) -> bool:
        """Whether hyper-parameters of an entry are searched, by itself or with another entry."""
        return self.study.trials > 0 and bool(self.entries[self.entries[label].searched_as].space)

    def needs(self, unit: Unit) -> tuple[Unit, ...]:
        """The units that must be done before this one."""
        if unit.kind == "oracle":
            return ()
        needed = [Unit("oracle", unit.target)] if self.entries[unit.label].needs_oracle else []
        if unit.kind == "cell" and self.is_searched(unit.label):
            needed.append(Unit("search", unit.target, self.entries[unit.label].searched_as))
        return tuple(needed)

    def config(self, unit: Unit, values: Mapping[str, Any] | None = None) -> NaivetuneConfig | MetatuneConfig:
        """The settings of a unit's run; those of a trial where the unit is a search.

        Args:
            unit: The unit.
            values: Values of the searched settings; those that the entry begins with if None.

        Raises:
            UsageError: They make no valid settings.
        """
        study = self.study
        settings: dict[str, Any] = {
            "pictures": False,
            **self.settings(unit),
            **(values or {}),
            "from_run": str(self.network),
            "device": study.device,
            "precision": study.precision,
            "cache": study.cache,
            "jobs": 1,
            "budget": study.budget,
            "watch_cases": 0,
            "out": self.folder / unit.folder,
        }
        if unit.kind == "cell":
            settings |= {"shots": unit.shots, "seed": unit.seed, "marks": study.marks, "test_part": study.test_part}
        else:
            # A trial never opens the test part, nor does the oracle's run, which is a tool and no result.
            settings |= {"seed": study.search_seed, "marks": 1, "test_part": study.search_part}
            settings["shots"] = self.search_shots if unit.kind == "search" else self.patients.get(unit.target, 1)
        with _naming(unit):
            if unit.kind == "oracle" or self.entries[unit.label].family == "plain":
                return resolve_defaults(load_config(NaivetuneConfig, None, settings))
            return resolve_defaults(load_config(MetatuneConfig, None, settings))

    def settings(self, unit: Unit) -> dict[str, Any]:
        """What the settings file says on a unit: shared, its target's and its entry's."""
        entry = None if unit.kind == "oracle" else self.entries[unit.label]
        names = NAMES[entry.config if entry else NaivetuneConfig]
        settings = {key: value for key, value in plain(self.study.shared).items() if key in names}
        settings |= self.targets[unit.target]
        if entry is None:
            return settings | {"method": "naive"}
        oracle = {"oracle": str(self.folder / Unit("oracle", unit.target).folder)} if entry.needs_oracle else {}
        return {**settings, **entry.settings, "method": entry.method, **oracle}


def make_plan(study: CompareConfig) -> Plan:
    """Read a comparison's settings, and check whatever can be checked without reading data.

    Raises:
        UsageError: They name an unknown method, order or setting, or contradict each other.
    """
    folder = study.out or Path("studies/compare")
    _check_study(study)
    pretrain = None
    if study.pretrain is not None:
        known = frozenset(item.name for item in fields(PretrainConfig)) - OF_RUNS
        check_keys(study.pretrain, known | {"phantoms", "seed", "jobs"}, "pretrain")
        settings = phantom_pretraining(plain(study.pretrain), folder)
        own = {"out": folder / PRETRAIN, "device": study.device, "precision": study.precision, "cache": study.cache}
        pretrain = load_config(PretrainConfig, None, {**settings, **own})
    entries = {label: read_entry(label, settings, study) for label, settings in study.methods.items()}
    check_shared_searches(entries)
    targets = {name: _target(name, settings, study, folder) for name, settings in study.targets.items()}
    plan = Plan(study, folder, pretrain, targets, entries, tuple(_units(study, targets, entries)))
    _check_settings(plan)
    return plan


def _units(study: CompareConfig, targets: Iterable[str], entries: Mapping[str, Entry]) -> Iterator[Unit]:
    # Searches first, then seed by seed over everything: a study that is cut short is a whole one with fewer seeds.
    for target in targets:
        if any(entry.needs_oracle for entry in entries.values()):
            yield Unit("oracle", target)
        for label, entry in entries.items():
            if study.trials and entry.space:
                yield Unit("search", target, label)
    for seed in study.seeds:
        for shots in study.shots:
            for target in targets:
                for label in entries:
                    yield Unit("cell", target, label, shots, seed)


def _check_study(study: CompareConfig) -> None:
    if (study.from_run is None) == (study.pretrain is None):
        raise UsageError(
            "the study names no source network" if study.pretrain is None else "'from' and 'pretrain' are both given",
            expected="'from' with a pretrained run, or 'pretrain' with the settings of one",
        )
    for what, names in (("targets", study.targets), ("methods", study.methods)):
        if not names:
            raise UsageError(f"the study has no {what}", expected=f"a mapping '{what}' with one at least")
        lower: set[str] = set()
        for name in names:
            if not NAME.fullmatch(name) or name.endswith("."):
                raise UsageError(
                    f"'{name}' under '{what}' cannot name a folder",
                    expected="letters, digits, '-', '+', '_' and '.', a letter or digit first",
                )
            if name.lower() in lower:
                raise UsageError(f"'{name}' stands twice under '{what}', but for its case", remedy="rename one")
            lower.add(name.lower())
    if ORACLE in {name.lower() for name in study.methods}:
        raise UsageError(f"no entry may be named '{ORACLE}'", remedy="name it maml-oracle, with order: oracle")
    for what, numbers in (("shots", study.shots), ("seeds", study.seeds)):
        if len(set(numbers)) < len(numbers) or min(numbers) < (what == "shots"):
            least = 1 if what == "shots" else 0
            raise UsageError(f"'{what}' is {list(numbers)}", expected=f"numbers of at least {least} that differ")
    if study.trials and study.search_seed in study.seeds:
        raise UsageError(f"'search_seed' is {study.search_seed}, one of the seeds", expected="a seed of its own")
    if study.trials and study.search_part == study.test_part:
        raise UsageError(
            f"'search_part' and 'test_part' are both '{study.test_part}'",
            expected="a part for the search that holds none of the test patients",
        )
    everything = frozenset().union(*NAMES.values())
    check_keys(study.shared, everything - STUDYS_OWN - {"method", "oracle"}, "shared")


def _target(name: str, given: Any, study: CompareConfig, folder: Path) -> dict[str, Any]:
    given = {} if given is None else given
    where = f"targets: {name}"
    if not isinstance(given, Mapping):
        raise UsageError(f"'{where}' is '{given}'", expected="a mapping of data settings, or {phantoms: met}")
    settings = plain(given)
    check_keys(settings, OF_TARGETS | {"phantoms", "phantom_cases"}, where)
    shared = plain(study.shared)
    if "phantoms" in settings or not (settings.get("data") or shared.get("data")):
        pretraining = plain(study.pretrain or {})
        settings = phantom_target(settings, shared, pretraining, folder, where)
    elif settings.get("split", shared.get("split")) is None:
        raise UsageError(
            f"{where} has no split",
            expected="'split' with a file of 'metaseg data split', of the target's and the source's patients",
            remedy="without test patients that no cell tunes on, methods cannot be compared",
        )
    return settings


def _check_settings(plan: Plan) -> None:
    """Build the settings of every unit, and of the ends of every space: a wrong value shows now, not after hours."""
    for unit in plan.units:
        config = plan.config(unit)
        if isinstance(config, MetatuneConfig):
            with _naming(unit):
                parse_threshold(config.threshold)
                find_method(config.method).build.check(config)
        if unit.kind == "search":
            for parameter in plan.entries[unit.label].space.values():
                for value in parameter.ends():
                    plan.config(unit, {parameter.name: value})


@contextmanager
def _naming(unit: Unit) -> Iterator[None]:
    """Tell in an error about settings whose they are."""
    try:
        yield
    except UsageError as error:
        raise UsageError(
            f"{unit.target}/{unit.label}: {error.found}", expected=error.expected, remedy=error.remedy
        ) from error


def with_patients(plan: Plan, patients: Mapping[str, int]) -> Plan:
    """The plan with the numbers of usable patients."""
    return replace(plan, patients=dict(patients))
