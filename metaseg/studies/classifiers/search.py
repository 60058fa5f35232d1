"""``metaseg classify search``: hyper-parameters of a classifier's training, judged on the validation part.

The trials of a search of a classifier's hyper-parameters: which comes next, running it, ending it early.

A trial lives in the database and in its run folder. Whoever works on one holds its lock, so that a trial that still
runs by the database, but whose lock is free, was begun by a process that died: the next process goes on with it. The
sampler is seeded anew for every trial from its place in the sequence, so that one process alone always tries the same.
"""

from __future__ import annotations

import hashlib
import json
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
import pandas as pd

from metaseg.classify.data import divide, open_slices
from metaseg.classify.train import SPLIT_NAME
from metaseg.config.classification import TRANSFER, ClassifyTrainConfig
from metaseg.config.io import config_verb, describe_fields, dump_config, load_config, shaping_values
from metaseg.config.options import MODEL, TRAIN
from metaseg.config.studies import ClassifySearchConfig
from metaseg.errors import RunError, TrainingError, UsageError, recorded_warnings
from metaseg.files import FileKind, read_json, read_rows, write_text
from metaseg.runs.folder import RunLock
from metaseg.runs.state import STATE_NAME, RunState
from metaseg.studies.cells import BusyError, drop_weights, portable, run_unit, seconds_of
from metaseg.studies.classifiers.plan import check_entries, input_digests, read_classifier_entry
from metaseg.studies.compare import raise_failures, write_failures
from metaseg.studies.display import Display
from metaseg.studies.inputs import check_inputs
from metaseg.studies.preparation import STUDY_FILE
from metaseg.studies.search import SPREAD_TRIALS, WORST, open_database, own_storage, spread_values
from metaseg.studies.spaces import Space, parse_space
from metaseg.studies.workers import do_units, left_to_do
from metaseg.training.fitted_run import FitSummary, GivenUpError, Watcher, watched_by

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
    def metric(self) -> str:
        """The metric of the validation part that is searched by."""
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
        metrics = read_json(run / "result.json", FileKind("the result of a trial"), FitSummary).metrics
        if self.metric not in metrics:
            raise UsageError(
                f"a trial has no metric {self.metric}",
                where=run,
                expected="a validation part with slices",
                remedy="give a --split with one, or more patients",
            )
        return WORST if metrics[self.metric] is None else float(metrics[self.metric])

    def _note(self, trial: Any, run: Path) -> None:
        trial.set_user_attr("seconds", seconds_of(run))
        drop_weights(run)

    def _watcher(self, study: Any, trial: Any) -> Watcher:
        # A trial that goes on after it was cut off may repeat an epoch, to the same metric.
        reported = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)

        def watch(epoch: int, metrics: Mapping[str, float]) -> None:
            value = metrics.get(self.metric, math.nan)
            if epoch not in reported:
                trial.report(value if math.isfinite(value) else WORST, epoch)
                reported.add(epoch)
            if self.pruning and trial.should_prune():
                raise GivenUpError(f"{PRUNED} after epoch {epoch}: {self.metric} below the median of earlier trials")

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
    """The trial with the highest metric, of equal ones the first; None if none came to its end."""
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


TRIALS, BEST = "trials.csv", "best.yaml"
DEFAULT_SPACE: Mapping[str, Any] = {
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
    "batch_size": [8, 16, 32],
}
JUDGING = ("monitor", "validate_every", "patience")
"""Settings by which trials are judged: they are the same for all."""


@dataclass(frozen=True)
class ClassifierSearch:
    """What a search leaves.

    Attributes:
        study: The study folder.
        trials: One row for every finished trial: ``trial``, the searched settings, ``value``, ``epochs``, ``seconds``
            and ``state``, which is ``complete``, ``pruned`` or ``diverged``.
        best: Values of the best trial, by setting; empty while there is none.
        value: Its metric on the validation part; NaN while there is none.
    """

    study: Path
    trials: pd.DataFrame
    best: Mapping[str, Any]
    value: float


@dataclass(frozen=True)
class Slot:
    """One trial that is to be done, whichever it will be: a unit of work.

    Attributes:
        number: From 0.
    """

    number: int

    @property
    def name(self) -> str:
        """As in messages."""
        return f"trial {self.number}"

    @property
    def label(self) -> str:
        """All trials are alike."""
        return "trial"

    @property
    def folder(self) -> Path:
        """Where it will lie, if nothing intervenes."""
        return Path(FOLDER, f"{self.number:03d}")


