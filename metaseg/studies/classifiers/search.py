"""``metaseg classify search``: hyper-parameters of a classifier's training, judged on the validation part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from metaseg.config.classification import ClassifyTrainConfig
from metaseg.config.io import config_verb, describe_fields, dump_config, load_config
from metaseg.config.studies import ClassifySearchConfig
from metaseg.errors import UsageError, recorded_warnings
from metaseg.results import Result
from metaseg.runs.state import STATE_NAME
from metaseg.studies.cells import check_inputs
from metaseg.studies.classifiers.plan import check_entries, input_digests, read_classifier_entry
from metaseg.studies.classifiers.trials import TrainingSearch, read_space
from metaseg.studies.preparation import STUDY_FILE
from metaseg.studies.search import RUNS, with_values
from metaseg.studies.workers import continued_by_the_same_command, do_what_is_left, raise_failures

BEST = "best.yaml"


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
    check_entries({"the search": search.config}, searched={"the search": search.space})
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
    space, entry = read_space(config.space, replace(entry, seed=config.seed, test=False), "space")
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
    dump_config(
        replace(with_values(search.config, best.params), out=None, test=True, jobs=0, device=search.study.device), path
    )
    search.clear()
    search.print_trials(best.number)
    print(f"best: trial {best.number}, {search.metric} {best.value:.3f}; its settings are in {path}")
    command = f"{config_verb(ClassifyTrainConfig).replace('-', ' ', 1)} --config {path} --out {search.root / 'best'}"
    print(f"The test part was not looked at: metaseg {command}")
    return ClassifierSearch(search.root, table, dict(best.params), float(best.value))


def _print_plan(search: TrainingSearch) -> None:
    entry = search.config
    print(f"search {search.root}: {entry.model}, {search.metric} with {entry.epochs} epochs a trial")
    search.print_plan()
    print(f"  database: {'in the study' if search.storage is None else search.storage.rpartition('@')[2]}")
