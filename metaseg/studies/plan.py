"""The plan of a comparison of adaptation methods: every unit of work with the settings that it runs with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from metaseg.adapt.metatune import check_meta_batch, parse_threshold
from metaseg.adapt.methods import find_method
from metaseg.adapt.methods.registry import resolve_defaults
from metaseg.adapt.setup import AdaptationResult
from metaseg.config.io import load_config, present_names, shaping_values
from metaseg.config.segmentation import MetatuneConfig, NaivetuneConfig, PretrainConfig
from metaseg.config.studies import CompareConfig
from metaseg.errors import UsageError
from metaseg.files import FileKind, read_json
from metaseg.runs.session import content_digest
from metaseg.studies.cells import last_step, pace_of, run_unit, state_of
from metaseg.studies.entries import (
    NAMES,
    OF_RUNS,
    OF_TARGETS,
    STUDYS_OWN,
    Entry,
    check_keys,
    check_numbers,
    check_shared_searches,
    plain,
    read_entry,
)
from metaseg.studies.phantoms import OF_PHANTOMS, phantom_pretraining, phantom_target
from metaseg.studies.search import RUNS, WORST, Notes, Search
from metaseg.studies.workers import ORACLE, PRETRAIN, Unit, Work

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""Names that are safe as folders everywhere."""


@dataclass(frozen=True)
class AdaptationSearch(Search):
    """The search of one entry at one target.

    Attributes:
        objective: ``balanced``, the mean of target and source Dice, or ``target``.
        region: Region whose Dice is taken.
        part: Part of the split that trials are judged on.
        network: What tells source networks of studies that share a database apart.
    """

    objective: str
    region: str | None
    part: str
    network: tuple[Any, ...]

    @property
    def metric(self) -> str:
        """The objective and its region."""
        return f"{self.objective}/{self.region}"

    def shaping(self) -> Sequence[Any]:
        """Objective, region and network."""
        return self.objective, self.region, *self.network

    def judge(self, run: Path) -> tuple[float | None, Notes]:
        """Mean Dice on validation patients after tuning; a domain that is not known counts as 0."""
        after = read_json(run / "result.json", FileKind("the result of a trial"), AdaptationResult).after
        dice = {domain: after.get(f"dice/{domain}/{self.region}") for domain in ("target", "source")}
        wanted = [dice["target"], dice["source"]] if self.objective == "balanced" else [dice["target"]]
        known = [WORST if value is None else float(value) for value in wanted]
        return sum(known) / len(known), dice

    def table(self) -> pd.DataFrame:
        """Every trial with its values, what it is worth, Dice on both domains, its time and whether it diverged."""
        rows = []
        for trial in self.finished():
            notes = trial.user_attrs
            dice = {"target": notes.get("target"), "source": notes.get("source")}
            rest = {"seconds": notes.get("seconds") or None, "diverged": int("diverged" in notes)}
            rows.append({"trial": trial.number, **trial.params, "value": trial.value, **dice, **rest})
        columns = ["trial", *self.space, "value", "target", "source", "seconds", "diverged"]
        return pd.DataFrame(rows, columns=columns, dtype=object)

    def run(self) -> None:
        """Do what is missing of the search, and write ``trials.csv`` and ``best.json``."""
        if self.found() is not None:
            return
        self.run_alone()
        self.write_best(objective=self.objective, part=self.part)


