"""A search of hyper-parameters on validation patients, with Optuna: its space, its database, its trials, the best.

The first trial has the settings as given, the next few are spread over the space, and later ones go by what was seen.
A trial lives in the database and in its run folder. Whoever works on one holds its lock, so that a trial that still
runs by the database, but whose lock is free, was begun by a process that died: the next process continues it. The
sampler is seeded anew for every trial from its place in the sequence, so that a search that one process does alone
tries the same values however often it is interrupted.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from metaseg.config.io import Config, describe_fields, present_names, shaping_values
from metaseg.errors import RunError, TrainingError, UsageError
from metaseg.files import FileKind, read_json, write_json, write_text
from metaseg.runs.folder import RunLock
from metaseg.runs.state import STATE_NAME, RunState
from metaseg.studies.cells import BusyError, RunConfig, drop_weights, relocatable, run_unit, seconds_of
from metaseg.training.fitted_run import GivenUpError, Watcher, watched_by

C = TypeVar("C", bound=Config)
Value = float | int | str | bool
KEYS = ("low", "high", "log")


@dataclass(frozen=True)
class Parameter:
    """One searched setting: a range, or a list of values.

    Attributes:
        name: The setting.
        low: Lower end of a range.
        high: Upper end of a range, taken as well.
        log: Whether the range is searched evenly in its logarithm.
        whole: Whether the values are whole numbers.
        choices: The values of a list; empty for a range.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Value, ...] = ()

    def nearest(self, value: Any) -> Value:
        """The value of the space that lies nearest to one, such as a default outside of it; its middle for None."""
        if value is None and not self.choices:
            value = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        if self.choices:
            numbers = isinstance(value, int | float) and all(isinstance(choice, int | float) for choice in self.choices)
            if value in self.choices or not numbers:
                return value if value in self.choices else self.choices[0]
            return min(self.choices, key=lambda choice: abs(float(choice) - value))
        nearest = min(max(value, self.low), self.high)
        return round(nearest) if self.whole else float(nearest)

    def at(self, fraction: float) -> Value:
        """The value that lies a fraction in [0, 1) of the way through the space."""
        if self.choices:
            return self.choices[int(fraction * len(self.choices))]
        width = self.high - self.low
        value = self.low * (self.high / self.low) ** fraction if self.log else self.low + width * fraction
        return round(value) if self.whole else float(value)

    def ends(self) -> tuple[Value, ...]:
        """The values that all others lie between, or all of a list."""
        if self.choices:
            return self.choices
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def distribution(self) -> Any:
        """The same for Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def text(self) -> str:
        """In words: ``learning_rate from 0.0001 to 0.003``."""
        if self.choices:
            return f"{self.name} of " + ", ".join(map(str, self.choices))
        return f"{self.name} from {self.low:g} to {self.high:g}"

    def plain(self) -> Any:
        """As a settings file holds it."""
        return list(self.choices) if self.choices else {"low": self.low, "high": self.high, "log": self.log}


Space = Mapping[str, Parameter]
"""Searched settings by name; empty where nothing is searched."""


def _range(low: float, high: float) -> dict[str, Any]:
    return {"low": low, "high": high, "log": True}


_RATE = {"learning_rate": _range(1e-4, 3e-3)}
_HIGH_RATE = {"learning_rate": _range(1e-4, 1e-2)}
_RATES = {"outer_learning_rate": _range(1e-4, 3e-3), "inner_learning_rate": _range(1e-3, 1e-1)}

DEFAULT_SPACES: Mapping[str, Mapping[str, Any]] = {
    "head-only": _HIGH_RATE,
    "l2-sp": {**_RATE, "l2_sp_alpha": _range(1e-4, 1.0)},
    "ewc": {**_RATE, "ewc_lambda": _range(10.0, 1e5)},
    "lwf": {**_RATE, "lwf_lambda": _range(0.1, 10.0)},
    "replay": {**_RATE, "replay_fraction": {"low": 0.125, "high": 0.5}},
    "rehearse": {**_RATE, "replay_fraction": {"low": 0.125, "high": 0.5}},
    "wise-ft": {**_RATE, "interpolation": {"low": 0.25, "high": 0.75}},
    "lora": {**_HIGH_RATE, "lora_rank": [2, 4, 8]},
}
"""What is searched of a method unless its entry says otherwise, as in a settings file; few settings, since trials are
few. Of other plain methods the learning rate is searched, of meta methods the rates of both loops."""


def default_space(method: str, family: str) -> Mapping[str, Any]:
    """The space of a method, as in a settings file."""
    return DEFAULT_SPACES.get(method, _RATES if family == "meta" else _RATE)


def parse_space(
    space: Any,
    config: type[Config],
    searchable: frozenset[str],
    where: str,
    within: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Parameter]:
    """Read a space as a settings file holds it.

    Args:
        space: Setting to range ``{low: 1e-4, high: 3e-3, log: true}`` or to a list of values.
        config: The settings of the method's verb.
        searchable: Settings that may be searched.
        where: Whose space it is, for messages.
        within: What may be searched within a setting that is a mapping, as ``model_options.dropout``, and its type.

    Raises:
        UsageError: A setting is unknown or not to be searched, or a range or list makes no sense.
    """
    if not isinstance(space, Mapping):
        raise UsageError(f"the space of {where} is '{space}'", expected="a mapping such as {lora_rank: [2, 4, 8]}")
    annotations = {field.name: field.annotation for field in describe_fields(config) if field.name in searchable}
    annotations |= within
    parsed = {}
    for key, value in present_names(config, space).items():
        name = str(key).replace("-", "_")
        if name not in annotations:
            raise UsageError(
                f"{where}: '{key}' is no setting to search", expected="one of " + ", ".join(sorted(annotations))
            )
        parsed[name] = _parameter(name, value, annotations[name], where)
    return parsed


def _parameter(name: str, value: Any, annotation: Any, where: str) -> Parameter:
    if isinstance(value, list | tuple):
        if not value or len(set(map(str, value))) < len(value):
            raise UsageError(f"{where}: the values of '{name}' are {list(value)}", expected="values that differ")
        return Parameter(name, choices=tuple(value))
    if not isinstance(value, Mapping) or not {"low", "high"} <= set(value) <= set(KEYS):
        raise UsageError(
            f"{where}: the space of '{name}' is {value}",
            expected="{low: 1e-4, high: 1e-2, log: true}, or a list of values",
        )
    if annotation not in (int, float):
        raise UsageError(f"{where}: '{name}' is no number", expected="a list of its values instead of low and high")
    low, high = (_number(value[end], f"{where}: '{end}' of '{name}'") for end in ("low", "high"))
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise UsageError(f"{where}: 'log' of '{name}' is '{log}'", expected="true or false")
    if low >= high:
        raise UsageError(f"{where}: the space of '{name}' runs from {low:g} to {high:g}", expected="low below high")
    if log and low <= 0:
        raise UsageError(f"{where}: 'low' of '{name}' is {low:g}", expected="a number above 0, since log is true")
    whole = annotation is int
    if whole and (low != int(low) or high != int(high)):
        raise UsageError(f"{where}: the space of '{name}' runs from {low:g} to {high:g}", expected="whole numbers")
    return Parameter(name, low, high, log, whole)


def _number(value: Any, what: str) -> float:
    # YAML reads 1e-4 as a text, since it has no point.
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{what} is '{value}'", expected="a number")
    return number


def value_of(config: Config, name: str) -> Any:
    """The value of a setting, or of one within a mapping: ``model_options.dropout``; None where it is not given."""
    setting, _, inner = name.partition(".")
    value = getattr(config, setting)
    return value.get(inner) if inner else value


def short(value: object) -> str:
    """A value of a setting, numbers with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def with_values(config: C, values: Mapping[str, Any]) -> C:
    """Settings with other values, those within a mapping by names such as ``model_options.dropout``."""
    changed: dict[str, Any] = {}
    for name, value in values.items():
        setting, _, inner = name.partition(".")
        changed[setting] = changed.get(setting, getattr(config, setting)) | {inner: value} if inner else value
    return replace(config, **changed)


