"""``metaseg classify search``: hyper-parameters of a classifier's training, judged on the validation part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from metaseg.classify.data import Parts, into_parts, open_slices
from metaseg.classify.train import SPLIT_NAME
from metaseg.config.classification import TRANSFER, ClassifyTrainConfig
from metaseg.config.io import config_verb, describe_fields, dump_config, load_config
from metaseg.config.options import MODEL, TRAIN
from metaseg.config.studies import ClassifySearchConfig
from metaseg.errors import UsageError, recorded_warnings
from metaseg.files import FileKind, read_json, read_rows
from metaseg.results import Result
from metaseg.runs.state import STATE_NAME
from metaseg.studies.cells import check_inputs
from metaseg.studies.classifiers.plan import check_entries, input_digests, read_classifier_entry
from metaseg.studies.compare import short
from metaseg.studies.preparation import STUDY_FILE
from metaseg.studies.search import RUNS, TABLE, Notes, Search, parse_space
from metaseg.studies.workers import Work, continued_by_the_same_command, do_what_is_left, raise_failures
from metaseg.terminal import print_table
from metaseg.training.fitted_run import FitSummary

BEST = "best.yaml"
DEFAULT_SPACE: Mapping[str, Any] = {
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
    "batch_size": [8, 16, 32],
}
JUDGING = ("monitor", "validate_every", "patience")
"""Settings by which trials are judged: they are the same for all."""


@dataclass(frozen=True)
class ClassifierSearch(Result):
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

    def table(self) -> pd.DataFrame:
        """The trials."""
        return self.trials


@dataclass(frozen=True)
class Slot:
    """One trial that is to be done, whichever it will be: a unit of work.

    Attributes:
        number: From 0.
    """

    number: int
    label: str = "trial"

    @property
    def name(self) -> str:
        """As in messages."""
        return f"{self.label} {self.number}"

    @property
    def folder(self) -> Path:
        """Where it will lie, if nothing intervenes."""
        return Path(RUNS, f"{self.number:03d}")


@dataclass(frozen=True)
class TrainingSearch(Search, Work):
    """The search of a classifier's hyper-parameters; as work it has as many slots as trials are wanted.

    Attributes:
        study: Its settings.
        config: Settings of the first trial.
    """

    study: ClassifySearchConfig
    config: ClassifyTrainConfig

    @property
    def units(self) -> Sequence[Slot]:
        """All slots."""
        return tuple(Slot(number) for number in range(self.trials))

    def needs(self, unit: Slot) -> Sequence[Slot]:
        """The slot as many places before as processes work: what fails once would fail for all that come after."""
        return (Slot(unit.number - self.jobs),) if unit.number >= self.jobs else ()

    def is_done(self, unit: Slot) -> bool:
        """Whether that many trials are finished, by whichever process."""
        return len(self.finished()) > unit.number

    def do(self, unit: Slot) -> None:
        """Run a trial."""
        self.run_trial()

    def pace(self, unit: Slot) -> float | None:
        """Seconds of a finished trial."""
        done = self.finished()
        return done[unit.number].user_attrs.get("seconds") if unit.number < len(done) else None

    @property
    def metric(self) -> str:
        """The metric that is monitored."""
        return f"{self.config.monitor}/val"

    def shaping(self) -> Sequence[Any]:
        """Seed and pruning."""
        return *self.seed, self.pruning

    def shaping_settings(self) -> dict[str, Any]:
        """Settings of the trials; where no split is given, the study draws one of its own from the seed."""
        settings = super().shaping_settings()
        if self.config.split in (None, self.root / SPLIT_NAME):
            del settings["split"]
        return settings

    def judge(self, run: Path) -> tuple[float | None, Notes]:
        """The metric of the best epoch."""
        metrics = read_json(run / "result.json", FileKind("the result of a trial"), FitSummary).metrics
        if self.metric not in metrics:
            raise UsageError(
                f"a trial has no metric {self.metric}",
                where=run,
                expected="a validation part with slices",
                remedy="give a --split with one, or more patients",
            )
        return metrics[self.metric], {}

    def table(self) -> pd.DataFrame:
        """See :class:`ClassifierSearch`."""
        rows = []
        for trial in self.finished():
            state = "diverged" if "diverged" in trial.user_attrs else trial.state.name.lower()
            # What an early end was reached with is its best so far, as for the others.
            so_far = max(trial.intermediate_values.values(), default=math.nan)
            rest = {
                "value": so_far if state == "pruned" else trial.value,
                "epochs": max(trial.intermediate_values, default=0),
                "seconds": trial.user_attrs.get("seconds"),
                "state": state,
            }
            rows.append({"trial": trial.number, **trial.params, **rest})
        return pd.DataFrame(rows, columns=["trial", *self.space, "value", "epochs", "seconds", "state"])

    def with_split(self) -> TrainingSearch:
        """The same with one division of the patients for all trials, which the best settings are given too."""
        if self.config.split is not None:
            return self
        path = self.root / SPLIT_NAME
        if not path.exists():
            self.parts().split.save(path)
        return replace(self, config=replace(self.config, split=path))

    def parts(self) -> Parts:
        """The slices of every part."""
        return into_parts(open_slices(self.config), self.config)

    def check_validation(self) -> None:
        """Raise unless there is a validation part."""
        if not len(self.parts().val):
            raise UsageError(
                "there is no validation part, by which trials are judged",
                where=self.config.split,
                expected=f"slices in part '{self.config.val_part}'",
                remedy="make a split with one ('metaseg data split'), or name its part in 'val_part'",
            )


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
    search = make_search(config)
    _check_same(config, search)
    check_entries({"the search": search.config})
    if config.dry_run:
        _print_plan(search)
        return ClassifierSearch(search.root, pd.DataFrame(), {}, math.nan)
    search.root.mkdir(parents=True, exist_ok=True)
    dump_config(config, search.root / STUDY_FILE)
    search = search.with_split()
    digests = input_digests({"the search": search.config})
    check_inputs(search.root, digests, any((search.root / RUNS).rglob(STATE_NAME)))
    todo = search.left_to_do()
    if todo:
        search.check_validation()
    with continued_by_the_same_command("finished trials stay"):
        failures = do_what_is_left(search, todo)
    result = _write_result(search)
    # Of trials that were not even begun there is nothing to say.
    raise_failures(search, [failure for failure in failures if not failure.error.startswith("needs ")])
    return result


def make_search(config: ClassifySearchConfig) -> TrainingSearch:
    """Read settings and space of a search.

    Raises:
        UsageError: They cannot be used, or a value of the space is not allowed.
    """
    assert config.out is not None
    folder = config.out.expanduser()
    entry = read_classifier_entry("entry 'shared'", config.shared, {}, config, folder)
    if not isinstance(entry, ClassifyTrainConfig):
        raise UsageError("shared: verb active", expected="settings of 'metaseg classify train'")
    searchable = frozenset(
        field.name
        for field in describe_fields(ClassifyTrainConfig)
        if (field.panel in (TRAIN, MODEL, TRANSFER) and field.name not in JUDGING) or field.name == "input_size"
    )
    space = parse_space(config.space or DEFAULT_SPACE, ClassifyTrainConfig, searchable, "space")
    entry = replace(entry, seed=config.seed, test=False)
    given = {field.name: getattr(entry, field.name) for field in describe_fields(ClassifyTrainConfig)}
    for parameter in space.values():
        for value in parameter.ends():
            load_config(ClassifyTrainConfig, None, {**given, parameter.name: value})
    return TrainingSearch(
        study=config,
        root=folder,
        folder=folder,
        name="classify",
        config=entry,
        space=space,
        seed=(config.seed,),
        trials=config.trials,
        storage=config.storage,
        pruning=config.pruning,
    )


def _check_same(config: ClassifySearchConfig, search: TrainingSearch) -> None:
    """Raise if the folder holds another study: trials of different searches cannot be told apart."""
    path = search.root / STUDY_FILE
    if not path.exists():
        return
    before = make_search(replace(load_config(ClassifySearchConfig, path), out=config.out))
    if before.digest() != search.digest():
        free = sorted(field.flag for field in describe_fields(ClassifySearchConfig) if field.free)
        raise UsageError(
            "the folder holds a search with other settings",
            where=path,
            expected="the same settings, except " + ", ".join(free),
            remedy="name another folder with --out, or remove this one",
        )


def _write_result(search: TrainingSearch) -> ClassifierSearch:
    """Write what is found so far, and print it."""
    table, best = search.table(), search.best()
    search.write_table()
    if best is None:
        print(f"{len(table)} trials, none of which came to its end: no {BEST}")
        return ClassifierSearch(search.root, table, {}, math.nan)
    path = search.root / BEST
    dump_config(replace(search.config, **best.params, out=None, test=True, jobs=0, device=search.study.device), path)
    search.clear()
    _print_trials(search, table, best.number)
    print(f"best: trial {best.number}, {search.metric} {best.value:.3f}; its settings are in {path}")
    command = f"{config_verb(ClassifyTrainConfig).replace('-', ' ', 1)} --config {path} --out {search.root / 'best'}"
    print(f"The test part was not looked at: metaseg {command}")
    return ClassifierSearch(search.root, table, dict(best.params), float(best.value))


def _print_trials(search: TrainingSearch, table: pd.DataFrame, best: int) -> None:
    headings = ["trial", *search.space, search.config.monitor, "epochs", "state"]
    rows = []
    for row in table.to_dict("records"):
        number = f"{row['trial']}{' *' if row['trial'] == best else ''}"
        value = "-" if row["value"] is None or math.isnan(row["value"]) else f"{row['value']:.3f}"
        rows.append([number, *(short(row[name]) for name in search.space), value, str(row["epochs"]), row["state"]])
    title = f"{len(table)} trials, {search.metric} at each one's best epoch"
    print_table(title, headings, rows, left=[len(headings) - 1])


def _print_plan(search: TrainingSearch) -> None:
    path = search.folder / TABLE
    done = len(read_rows(path, FileKind("the trials of a search"), ("trial",))) if path.exists() else 0
    entry, first = search.config, search.first_values()
    print(f"search {search.root}: {entry.model}, {search.metric} with {entry.epochs} epochs a trial")
    for name, parameter in search.space.items():
        print(f"  {parameter.text()}; first {short(first[name])}")
    pruning = "trials below the median end early" if search.pruning else "no trial ends early"
    left = max(0, search.trials - done)
    print(f"  {search.trials} trials, {done} done, {left} to do; {pruning}; {search.jobs} processes")
    print(f"  database: {'in the study' if search.storage is None else search.storage.rpartition('@')[2]}")
