"""The trials of a search of a classifier's hyper-parameters: which comes next, running it, ending it early.

A trial lives in the database and in its run folder. Whoever works on one holds its lock, so that a trial that still
runs by the database, but whose lock is free, was begun by a process that died: the next process goes on with it. The
sampler is seeded anew for every trial from its place in the sequence, so that one process alone always tries the same.
"""

from __future__ import annotations

import math
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from metaseg.checked_files import FileKind, read_json
from metaseg.config_classify import ClassifyTrainConfig
from metaseg.errors import RunError, TrainingError, UsageError
from metaseg.runs.lock import RunLock
from metaseg.runs.state import STATE_NAME, RunState
from metaseg.studies.cells import BusyError, drop_weights, run_unit, seconds_of
from metaseg.studies.search import SPREAD_TRIALS, WORST, spread_values
from metaseg.studies.spaces import Space
from metaseg.training.fit_listener import GivenUpError, Watcher, watched_by
from metaseg.training.fitted_run import FitSummary

FOLDER, CLAIMS = "trials", "claims"
PRUNED = "pruned"
UNPRUNED_TRIALS, UNPRUNED_EPOCHS = 4, 1
"""Trials that are never ended early, and epochs of each later trial that are waited for."""
PATIENCE = 120.0
"""Seconds to wait for another process that is just taking up a trial."""


@dataclass(frozen=True)
class Trials:
    """What all trials of a search share.

    Attributes:
        folder: The study's folder.
        config: Settings of the first trial.
        space: What is searched.
        seed: Seed of the search.
        limit: Trials wanted.
        pruning: Whether trials are ended early.
        own: Whether the database is the study's alone, not shared with other folders.
    """

    folder: Path
    config: ClassifyTrainConfig
    space: Space
    seed: int
    limit: int
    pruning: bool
    own: bool

    @property
    def figure(self) -> str:
        """The figure of the validation part that is searched by."""
        return f"{self.config.monitor}/val"

    def run(self, study: Any) -> None:
        """Run one trial to its end: one that was cut off, or the next.

        Args:
            study: Optuna's study.

        Raises:
            BusyError: All that are left are being worked on by other processes.
            MetasegError: It cannot be run.
        """
        with self._claimed(study) as trial:
            self._run(study, trial)

    @contextmanager
    def _claimed(self, study: Any) -> Iterator[Any]:
        with _lock_of(self.folder):
            trial, lock = self._left_over(study) or self._new(study)
        try:
            yield trial
        finally:
            lock.release()

    def _left_over(self, study: Any) -> tuple[Any, RunLock] | None:
        """A trial that a process of this folder left unfinished when it died, and its lock."""
        import optuna

        for one in unfinished(study):
            complete, here = set(one.params) == set(self.space), self.path(one.number).exists()
            if not here and not self.own:
                continue
            lock = self._try_lock(one.number)
            if lock is None:
                continue
            if complete and here:
                return optuna.trial.Trial(study, one._trial_id), lock
            # It died between asking and beginning.
            study.tell(one.number, state=optuna.trial.TrialState.FAIL)
            lock.release()
        return None

    def _new(self, study: Any) -> tuple[Any, RunLock]:
        busy = len([one for one in unfinished(study) if self.path(one.number).exists()])
        done = len(finished(study))
        if done + busy >= self.limit:
            raise BusyError
        place = done + len(unfinished(study))
        study.sampler = self._sampler(place)
        trial = study.ask({name: parameter.distribution() for name, parameter in self.space.items()})
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
        """The first trial takes the settings as given, the next are spread evenly, then TPE goes by what was seen."""
        import optuna

        seed = int(np.random.default_rng([self.seed, place]).integers(2**32))
        sampler = optuna.samplers.TPESampler(n_startup_trials=SPREAD_TRIALS, seed=seed)
        if place >= SPREAD_TRIALS:
            return sampler
        values = first_values(self.config, self.space) if place == 0 else spread_values(self.space, place)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.PartialFixedSampler(values, sampler)

    def _run(self, study: Any, trial: Any) -> None:
        import optuna

        # Epochs count from 1.
        study.pruner = optuna.pruners.MedianPruner(UNPRUNED_TRIALS, UNPRUNED_EPOCHS + 1)
        run, pruned = self.path(trial.number), optuna.trial.TrialState.PRUNED
        config = replace(self.config, **trial.params, out=run)
        try:
            with watched_by(self._watcher(study, trial)):
                run_unit(run, config, self.folder)
        except GivenUpError as end:
            RunState.open(run / STATE_NAME).set_status("stopped", end.found)
            self._note(trial, run)
            study.tell(trial, state=pruned)
        except TrainingError as error:
            trial.set_user_attr("diverged", error.found)
            self._note(trial, run)
            study.tell(trial, WORST)
        else:
            value = self._value(run)
            self._note(trial, run)
            study.tell(trial, value)

    def _value(self, run: Path) -> float:
        figures = read_json(run / "result.json", FileKind("the result of a trial"), FitSummary).figures
        if self.figure not in figures:
            raise UsageError(
                f"a trial has no figure {self.figure}",
                where=run,
                expected="a validation part with slices",
                remedy="give a --split with one, or more patients",
            )
        return WORST if figures[self.figure] is None else float(figures[self.figure])

    def _note(self, trial: Any, run: Path) -> None:
        trial.set_user_attr("seconds", seconds_of(run))
        drop_weights(run)

    def _watcher(self, study: Any, trial: Any) -> Watcher:
        # A trial that goes on after it was cut off may repeat an epoch, to the same figure.
        reported = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)

        def watch(epoch: int, figures: Mapping[str, float]) -> None:
            value = figures.get(self.figure, math.nan)
            if epoch not in reported:
                trial.report(value if math.isfinite(value) else WORST, epoch)
                reported.add(epoch)
            if self.pruning and trial.should_prune():
                raise GivenUpError(f"{PRUNED} after epoch {epoch}: {self.figure} below the median of earlier trials")

        return watch

    def path(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.folder / FOLDER / f"{number:03d}"


def first_values(config: ClassifyTrainConfig, space: Space) -> dict[str, Any]:
    """The settings as given, or what lies nearest to them in the space."""
    return {name: parameter.nearest(getattr(config, name)) for name, parameter in space.items()}


def finished(study: Any) -> Sequence[Any]:
    """Trials that came to their end, or were ended early; in order."""
    return _in(study, "COMPLETE", "PRUNED")


def unfinished(study: Any) -> Sequence[Any]:
    """Trials that are being worked on, or were cut off."""
    return _in(study, "RUNNING")


def best_of(study: Any) -> Any | None:
    """The trial with the highest figure, of equal ones the first; None if none came to its end."""
    return max(_in(study, "COMPLETE"), key=lambda one: (one.value, -one.number), default=None)


def _in(study: Any, *states: str) -> list[Any]:
    from optuna.trial import TrialState

    trials: list[Any] = study.get_trials(deepcopy=False, states=tuple(TrialState[name] for name in states))
    return trials


@contextmanager
def _lock_of(folder: Path) -> Iterator[None]:
    """Hold the study's lock while a trial is taken up; that takes an instant."""
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
