"""A search of hyper-parameters on validation patients, with Optuna: its database, its trials and the best of them.

The first trial has the settings as given, the next few are spread over the space, and later ones go by what was seen.
A trial lives in the database and in its run folder. Whoever works on one holds its lock, so that a trial that still
runs by the database, but whose lock is free, was begun by a process that died: the next process goes on with it. The
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
from typing import Any

import numpy as np
import pandas as pd

from metaseg.config.io import shaping_values
from metaseg.errors import RunError, TrainingError, UsageError
from metaseg.files import write_text
from metaseg.runs.folder import RunLock
from metaseg.runs.state import STATE_NAME, RunState
from metaseg.studies.cells import BusyError, RunConfig, drop_weights, portable, run_unit, seconds_of
from metaseg.studies.spaces import Space
from metaseg.training.fitted_run import GivenUpError, Watcher, watched_by

DATABASE, TABLE = "optuna.db", "trials.csv"
RUNS, CLAIMS = "trials", "claims"
WORST = 0.0
"""What a trial is worth whose loss became non-finite, or that is no good at all; no metric knows anything worse."""
SPREAD_TRIALS = 8
"""Trials, the first included, that are spread over the space before a sampler goes by what it has seen."""
UNPRUNED_TRIALS, UNPRUNED_EPOCHS = 4, 1
"""Trials that are never ended early, and epochs of each later trial that are waited for."""
PATIENCE = 120.0
"""Seconds to wait for another process that is just taking up a trial."""

Notes = Mapping[str, Any]
"""What is noted of a trial beside its value."""


@dataclass(frozen=True)
class Search(ABC):
    """A search; what a trial is worth is told by the task.

    Attributes:
        study: The study's folder.
        folder: The search's own, the study's or one within.
        name: Its name among the searches of a database.
        config: Settings of the first trial.
        space: What is searched.
        seed: Seed of the search.
        trials: Trials wanted.
        storage: Database as SQLAlchemy URL; None for an SQLite file in the study.
        pruning: Whether trials below the median of earlier ones are ended early.
    """

    study: Path
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
        return shaping_values(portable(self.config, self.study))

    @cached_property
    def database(self) -> Any:
        """Optuna's study, opened when first asked for."""
        import optuna

        return optuna.create_study(
            storage=open_database(self.study, self.storage),
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
        return {name: parameter.nearest(getattr(self.config, name)) for name, parameter in self.space.items()}

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
                run_unit(run, replace(self.config, **trial.params, out=run), self.study)
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
        # A trial that goes on after it was cut off may repeat an epoch, to the same value.
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
    """The values of an early trial: points of Halton's sequence, which a few trials already spread over the space.

    They are the same for every method with the same space: with few trials, chance would favour one method.

    Args:
        space: What is searched.
        number: Number of the trial, from 1.
    """
    from scipy.stats import qmc

    point = qmc.Halton(len(space), scramble=False).random(number + 1)[number]
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
