"""The search of a classifier's hyper-parameters as units of work: what may be searched, its trials, and its end.

``metaseg classify search`` is one search, ``metaseg classify compare`` has one for each entry with a space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from metaseg.cases.splits import Split
from metaseg.classify.data import Parts, into_parts, open_slices
from metaseg.classify.train import SPLIT_NAME
from metaseg.config.classification import TRANSFER, ClassifyTrainConfig
from metaseg.config.io import describe_fields, load_config
from metaseg.config.options import MODEL, TRAIN
from metaseg.errors import UsageError
from metaseg.files import FileKind, read_frame, read_json, read_rows
from metaseg.models.classifiers import find_classifier
from metaseg.studies.search import RUNS, TABLE, Notes, Search, Space, parse_space, short, value_of, with_values
from metaseg.studies.workers import Work
from metaseg.terminal import print_table
from metaseg.training.fitted_run import FitSummary

DEFAULT_SPACE: Mapping[str, Any] = {
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
    "batch_size": [8, 16, 32],
}
JUDGING = ("monitor", "validate_every", "patience")
"""Settings by which trials are judged: they are the same for all."""
SEARCHABLE = frozenset(
    field.name
    for field in describe_fields(ClassifyTrainConfig)
    if (field.panel in (TRAIN, MODEL, TRANSFER) and field.name not in JUDGING and not field.is_mapping)
    or field.name == "input_size"
)
OPTIONS = "model_options"
TRIALS = FileKind("the trials of a search")


@dataclass(frozen=True)
class Slot:
    """One trial that is to be done, whichever it will be: a unit of work.

    Attributes:
        number: From 0.
        label: The entry whose search it is of; ``trial`` where a study is one search.
        within: The search's folder within the study.
    """

    number: int
    label: str = "trial"
    within: Path = Path()

    @property
    def name(self) -> str:
        """As in messages."""
        return f"{self.label} {self.number}" if self.label == "trial" else f"{self.label}/trial {self.number}"

    @property
    def folder(self) -> Path:
        """Where it will lie, if nothing intervenes."""
        return self.within / RUNS / f"{self.number:03d}"


@dataclass(frozen=True)
class TrainingSearch(Search, Work):
    """The search of a classifier's hyper-parameters; as work it has as many slots as trials are wanted.

    Attributes:
        study: Settings of the study that it is, or belongs to.
        config: Settings of the first trial.
        label: The entry that is searched, as of :class:`Slot`.
    """

    study: Any
    config: ClassifyTrainConfig
    label: str = "trial"

    @property
    def units(self) -> Sequence[Slot]:
        """All slots."""
        within = self.folder.relative_to(self.root)
        return tuple(Slot(number, self.label, within) for number in range(self.trials))

    def needs(self, unit: Slot) -> Sequence[Slot]:
        """The slot as many places before as processes work: what fails once would fail for all that come after."""
        return (replace(unit, number=unit.number - self.jobs),) if unit.number >= self.jobs else ()

    def is_done(self, unit: Slot) -> bool:
        """Whether that many trials are finished, by whichever process."""
        return len(self.finished()) > unit.number

    def do(self, unit: Slot) -> None:
        """Run a trial."""
        self.folder.mkdir(parents=True, exist_ok=True)
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
        """One row a finished trial: ``trial``, the searched settings, ``value``, ``epochs``, ``seconds``, ``state``."""
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
            raise _no_validation(self.config)

    def finish(self) -> None:
        """Write down the best of the trials, all of which are done."""
        self.write_table()
        self.write_best()
        self.clear()

    def print_trials(self, best: int) -> None:
        """Print the finished trials as a table, the best marked.

        Args:
            best: Its number.
        """
        headings = ["trial", *self.space, self.config.monitor, "epochs", "state"]
        rows = []
        for row in self.table().to_dict("records"):
            number = f"{row['trial']}{' *' if row['trial'] == best else ''}"
            value = "-" if row["value"] is None or math.isnan(row["value"]) else f"{row['value']:.3f}"
            rows.append([number, *(short(row[name]) for name in self.space), value, str(row["epochs"]), row["state"]])
        title = f"{len(rows)} trials, {self.metric} at each one's best epoch"
        print_table(title, headings, rows, left=[len(headings) - 1])

    def print_plan(self, indent: str = "  ") -> None:
        """Print what is searched and how many trials are done; nothing but the table of trials is read."""
        path, first = self.folder / TABLE, self.first_values()
        done = len(read_rows(path, TRIALS, ("trial",))) if path.exists() else 0
        for name, parameter in self.space.items():
            print(f"{indent}{parameter.text()}; first {short(first[name])}")
        pruning = "trials below the median end early" if self.pruning else "no trial ends early"
        left = max(0, self.trials - done)
        print(f"{indent}{self.trials} trials, {done} done, {left} to do; {pruning}; {self.jobs} processes")


def in_words(values: Mapping[str, Any]) -> str:
    """Values of settings: ``learning_rate=0.001, batch_size=16``."""
    return ", ".join(f"{name}={short(value)}" for name, value in values.items())


FOUND = ("entry", "setting", "given", "found", "metric", "value_given", "value_found", "trials")


def search_summary(searches: Mapping[str, TrainingSearch]) -> pd.DataFrame:
    """What finished searches of a study found: one row for each setting of each entry that was searched.

    Args:
        searches: The searches by entry.

    Returns:
        Columns ``entry``, ``setting``, ``given`` and ``found`` (texts: its value in the first trial and in the best),
        ``metric``, ``value_given`` and ``value_found`` (the two trials' metric on the validation part), ``trials``.
    """
    rows = []
    for label, search in searches.items():
        best, table = search.recorded(), search.folder / TABLE
        if best is None:
            continue
        given = float(read_frame(table, TRIALS, ("trial", "value"))["value"].iloc[0])
        known = {"metric": search.metric, "value_given": given, "value_found": best["value"], "trials": search.trials}
        rows += [
            {"entry": label, "setting": name, "given": short(value), "found": short(best["values"][name]), **known}
            for name, value in search.first_values().items()
        ]
    return pd.DataFrame(rows, columns=list(FOUND))


def check_validation_part(config: ClassifyTrainConfig) -> None:
    """Raise where a split has no part by which trials could be judged; of a split yet to be drawn nothing is known."""
    if config.split is not None and config.fold is None and not Split.load(config.split).parts.get(config.val_part):
        raise _no_validation(config)


def _no_validation(config: ClassifyTrainConfig) -> UsageError:
    return UsageError(
        "there is no validation part, by which trials are judged",
        where=config.split,
        expected=f"slices in part '{config.val_part}'",
        remedy="make a split with one ('metaseg data split'), or name its part in 'val_part'",
    )


def read_space(given: Any, entry: ClassifyTrainConfig, where: str) -> tuple[Space, ClassifyTrainConfig]:
    """What is searched of a classifier.

    Args:
        given: As a settings file holds it; :data:`DEFAULT_SPACE` where it is empty.
        entry: The settings of its runs.
        where: Whose space it is, for messages.

    Returns:
        The space; and the settings, with those options of the network that are searched filled in.

    Raises:
        UsageError: It cannot be used, or a value of the space is not allowed.
    """
    options = find_classifier(entry.model).options.model_fields
    within = {f"{OPTIONS}.{name}": field.annotation for name, field in options.items()}
    space = parse_space(given or DEFAULT_SPACE, ClassifyTrainConfig, SEARCHABLE, where, within)
    inner = [name for name in space if name in within]
    if inner and "model" in space:
        raise UsageError(
            f"{where}: 'model' is searched together with '{inner[0]}'", remedy="search the options of one network"
        )
    defaults = {name: options[name.partition(".")[2]].default for name in inner if value_of(entry, name) is None}
    entry = with_values(entry, defaults)
    for parameter in space.values():
        for value in parameter.ends():
            tried = with_values(entry, {parameter.name: value})
            try:
                settings = {field.name: getattr(tried, field.name) for field in describe_fields(ClassifyTrainConfig)}
                load_config(ClassifyTrainConfig, None, settings)
                find_classifier(tried.model).validated(tried.model_options)
            except UsageError as error:
                error.found = f"{where}: {error.found}"
                raise
    return space, entry