DATABASE, TABLE, BEST = "optuna.db", "trials.csv", "best.json"
RUNS, CLAIMS = "trials", "claims"
WORST = 0.0
"""What a trial is worth whose loss became non-finite, or that is no good at all; no metric knows anything worse."""
SPREAD_TRIALS = 8
"""Trials, the first included, that are spread over the space before a sampler goes by what it has seen."""
HALTON_SETTINGS = 4
"""Settings up to which the first points of Halton's sequence spread."""
UNPRUNED_TRIALS, UNPRUNED_EPOCHS = 4, 1
"""Trials that are never ended early, and epochs of each later trial that are waited for."""
PATIENCE = 120.0
"""Seconds to wait for another process that is just taking up a trial."""

Notes = Mapping[str, Any]
"""What is noted of a trial beside its value."""


@dataclass(frozen=True)
class Search(ABC):
    """A search; the task says what a trial is worth.

    Attributes:
        root: The study's folder.
        folder: The search's own, the study's or one within.
        name: Its name among the searches of a database.
        config: Settings of the first trial.
        space: What is searched.
        seed: Seed of the search.
        trials: Trials wanted.
        storage: Database as SQLAlchemy URL; None for an SQLite file in the study.
        pruning: Whether trials below the median of earlier ones are ended early.
    """

    root: Path
    folder: Path
    name: str
    config: RunConfig
    space: Space
    seed: tuple[int, ...]
    trials: int
    storage: str | None
    pruning: bool

    @property
    @abstractmethod
    def metric(self) -> str:
        """The metric of the validation part that trials are judged by."""

    @abstractmethod
    def judge(self, run: Path) -> tuple[float | None, Notes]:
        """What a finished trial is worth, None where that is not known, and what else is noted of it.

        Args:
            run: Its run folder.
        """

    @abstractmethod
    def table(self) -> pd.DataFrame:
        """The finished trials, in order."""

    @abstractmethod
    def shaping(self) -> Sequence[Any]:
        """What shapes a search beside the settings of its trials and its space."""

    def digest(self) -> str:
        """A short digest of everything that shapes a search, its number of trials aside."""
        space = {name: parameter.plain() for name, parameter in self.space.items()}
        text = json.dumps([self.shaping_settings(), space, *self.shaping()], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def shaping_settings(self) -> dict[str, Any]:
        """Settings of the trials that shape a search."""
        return shaping_values(relocatable(self.config, self.root))

    @cached_property
    def database(self) -> Any:
        """Optuna's study, opened when first asked for."""
        import optuna

        return optuna.create_study(
            storage=open_database(self.root, self.storage),
            study_name=f"{self.name}/{self.digest()}",
            direction="maximize",
            load_if_exists=True,
        )

    def __getstate__(self) -> dict[str, Any]:
        # Every process opens the database for itself.
        return {name: value for name, value in self.__dict__.items() if name != "database"}

    def finished(self) -> Sequence[Any]:
        """Trials that came to their end, or were ended early; in order."""
        return self._in("COMPLETE", "PRUNED")

    def unfinished(self) -> Sequence[Any]:
        """Trials that are being worked on, or were cut off."""
        return self._in("RUNNING")

    def _in(self, *states: str) -> list[Any]:
        from optuna.trial import TrialState

        trials: list[Any] = self.database.get_trials(deepcopy=False, states=tuple(TrialState[name] for name in states))
        return trials

    def best(self, trials: int | None = None) -> Any | None:
        """The trial with the highest value, of equal ones the first; None if none came to its end.

        Args:
            trials: How many of the first trials are looked at; all by default.
        """
        complete = [trial for trial in self.finished()[:trials] if trial.state.name == "COMPLETE"]
        return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)

    def first_values(self) -> dict[str, Any]:
        """The settings as given, or what lies nearest to them in the space."""
        return {name: parameter.nearest(value_of(self.config, name)) for name, parameter in self.space.items()}

    def write_best(self, **notes: Any) -> None:
        """Write ``best.json``: the values of the best trial, what they are worth and which search found them.

        Raises:
            RunError: No trial came to its end.
        """
        best = self.best(self.trials)
        if best is None:
            raise RunError("no trial came to its end", where=self.folder, remedy="look at its runs, and search wider")
        known = {"values": best.params, "trial": best.number, "value": best.value, "metric": self.metric}
        write_json(self.folder / BEST, {**known, **notes, "trials": self.trials, "digest": self.digest()})

    def recorded(self) -> Mapping[str, Any] | None:
        """What ``best.json`` holds; None if the search is still to be done, or was done for other settings."""
        try:
            best = read_json(self.folder / BEST, FileKind("the best trial of a search"))
            asked = best["digest"] == self.digest() and best["trials"] == self.trials
            return {**best, "values": dict(best["values"])} if asked else None
        except (RunError, KeyError, TypeError):
            return None

    def found(self) -> dict[str, Any] | None:
        """The values of the best trial; None as for :meth:`recorded`."""
        best = self.recorded()
        return None if best is None else best["values"]

    def write_table(self) -> None:
        """Write ``trials.csv``."""
        write_text(self.folder / TABLE, self.table().to_csv(index=False, lineterminator="\n"))

    def path(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.folder / RUNS / f"{number:03d}"

    def clear(self) -> None:
        """Remove runs that a search with other settings has left, and locks that nobody needs any more."""
        known = len(self.database.get_trials(deepcopy=False))
        for run in (self.folder / RUNS).glob("*"):
            if int(run.name) >= known:
                shutil.rmtree(run)
        if not self.unfinished():
            shutil.rmtree(self.folder / CLAIMS, ignore_errors=True)

    def run_alone(self) -> None:
        """Run all trials that are missing, one after another, in this process and no other.

        Raises:
            BusyError: Another process is at it.
            MetasegError: A trial cannot be run.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = RunLock(self.folder)
        except RunError as error:
            raise BusyError from error
        try:
            self.clear()
            while len(self.finished()) < self.trials:
                self.run_trial(nullcontext())
            self.write_table()
            self.clear()
        finally:
            lock.release()

    def run_trial(self, taking_up: AbstractContextManager[None] | None = None) -> None:
        """Run one trial to its end, one that was cut off or the next, and write the table.

        Args:
            taking_up: Keeps other processes from taking up the same trial; by default the lock of the search.

        Raises:
            BusyError: All that are left are being worked on by other processes.
            MetasegError: It cannot be run.
        """
        with taking_up or _lock_of(self.folder):
            trial, lock = self._left_over() or self._new()
        try:
            self._run(trial)
        finally:
            lock.release()
        self.write_table()

    def _left_over(self) -> tuple[Any, RunLock] | None:
        """A trial that a process of this folder left unfinished when it died, and its lock."""
        import optuna

        for trial in self.unfinished():
            complete, here = set(trial.params) == set(self.space), self.path(trial.number).exists()
            if not here and self.storage is not None:
                continue
            lock = self._try_lock(trial.number)
            if lock is None:
                continue
            if complete and here:
                return optuna.trial.Trial(self.database, trial._trial_id), lock
            # It died between asking and beginning.
            self.database.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            lock.release()
        return None

    def _new(self) -> tuple[Any, RunLock]:
        unfinished, done = self.unfinished(), len(self.finished())
        if done + sum(self.path(trial.number).exists() for trial in unfinished) >= self.trials:
            raise BusyError
        self.database.sampler = self._sampler(done + len(unfinished))
        trial = self.database.ask({name: parameter.distribution() for name, parameter in self.space.items()})
        shutil.rmtree(self.path(trial.number), ignore_errors=True)
        self.path(trial.number).mkdir(parents=True)
        lock = self._try_lock(trial.number)
        if lock is None:
            raise BusyError
        return trial, lock

    def _try_lock(self, number: int) -> RunLock | None:
        folder = self.folder / CLAIMS / f"{number:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return RunLock(folder)
        except RunError:
            return None

    def _sampler(self, place: int) -> Any:
        import optuna

        seed = int(np.random.default_rng([*self.seed, place]).integers(2**32))
        sampler = optuna.samplers.TPESampler(n_startup_trials=SPREAD_TRIALS, seed=seed)
        if place >= SPREAD_TRIALS:
            return sampler
        values = self.first_values() if place == 0 else spread_values(self.space, place)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.PartialFixedSampler(values, sampler)

    def _run(self, trial: Any) -> None:
        import optuna

        # Epochs count from 1.
        self.database.pruner = optuna.pruners.MedianPruner(UNPRUNED_TRIALS, UNPRUNED_EPOCHS + 1)
        run = self.path(trial.number)
        value: float | None = None
        notes: Notes = {}
        state = None
        try:
            with watched_by(self._watcher(trial)):
                run_unit(run, replace(with_values(self.config, trial.params), out=run), self.root)
            value, notes = self.judge(run)
        except GivenUpError as end:
            RunState.open(run / STATE_NAME).set_status("stopped", end.found)
            state = optuna.trial.TrialState.PRUNED
        except TrainingError as error:
            notes = {"diverged": error.found}
        for name, note in {**notes, "seconds": seconds_of(run)}.items():
            trial.set_user_attr(name, note)
        drop_weights(run)
        self.database.tell(trial, None if state else WORST if value is None else value, state=state)

    def _watcher(self, trial: Any) -> Watcher:
        # A trial that is continued may repeat an epoch, to the same value.
        reported = set(self.database.get_trials(deepcopy=False)[trial.number].intermediate_values)

        def watch(epoch: int, metrics: Mapping[str, float]) -> None:
            value = metrics.get(self.metric, math.nan)
            if epoch not in reported:
                trial.report(value if math.isfinite(value) else WORST, epoch)
                reported.add(epoch)
            if self.pruning and trial.should_prune():
                raise GivenUpError(f"pruned after epoch {epoch}: {self.metric} below the median of earlier trials")

        return watch


def spread_values(space: Space, number: int) -> dict[str, Any]:
    """The values of an early trial: points that a few trials already spread over the space.

    They are the same for every method with the same space: with few trials, chance would favour one method. Of few
    settings they are those of Halton's sequence. Its first points have low values in all further dimensions; of more
    settings they are a Latin hypercube, by which each setting takes all parts of its range once.

    Args:
        space: What is searched.
        number: Number of the trial, from 1 and below :data:`SPREAD_TRIALS`.
    """
    from scipy.stats import qmc

    if len(space) <= HALTON_SETTINGS:
        point = qmc.Halton(len(space), scramble=False).random(number + 1)[number]
    else:
        points = qmc.LatinHypercube(len(space), seed=np.random.default_rng(0)).random(SPREAD_TRIALS - 1)
        point = points[number - 1]
    return {
        name: parameter.at(float(fraction)) for (name, parameter), fraction in zip(space.items(), point, strict=True)
    }


def open_database(study: Path, url: str | None) -> Any:
    """Open a database as Optuna's storage, and make its tables where there are none.

    Args:
        study: The study's folder.
        url: An SQLAlchemy URL; None for an SQLite file in the study.

    Raises:
        UsageError: It cannot be reached.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = url or f"sqlite:///{study / DATABASE}"
    # Several workers write one SQLite file: let them wait for each other.
    options = {"connect_args": {"timeout": 120}} if url.startswith("sqlite") else {}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=options)
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise UsageError(
            f"the database of the search cannot be opened: {reason[0] if reason else type(error).__name__}",
            where=url if "@" not in url else url.rpartition("@")[2],
            expected="an SQLAlchemy URL such as sqlite:///search.db or postgresql://user@host/name",
            remedy="check 'storage', and that the database's driver is installed",
        ) from error


@contextmanager
def _lock_of(folder: Path) -> Iterator[None]:
    """Hold the lock of a search while a trial is taken up; that takes an instant."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            lock = RunLock(folder)
            break
        except RunError:
            if time.monotonic() > until:
                raise BusyError from None
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.release()
