"""The search of an entry's hyper-parameters on validation patients, with Optuna.

One Optuna study for each target and entry, trials one after another. Trial 0 has the entry's own values, the next few
are spread over the space. Before every later trial the sampler is seeded anew from the number of trials done, so that
a search that was killed and begun again suggests the same values and continues the trial that was cut off.

The database of a search of hyper-parameters: an SQLite file, or any other that several machines share.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from metaseg.adapt.setup import AdaptationResult
from metaseg.config.io import shaping_values
from metaseg.config.segmentation import MetatuneConfig, NaivetuneConfig
from metaseg.errors import RunError, TrainingError, UsageError
from metaseg.files import FileKind, read_json, write_json, write_text
from metaseg.runs.folder import RunLock
from metaseg.runs.logs import cell
from metaseg.studies.cells import BusyError, drop_weights, portable, run_unit, seconds_of
from metaseg.studies.inputs import network_digest
from metaseg.studies.plan import Plan, Unit
from metaseg.studies.spaces import Space

FILE_NAME = "optuna.db"


def own_storage(folder: Path) -> str:
    """The address of the SQLite file inside a study."""
    return f"sqlite:///{folder / FILE_NAME}"


def open_database(url: str) -> Any:
    """Open a database as Optuna's storage, and make its tables where there are none.

    Args:
        url: An SQLAlchemy URL.

    Raises:
        UsageError: It cannot be reached.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
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


BEST, TRIALS = "best.json", "trials.csv"
WORST = 0.0
"""What a trial is worth whose loss became non-finite, or that segments nothing; Dice knows nothing worse."""
SPREAD_TRIALS = 8
"""Trials, the first included, that are spread over the space before a sampler goes by what it has seen."""


def best_values(plan: Plan, target: str, label: str) -> dict[str, Any] | None:
    """The values that an entry's cells run with: those of its finished search, or none where nothing is searched.

    Returns:
        Values by setting; None if the search is still to be done, or was done for other settings.
    """
    if not plan.is_searched(label):
        return {}
    unit = Unit("search", target, plan.entries[label].searched_as)
    try:
        best = read_json(plan.folder / unit.folder / BEST, FileKind("the best trial of a search"))
        if best["digest"] != digest(plan, unit) or best["trials"] != plan.study.trials:
            return None
        return dict(best["values"])
    except (RunError, KeyError, TypeError):
        return None


def digest(plan: Plan, unit: Unit) -> str:
    """A short digest of everything that shapes a search, its number of trials aside."""
    settings = shaping_values(portable(plan.config(unit), plan.folder))
    space = {name: parameter.plain() for name, parameter in plan.entries[unit.label].space.items()}
    shaping = [settings, space, plan.study.objective, plan.study.region]
    if plan.study.storage is not None:
        # Studies that share a database may have networks of their own under the same name.
        shaping.append(shaping_values(plan.pretrain) if plan.pretrain else network_digest(plan.network))
    text = json.dumps(shaping, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def storage_url(plan: Plan) -> str:
    """The database of a study's searches."""
    return plan.study.storage or own_storage(plan.folder)


def open_storage(plan: Plan) -> Any:
    """Open the database of a study's searches; see :func:`~metaseg.studies.search.open_database`."""
    return open_database(storage_url(plan))


def run_search(plan: Plan, unit: Unit) -> None:
    """Do what is missing of a search, and write ``trials.csv`` and ``best.json``.

    Args:
        plan: The comparison, with its region known.
        unit: The search.

    Raises:
        BusyError: Another process is at it.
        MetasegError: A trial cannot be run.
    """
    if best_values(plan, unit.target, unit.label) is not None:
        return
    folder = plan.folder / unit.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = RunLock(folder)
    except RunError as error:
        raise BusyError from error
    try:
        _search(plan, unit, folder)
    finally:
        lock.release()


def _search(plan: Plan, unit: Unit, folder: Path) -> None:
    import optuna

    study = optuna.create_study(
        storage=open_storage(plan),
        study_name=f"{unit.target}/{unit.label}/{digest(plan, unit)}",
        direction="maximize",
        load_if_exists=True,
    )
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,), deepcopy=False):
        # Whoever holds the lock works alone: a trial that still runs was begun by a process that died.
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    for run in (folder / "trials").glob("*"):
        # Left by a search with other settings.
        if int(run.name) > len(_completed(study)):
            shutil.rmtree(run)
    while len(_completed(study)) < plan.study.trials:
        _trial(plan, unit, folder, study)
        _write_trials(plan, unit, folder, study)
    done = _completed(study)[: plan.study.trials]
    best = max(enumerate(done), key=lambda pair: (pair[1].value, -pair[0]))
    _write_trials(plan, unit, folder, study)
    write_json(
        folder / BEST,
        {
            "values": best[1].params,
            "trial": best[0],
            "value": best[1].value,
            "objective": plan.study.objective,
            "part": plan.study.search_part,
            "trials": plan.study.trials,
            "digest": digest(plan, unit),
        },
    )