class SearchWork:
    """A search as :class:`~metaseg.studies.work.Work`: as many slots as trials are wanted.

    Args:
        config: Settings of the search.
        trials: What the trials share.
    """

    def __init__(self, config: ClassifySearchConfig, trials: Trials) -> None:
        self.config, self.trials = config, trials
        self.folder, self.jobs, self.threads = trials.folder, config.jobs, config.threads
        self._study: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # Every process opens the database for itself.
        return {**self.__dict__, "_study": None}

    @property
    def study(self) -> Any:
        """Optuna's study, opened when first asked for."""
        if self._study is None:
            import optuna

            self._study = optuna.create_study(
                storage=open_database(self.config.storage or own_storage(self.folder)),
                study_name=f"classify/{digest(self.trials)}",
                direction="maximize",
                load_if_exists=True,
            )
        return self._study

    @property
    def units(self) -> Sequence[Slot]:
        """All slots."""
        return tuple(Slot(number) for number in range(self.trials.limit))

    def needs(self, unit: Slot) -> Sequence[Slot]:
        """The slot as many places before as processes work: what fails once would fail for all that come after."""
        return (Slot(unit.number - self.jobs),) if unit.number >= self.jobs else ()

    def is_done(self, unit: Slot) -> bool:
        """Whether that many trials are finished, by whichever process."""
        return len(finished(self.study)) > unit.number

    def do(self, unit: Slot) -> None:
        """Run a trial."""
        self.trials.run(self.study)
        write_trials(self.folder, trial_table(self.study, self.trials.space))

    def amount(self, unit: Slot) -> float:
        """Trials count alike."""
        return 1.0

    def spent(self, unit: Slot) -> float:
        """Nothing of a trial is counted before its end."""
        return 0.0

    def pace(self, unit: Slot) -> float | None:
        """Seconds of a finished trial."""
        done = finished(self.study)
        return done[unit.number].user_attrs.get("seconds") if unit.number < len(done) else None


@recorded_warnings()
def run_classify_search(config: ClassifySearchConfig) -> ClassifierSearch:
    """Run what is missing of a search, and write ``trials.csv`` and ``best.yaml``.

    The test part is never opened: ``metaseg classify train --config STUDY/best.yaml`` measures the best settings on it.

    Args:
        config: All settings; see :class:`~metaseg.config.classification.ClassifySearchConfig`.

    Raises:
        UsageError: Settings are wrong, contradict the data, or differ from those of the search in the folder.
        DataError: The data cannot be used.
        RunError: A trial failed.
    """
    trials = make_trials(config)
    _check_same(config, trials)
    check_entries({"the search": trials.config})
    if config.dry_run:
        _print_plan(config, trials)
        return ClassifierSearch(trials.folder, pd.DataFrame(), {}, math.nan)
    trials.folder.mkdir(parents=True, exist_ok=True)
    dump_config(config, trials.folder / STUDY_FILE)
    work = SearchWork(config, _with_split(trials))
    digests = input_digests({"the search": work.trials.config})
    check_inputs(trials.folder, digests, any((trials.folder / FOLDER).rglob(STATE_NAME)))
    todo = left_to_do(work)
    if todo:
        _check_validation(work.trials)
    try:
        with Display(work, todo, work.jobs) as display:
            failures = do_units(work, todo, display)
    except KeyboardInterrupt as error:
        error.__notes__ = ["To continue: give the same command again; finished trials stay."]
        raise
    write_failures(work, failures)
    result = write_search(work)
    # Of trials that were not even begun there is nothing to say.
    raise_failures(work, [one for one in failures if not one.error.startswith("needs ")])
    return result


def make_trials(config: ClassifySearchConfig) -> Trials:
    """Read settings and space of a search.

    Raises:
        UsageError: They cannot be used, or a value of the space is not allowed.
    """
    assert config.out is not None
    folder = config.out.expanduser()
    entry = read_classifier_entry("shared", config.shared, {}, config, folder)
    if not isinstance(entry, ClassifyTrainConfig):
        raise UsageError("shared: verb active", expected="settings of 'metaseg classify train'")
    searchable = frozenset(
        field.name
        for field in describe_fields(ClassifyTrainConfig)
        if (field.panel in (TRAIN, MODEL, TRANSFER) and field.name not in JUDGING) or field.name == "input_size"
    )
    space = parse_space(config.space or DEFAULT_SPACE, ClassifyTrainConfig, searchable, "space")
    entry = replace(entry, seed=config.seed, test=False)
    for parameter in space.values():
        for value in parameter.ends():
            load_config(ClassifyTrainConfig, None, {**_as_given(entry), parameter.name: value})
    return Trials(folder, entry, space, config.seed, config.trials, config.pruning, config.storage is None)


def _as_given(entry: ClassifyTrainConfig) -> dict[str, Any]:
    return {field.name: getattr(entry, field.name) for field in describe_fields(ClassifyTrainConfig)}


