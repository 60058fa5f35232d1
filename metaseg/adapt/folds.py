"""Cross-validation over the shots: networks tuned without some of the patients, and judged by these.

``--folds`` tunes a network for each fold, in a run folder of its own below ``folds/``, before the network of the run is
tuned on all shots. Every fold does all that the verb does: what is chosen on the shots is chosen without the patients
that judge it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from sklearn.model_selection import KFold

from metaseg.adapt.setup import (
    AdaptationResult,
    AdaptationSetup,
    CrossValidation,
    adaptation_result,
    change,
    unseen_target,
)
from metaseg.adapt.watch import MARKS_COLUMNS, begin_session, read_marks, read_timing
from metaseg.config.segmentation import AdaptOptions
from metaseg.files import FileKind, finite_metrics, read_frame, write_text
from metaseg.models.processes import is_first
from metaseg.runs.folder import CONFIG_NAME, RunFolder, is_run
from metaseg.runs.networks import FOLDS, fold_runs
from metaseg.runs.session import RunSession
from metaseg.runs.together import open_run
from metaseg.store.store import SliceStore
from metaseg.terminal import print_line, print_table

TABLE_NAME, TABLE_COLUMNS = "cross_validation.csv", ("fold", "domain", "case", "patient", "region", "before", "after")

Tune = Callable[[RunSession, AdaptationSetup], None]
"""What an adaptation verb does in its run folder."""


def divide_shots(shots: int, folds: int | Literal["leave-one-out"]) -> list[tuple[int, ...]]:
    """Numbers of the shots that each fold holds out, in the order in which the shots were drawn.

    Examples:
        >>> divide_shots(5, 2)
        [(0, 1, 2), (3, 4)]
    """
    divided = KFold(folds if isinstance(folds, int) else shots).split(range(shots))
    return [tuple(held_out.tolist()) for _, held_out in divided]


def hold_out(setup: AdaptationSetup, held_out: Sequence[int]) -> AdaptationSetup:
    """A setup without some of its shots, which are watched instead.

    Args:
        setup: The whole one; it is not changed, and neither is its network when the other is tuned.
        held_out: Numbers of the shots that are not tuned on. One whose patient the pretrained network has seen is not
            watched either.
    """
    kept = tuple(shot for number, shot in enumerate(setup.shots) if number not in held_out)
    judged = SliceStore(tuple(setup.shots[number].case for number in held_out))
    network = replace(setup.network, model=copy.deepcopy(setup.network.model))
    return replace(setup, network=network, shots=kept, target=unseen_target(setup.network, judged))


def tune_inside(
    session: RunSession, name: str, config: AdaptOptions, setup: AdaptationSetup, tune: Tune
) -> pd.DataFrame:
    """Tune on some shots and judge on other cases, in a run folder inside of the session's run.

    What is finished there is not done again, and what was cut off goes on, so that a session that calls this resumes by
    itself. All processes of the session call it.

    Args:
        session: Of the run around it.
        name: The folder within that run, such as ``folds/fold-0``.
        config: The settings to tune with.
        setup: Network, shots to tune on, target and source cases to judge by, as :func:`hold_out` makes it. Its network
            is tuned in place.
        tune: The verb's work.

    Returns:
        The marks, the same in every process: step, update, domain, case, patient, region, Dice (NaN where there is
        nothing to find and nothing found). The first mark is of the network before.

    Raises:
        TrainingError: The tuning diverged.
        RunError: What lies in the folder is damaged, or of other settings.
    """
    folder = session.run.path / name
    begun = session.fabric.broadcast(is_run(folder) and (folder / CONFIG_NAME).exists())
    done = session.fabric.broadcast(begun and RunFolder.open(folder).finished if is_first(session.fabric) else False)
    if done:
        print_line(f"{name} is finished")
    else:
        config = replace(config, out=folder, resume=begun, overwrite=not begun, shots=len(setup.shots), folds=None)
        with open_run(session.fabric, config) as run:
            tune(RunSession(run, config, session.fabric), setup)
    rows: list[dict[str, str]] = session.fabric.broadcast(read_marks(folder) if is_first(session.fabric) else [])
    frame = pd.DataFrame(rows, columns=list(MARKS_COLUMNS))
    return frame.assign(step=frame["step"].astype(int), dice=pd.to_numeric(frame["dice"]))


def cross_validate(session: RunSession, setup: AdaptationSetup, tune: Tune, *, inherits: bool = True) -> None:
    """Do an adaptation in its run folder: the networks of the folds where ``folds`` asks for them, then its own.

    Args:
        session: Of the run.
        setup: Network, all shots, and what is watched.
        tune: The verb's work, for a fold as for all shots.
        inherits: As for :class:`~metaseg.adapt.watch.Watch`.
    """
    if session.config.folds is None:
        tune(session, setup)
        return
    begin_session(session, setup, inherits=inherits)
    found = _tune_folds(session, setup, tune)
    session.also["cross_validated"] = asdict(found)
    print_line(f"the network of the run, on all {len(setup.shots)} shots")
    tune(session, setup)
    named = {name.replace("dice/", "cross_validated/"): value for name, value in found.after.items()}
    session.run.state.set_metrics({name: math.nan if value is None else value for name, value in named.items()})


def _tune_folds(session: RunSession, setup: AdaptationSetup, tune: Tune) -> CrossValidation:
    """Tune and judge the networks of the folds, and write their table."""
    parts = divide_shots(len(setup.shots), session.config.folds)
    print_line(f"{len(parts)} folds, and the network on all {len(setup.shots)} shots: {len(parts) + 1} tunings")
    tables = []
    for number, held_out in enumerate(parts):
        print_line(f"fold {number}, without {', '.join(setup.shots[shot].case.patient for shot in held_out)}")
        config = replace(session.config, pictures=False)
        marks = tune_inside(session, f"{FOLDS}/fold-{number}", config, hold_out(setup, held_out), tune)
        tables.append(_first_and_last(marks).assign(fold=number))
    table = pd.concat(tables)[list(TABLE_COLUMNS)]
    write_text(session.run.path / TABLE_NAME, table.to_csv(index=False))
    return summarise(table)


def _first_and_last(marks: pd.DataFrame) -> pd.DataFrame:
    """Dice of every watched case before and after."""
    keys = ["domain", "case", "patient", "region"]
    ends = {
        name: marks[marks["step"] == step].set_index(keys)["dice"]
        for name, step in (("before", marks["step"].min()), ("after", marks["step"].max()))
    }
    return pd.DataFrame(ends).reset_index()


def read_cross_validation(run: Path) -> pd.DataFrame | None:
    """A run's ``cross_validation.csv``, with ``TABLE_COLUMNS``; None where it has none.

    Raises:
        RunError: It is damaged.
    """
    file = run / TABLE_NAME
    if not file.exists():
        return None
    kind = FileKind("the cross-validation of a metaseg run", "continue the run with --resume, or start it again")
    return read_frame(file, kind, TABLE_COLUMNS[1:5], TABLE_COLUMNS[:1], TABLE_COLUMNS[5:])


def summarise(table: pd.DataFrame) -> CrossValidation:
    """Means over the rows of a cross-validation, without cases in which nothing was to be found and nothing was."""
    before, after = dict[str, float](), dict[str, float]()
    for (domain, region), rows in table.groupby(["domain", "region"], sort=False):
        before[f"dice/{domain}/{region}"] = float(rows["before"].mean())
        after[f"dice/{domain}/{region}"] = float(rows["after"].mean())
    lost = {
        name.replace("dice/source/", "forgetting/"): before[name] - after[name] for name in before if "/source/" in name
    }
    folds = int(table["fold"].nunique())
    return CrossValidation(folds, finite_metrics(before), finite_metrics(after), finite_metrics(lost))


def cross_validated_marks(run: Path) -> list[dict[str, Any]]:
    """Marks as one run would have them that judged each target patient by the network of its fold.

    Source cases have the mean Dice of all folds. A mark stands at the largest work of the folds there: a step may
    overshoot it in one and not in another.

    Args:
        run: A run with a finished cross-validation.

    Raises:
        RunError: A file of a fold is damaged.
    """
    rows = _of_folds(run, read_marks, "dice", "update")
    keys = ["mark", "step", "domain", "case", "patient", "region"]
    means = rows.groupby(keys, sort=False, as_index=False).agg({"dice": "mean", "update": "first"})
    return [{str(name): value for name, value in row.items()} for row in means.to_dict("records")]


def cross_validated_timing(run: Path) -> list[dict[str, Any]]:
    """Rows of ``timing.csv`` to go with :func:`cross_validated_marks`: mean seconds of the folds up to each mark."""
    rows = _of_folds(run, read_timing, "seconds")
    means = rows.groupby("step", as_index=False)["seconds"].mean()
    return [{str(name): value for name, value in row.items()} for row in means.to_dict("records")]


def _of_folds(run: Path, read: Callable[[Path], list[dict[str, str]]], *numbers: str) -> pd.DataFrame:
    """The rows of a log of all folds, with the number of their mark, each at the largest work of the folds."""
    parts = [pd.DataFrame(read(folder)).astype({"step": int}) for folder in fold_runs(run)]
    rows = pd.concat([part.assign(mark=part["step"].rank(method="dense").astype(int)) for part in parts])
    values = {name: pd.to_numeric(rows[name]) for name in numbers}
    return rows.assign(step=rows.groupby("mark")["step"].transform("max"), **values)


def cross_validated_result(run: RunFolder) -> AdaptationResult:
    """Read a finished adaptation's result and print it, with what the networks of its folds gave."""
    result = adaptation_result(run)
    table = read_cross_validation(run.path)
    if table is None or result.cross_validated is None:
        return result
    print_table(
        f"Cross-validated by {result.cross_validated.folds} folds: Dice of each target patient before -> after, by a "
        "network that was not tuned on it" + ("   (SYNTHETIC phantoms)" if result.synthetic else ""),
        ["patient", "fold", *dict.fromkeys(table["region"])],
        [*_patients(table), *_means(table, result.cross_validated)],
    )
    return result


def _patients(table: pd.DataFrame) -> list[list[str]]:
    """Patient, fold, and Dice before and after of each region, a row for each target patient."""
    of_target = table[table["domain"] == "target"]
    return [
        [str(patient), str(fold), *(change(row["before"], row["after"]) for _, row in dice.iterrows())]
        for (fold, patient), dice in of_target.groupby(["fold", "patient"], sort=False)
    ]


def _means(table: pd.DataFrame, found: CrossValidation) -> list[list[str]]:
    """The mean of the target patients, and what the networks of the folds kept of the source."""
    rows = []
    for domain, title in (("target", "mean"), ("source", "source, mean of the folds' networks")):
        names = [f"dice/{domain}/{region}" for region in dict.fromkeys(table["region"])]
        if any(name in found.after for name in names):
            rows.append([title, "", *(change(found.before.get(name), found.after.get(name)) for name in names)])
    return rows