@dataclass(frozen=True)
class Plan(Work):
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
    units: tuple[Unit, ...] = ()
    patients: Mapping[str, int] = field(default_factory=dict)

    @property
    def network(self) -> Path:
        """The run or checkpoint that everything starts from."""
        return self.folder / PRETRAIN if self.pretrain else Path(str(self.study.from_run)).expanduser()

    @property
    def search_shots(self) -> int | Literal["all"]:
        """Patients that a trial tunes on."""
        return self.study.search_shots or self.study.shots[0]

    @property
    def cells(self) -> Iterator[Unit]:
        """The units whose metrics are compared."""
        return (unit for unit in self.units if unit.kind == "cell")

    @property
    def draws_from_source(self) -> bool:
        """Whether an entry draws from the source's training cases."""
        return any(entry.needs_source_cases for entry in self.entries.values())

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

    def is_done(self, unit: Unit) -> bool:
        """Whether a unit is finished with the settings that it should have."""
        if unit.kind == "search":
            return self.search(unit).found() is not None
        return self.state(unit) == "done"

    def state(self, unit: Unit) -> str:
        """How a unit's run stands, as :func:`~metaseg.studies.cells.state_of`, or ``waiting`` for its search."""
        values = self.values(unit)
        if values is None:
            return "waiting"
        return state_of(self.folder / unit.folder, self.config(unit, values), self.folder)

    def do(self, unit: Unit) -> None:
        """Do what is missing of a unit."""
        if unit.kind == "search":
            self.search(unit).run()
        else:
            run_unit(self.folder / unit.folder, self.config(unit, self.values(unit)), self.folder)

    def amount(self, unit: Unit) -> float:
        """Slice gradient evaluations of a unit."""
        return self.study.budget * (max(1, self.study.trials) if unit.kind == "search" else 1)

    def spent(self, unit: Unit) -> float:
        """Slice gradient evaluations that a unit at work has done, from its logs; 0 if it has none yet."""
        folder = self.folder / unit.folder
        runs = sorted((folder / RUNS).glob("*")) if unit.kind == "search" else [folder]
        return max(0, len(runs) - 1) * self.study.budget + sum(last_step(run / "metrics.csv") for run in runs[-1:])

    def pace(self, unit: Unit) -> float | None:
        """Seconds of a finished adaptation for each slice gradient evaluation."""
        return None if unit.kind == "search" else pace_of(self.folder / unit.folder)

    def values(self, unit: Unit) -> dict[str, Any] | None:
        """The searched values that a unit runs with: none where nothing is searched; None before its search is done."""
        if unit.kind != "cell" or not self.is_searched(unit.label):
            return {}
        return self.search(Unit("search", unit.target, self.entries[unit.label].searched_as)).found()

    def search(self, unit: Unit) -> AdaptationSearch:
        """The search that a unit is."""
        network: tuple[Any, ...] = ()
        if self.study.storage is not None:
            # Studies that share a database may have networks of their own under the same name.
            network = (shaping_values(self.pretrain) if self.pretrain else content_digest(self.network),)
        name = f"{unit.target}/{unit.label}"
        number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big")
        return AdaptationSearch(
            root=self.folder,
            folder=self.folder / unit.folder,
            name=name,
            config=self.config(unit),
            space=self.entries[unit.label].space,
            seed=(self.study.search_seed, number),
            trials=self.study.trials,
            storage=self.study.storage,
            pruning=False,
            objective=self.study.objective,
            region=self.study.region,
            part=self.study.search_part,
            network=network,
        )

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
            settings |= {"shots": unit.shots, "seed": unit.seed, "test_part": study.test_part}
            settings |= {"marks": study.marks, "first_marks": study.first_marks}
        else:
            # A trial never opens the test part, nor does the oracle's run, which is a tool and no result.
            settings |= {"seed": study.search_seed, "marks": 1, "gate": False, "test_part": study.search_part}
            settings["shots"] = self.search_shots if unit.kind == "search" else self.patients.get(unit.target, 1)
        with _naming(unit):
            if unit.kind == "oracle" or self.entries[unit.label].family == "plain":
                return resolve_defaults(load_config(NaivetuneConfig, None, settings, used=OF_PHANTOMS))
            return resolve_defaults(load_config(MetatuneConfig, None, settings, used=OF_PHANTOMS))

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
    study = _by_present_names(study)
    _check_study(study)
    pretrain = None
    if study.pretrain is not None:
        known = frozenset(item.name for item in fields(PretrainConfig)) - OF_RUNS
        check_keys(study.pretrain, known | {"phantoms", "seed", "jobs"}, "pretrain")
        settings = phantom_pretraining(plain(study.pretrain), folder)
        own = {"out": folder / PRETRAIN, "device": study.device, "precision": study.precision, "cache": study.cache}
        pretrain = load_config(PretrainConfig, None, {**settings, **own}, used=OF_PHANTOMS)
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
    _check_names("targets", study.targets)
    _check_names("methods", study.methods)
    if ORACLE in {name.lower() for name in study.methods}:
        raise UsageError(f"no entry may be named '{ORACLE}'", remedy="name it maml-oracle, with order: oracle")
    check_numbers("shots", study.shots, least=1)
    check_numbers("seeds", study.seeds)
    if study.trials and study.search_seed in study.seeds:
        raise UsageError(f"'search_seed' is {study.search_seed}, one of the seeds", expected="a seed of its own")
    if study.trials and study.search_part == study.test_part:
        raise UsageError(
            f"'search_part' and 'test_part' are both '{study.test_part}'",
            expected="a part for the search that holds none of the test patients",
        )
    everything = frozenset().union(*NAMES.values())
    check_keys(study.shared, everything - STUDYS_OWN - {"method", "oracle"}, "shared")


def _check_names(what: str, names: Iterable[str]) -> None:
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
    if not lower:
        raise UsageError(f"the study has no {what}", expected=f"a mapping '{what}' with one at least")


def _by_present_names(study: CompareConfig) -> CompareConfig:
    shared = present_names(MetatuneConfig, present_names(NaivetuneConfig, study.shared))
    pretrain = None if study.pretrain is None else present_names(PretrainConfig, study.pretrain)
    return replace(study, shared=shared, pretrain=pretrain)


def _target(name: str, given: Any, study: CompareConfig, folder: Path) -> dict[str, Any]:
    given = {} if given is None else given
    where = f"targets: {name}"
    if not isinstance(given, Mapping):
        raise UsageError(f"'{where}' is '{given}'", expected="a mapping of data settings, or {phantoms: met}")
    settings = plain(given)
    check_keys(settings, OF_TARGETS | OF_PHANTOMS | {"phantoms"}, where)
    shared = plain(study.shared)
    if "phantoms" in settings or not (settings.get("data") or shared.get("data")):
        pretraining = plain(study.pretrain or {})
        settings = phantom_target(settings, shared, pretraining, folder, where)
    elif settings.get("split", shared.get("split")) is None:
        raise UsageError(
            f"{where} has no split",
            expected="'split' with a file of 'metaseg data split', and 'source_split' where it is not the source's too",
            remedy="without test patients that no cell tunes on, methods cannot be compared",
        )
    return settings


def _check_settings(plan: Plan) -> None:
    """Build the settings of every unit, and of the ends of every space: a wrong value shows now, not after hours."""
    for unit in plan.units:
        config = plan.config(unit)
        if config.test_part == config.train_part:
            raise UsageError(
                f"{unit.target}/{unit.label}: part '{config.train_part}' is to be tuned on and judged by",
                expected="two parts",
                remedy="name others with 'train_part' of the target, 'test_part' and 'search_part'",
            )
        if isinstance(config, MetatuneConfig):
            with _naming(unit):
                parse_threshold(config.threshold)
                check_meta_batch(config)
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