def digest(trials: Trials) -> str:
    """A short digest of everything that shapes a search, its number of trials aside."""
    settings = shaping_values(portable(trials.config, trials.folder))
    if _is_own_split(trials):
        # Where none is given, the study draws a split of its own from the seed.
        del settings["split"]
    space = {name: parameter.plain() for name, parameter in trials.space.items()}
    text = json.dumps([settings, space, trials.seed, trials.pruning], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _is_own_split(trials: Trials) -> bool:
    return trials.config.split in (None, trials.folder / SPLIT_NAME)


def _check_same(config: ClassifySearchConfig, trials: Trials) -> None:
    """Raise if the folder holds another study: trials of different searches cannot be told apart."""
    path = trials.folder / STUDY_FILE
    if not path.exists():
        return
    before = make_trials(replace(load_config(ClassifySearchConfig, path), out=config.out))
    if digest(before) != digest(trials):
        raise UsageError(
            "the folder holds a search with other settings",
            where=path,
            expected="the same settings, except "
            + ", ".join(sorted(field.flag for field in describe_fields(ClassifySearchConfig) if field.free)),
            remedy="name another folder with --out, or remove this one",
        )


def _with_split(trials: Trials) -> Trials:
    """All trials with one division of the patients, which the best settings are given too."""
    if trials.config.split is not None:
        return trials
    path = trials.folder / SPLIT_NAME
    if not path.exists():
        divide(open_slices(trials.config, trials.config), trials.config, trials.seed).split.save(path)
    return replace(trials, config=replace(trials.config, split=path))


def _check_validation(trials: Trials) -> None:
    parts = divide(open_slices(trials.config, trials.config), trials.config, trials.seed)
    if not len(parts.val):
        raise UsageError(
            "there is no validation part, by which trials are judged",
            where=trials.config.split,
            expected=f"slices in part '{trials.config.val_part}'",
            remedy="make a split with one ('metaseg data split'), or name its part in 'val_part'",
        )


def trial_table(study: Any, space: Space) -> pd.DataFrame:
    """The finished trials, in order; see :class:`ClassifierSearch`."""
    rows = []
    for one in finished(study):
        notes = one.user_attrs
        state = "diverged" if "diverged" in notes else one.state.name.lower()
        epochs = max(one.intermediate_values, default=0)
        # What an early end was reached with is its best so far, as for the others.
        best = max(one.intermediate_values.values(), default=math.nan)
        value = best if state == "pruned" else one.value
        rest = {"value": value, "epochs": epochs, "seconds": notes.get("seconds"), "state": state}
        rows.append({"trial": one.number, **{name: one.params[name] for name in space}, **rest})
    return pd.DataFrame(rows, columns=["trial", *space, "value", "epochs", "seconds", "state"])


def write_trials(folder: Path, table: pd.DataFrame) -> None:
    """Write ``trials.csv``."""
    write_text(folder / TRIALS, table.to_csv(index=False, lineterminator="\n"))


def write_search(work: SearchWork) -> ClassifierSearch:
    """Write what is found so far, and print it."""
    table, best = trial_table(work.study, work.trials.space), best_of(work.study)
    write_trials(work.folder, table)
    if best is None:
        print(f"{len(table)} trials, none of which came to its end: no {BEST}")
        return ClassifierSearch(work.folder, table, {}, math.nan)
    found = replace(work.trials.config, **best.params, out=None, test=True, jobs=0, device=work.config.device)
    dump_config(found, work.folder / BEST)
    if not unfinished(work.study):
        shutil.rmtree(work.folder / CLAIMS, ignore_errors=True)
    _print_trials(work, table, best.number)
    path = work.folder / BEST
    print(f"best: trial {best.number}, {work.trials.metric} {best.value:.3f}; its settings are in {path}")
    print(f"The test part was not looked at: metaseg {config_verb(ClassifyTrainConfig).replace('-', ' ', 1)} "
          f"--config {path} --out {work.folder / 'best'}")  # fmt: skip
    return ClassifierSearch(work.folder, table, dict(best.params), float(best.value))


def _print_trials(work: SearchWork, table: pd.DataFrame, best: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=f"{len(table)} trials, {work.trials.metric} at each one's best epoch", title_justify="left",
                  box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)  # fmt: skip
    for name in ("trial", *work.trials.space, work.trials.config.monitor, "epochs", "state"):
        shown.add_column(name, justify="left" if name == "state" else "right")
    for row in table.to_dict("records"):
        values = [_shown(row[name]) for name in work.trials.space]
        number = f"{row['trial']}{' *' if row['trial'] == best else ''}"
        metric = "-" if row["value"] is None or math.isnan(row["value"]) else f"{row['value']:.3f}"
        shown.add_row(number, *values, metric, str(row["epochs"]), row["state"])
    Console().print(shown)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _print_plan(config: ClassifySearchConfig, trials: Trials) -> None:
    path = trials.folder / TRIALS
    done = len(read_rows(path, FileKind("the trials of a search"), ("trial",))) if path.exists() else 0
    left = max(0, trials.limit - done)
    entry = trials.config
    print(f"search {trials.folder}: {entry.model}, {trials.metric} with {entry.epochs} epochs a trial")
    for name, parameter in trials.space.items():
        print(f"  {parameter.text()}; first {_shown(first_values(entry, {name: parameter})[name])}")
    pruning = "trials below the median end early" if trials.pruning else "no trial ends early"
    print(f"  {trials.limit} trials, {done} done, {left} to do; {pruning}; {config.jobs} processes")
    print(f"  database: {'in the study' if trials.own else str(config.storage).rpartition('@')[2]}")