def _completed(study: Any) -> list[Any]:
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE,), deepcopy=False)


def _trial(plan: Plan, unit: Unit, folder: Path, study: Any) -> None:
    import optuna

    number, space = len(_completed(study)), plan.entries[unit.label].space
    distributions = {name: parameter.distribution() for name, parameter in space.items()}
    if number < SPREAD_TRIALS:
        values = _own_values(plan, unit, space) if number == 0 else spread_values(space, number)
        value, notes = _evaluate(plan, unit, folder, number, values)
        study.add_trial(
            optuna.trial.create_trial(params=values, distributions=distributions, value=value, user_attrs=notes)
        )
        return
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=SPREAD_TRIALS, seed=_seed(plan, unit, number))
    trial = study.ask(fixed_distributions=distributions)
    value, notes = _evaluate(plan, unit, folder, number, trial.params)
    for name, note in notes.items():
        trial.set_user_attr(name, note)
    study.tell(trial, value)


def _own_values(plan: Plan, unit: Unit, space: Space) -> dict[str, Any]:
    config = plan.config(unit)
    return {name: parameter.nearest(getattr(config, name)) for name, parameter in space.items()}


def spread_values(space: Space, number: int) -> dict[str, Any]:
    """The values of an early trial: points of Halton's sequence, which a few trials already spread over the space.

    They are the same for every method with the same space: with few trials, chance would favour one method.

    Args:
        space: What is searched.
        number: Number of the trial, from 1.
    """
    from scipy.stats import qmc

    point = qmc.Halton(len(space), scramble=False).random(number + 1)[number]
    return {name: parameter.at(float(share)) for (name, parameter), share in zip(space.items(), point, strict=True)}


def _seed(plan: Plan, unit: Unit, number: int) -> int:
    name = int.from_bytes(hashlib.blake2b(f"{unit.target}/{unit.label}".encode(), digest_size=4).digest(), "big")
    return int(np.random.default_rng([plan.study.search_seed, name, number]).integers(2**32))


def _evaluate(
    plan: Plan, unit: Unit, folder: Path, number: int, values: Mapping[str, Any]
) -> tuple[float, dict[str, Any]]:
    """Run one trial; its value, and what is noted of it."""
    run = folder / "trials" / f"{number:03d}"
    config: NaivetuneConfig | MetatuneConfig = replace(plan.config(unit, values), out=run)
    try:
        run_unit(run, config, plan.folder)
    except TrainingError as error:
        drop_weights(run)
        return WORST, {"target": None, "source": None, "seconds": seconds_of(run), "diverged": error.found}
    after = read_json(run / "result.json", FileKind("the result of a trial"), AdaptationResult).after
    metrics = {domain: after.get(f"dice/{domain}/{plan.study.region}") for domain in ("target", "source")}
    drop_weights(run)
    wanted = [metrics["target"], metrics["source"]] if plan.study.objective == "balanced" else [metrics["target"]]
    known = [WORST if metric is None else float(metric) for metric in wanted]
    return sum(known) / len(known), {**metrics, "seconds": seconds_of(run)}


def _write_trials(plan: Plan, unit: Unit, folder: Path, study: Any) -> None:
    names = list(plan.entries[unit.label].space)
    lines = [",".join(["trial", *names, "value", "target", "source", "seconds", "diverged"])]
    for number, trial in enumerate(_completed(study)):
        notes = trial.user_attrs
        cells = [number, *(trial.params[name] for name in names), trial.value, notes.get("target"), notes.get("source")]
        seconds = notes.get("seconds")
        lines.append(
            ",".join(cell(value) for value in [*cells, seconds if seconds else math.nan, int("diverged" in notes)])
        )
    write_text(folder / TRIALS, "\n".join(lines) + "\n")
