"""The choice of settings that ``--effort`` makes: on the shots, and on validation patients of the source.

The method's stages are gone through one after the other (:class:`~metaseg.adapt.methods.registry.Stage`). Every value
is tried by tuning without some of the shots, which then judge the target, as patients of the source that the pretrained
network was not trained on judge what is forgotten. Of each of these networks several fractions of the way from the
pretrained weights are looked at, which takes no training. The value with the highest mean of target and source Dice
stands while the next stage is tried: short tunings forget more than long ones, so that a bound on what is forgotten
would take the most timid.

Then the network of the run is tuned on all shots, and the fraction of the way that is kept is chosen by a bound on what
*this* network forgets (:func:`best_row`).
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from metaseg.adapt.folds import Tune, divide_shots, hold_out, tune_inside
from metaseg.adapt.methods.naive import Interpolation
from metaseg.adapt.methods.registry import WAY_BACK, chosen_settings, resolve_defaults, stages_of
from metaseg.adapt.setup import AdaptationResult, AdaptationSetup, Shot
from metaseg.adapt.watch import begin_session, read_timing
from metaseg.errors import TrainingError, UsageError
from metaseg.files import FileKind, finite_metrics, read_frame, write_text
from metaseg.inference.predictor import Predictor
from metaseg.models.processes import distributed_map, is_first
from metaseg.runs.folder import RunFolder
from metaseg.runs.networks import load_network
from metaseg.runs.session import RESULT_NAME, RunSession
from metaseg.store.store import SliceStore
from metaseg.store.stored_case import StoredCase
from metaseg.terminal import Progress, duration, print_line, progress, quiet

FOLDER, TABLE_NAME, WAYS_NAME = "choice", "choice.csv", "ways.csv"
WAYS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Fractions of the way from the pretrained to the tuned weights that are looked at."""
MOST_SLICES = 32
"""Slices by which a case judges, evenly over its outlined ones: whole scans would take longer than the tuning."""
WAYS_COLUMNS = ["interpolation", "domain", "case", "region", "before", "after"]
WAYS_KIND = FileKind("the metrics of a trial", "delete its folder and continue the run with --resume")
PROBE = 24
"""Slice gradients of the tuning by which the time is told."""
METRICS = ("target", "source", "forgotten")


@dataclass(frozen=True)
class Effort:
    """What a word of ``--effort`` stands for.

    Attributes:
        folds: Folds over the shots; fewer where there are fewer shots.
        fraction: Budget of a trial's tuning, as a fraction of the run's.
    """

    folds: int
    fraction: float


EFFORTS: Mapping[str, Effort] = {
    "quick": Effort(2, 0.2),
    "normal": Effort(5, 0.4),
    "thorough": Effort(5, 1.0),
}


def choose_and_tune(session: RunSession, setup: AdaptationSetup, tune: Tune, *, inherits: bool = True) -> None:
    """Do an adaptation in its run folder, with the settings that ``effort`` chooses where it is not ``none``.

    Args:
        session: Of the run.
        setup: Network, all shots, and what is watched.
        tune: The verb's work.
        inherits: As for :class:`~metaseg.adapt.watch.Watch`.
    """
    if chosen_settings(session.config):
        begin_session(session, setup, inherits=inherits)
        choice = Choice(session, setup, tune, inherits=inherits)
        values = choice.make()
        session = copy.copy(session)
        session.config = resolve_defaults(replace(session.config, effort="none", **values))
        if len(choice.ways) > 1:
            setup = replace(setup, way_back=choice.keep)
    tune(session, setup)


def judged_parts(setup: AdaptationSetup, folds: int) -> list[AdaptationSetup]:
    """Setups without some of the shots' slices, judged by these and by the source's validation patients.

    Patients are left out; where there are one or two, slices of each in turn.

    Args:
        setup: The whole one.
        folds: How many, at most one for each shot (or slice).
    """
    if len(setup.shots) > 2:
        parts = divide_shots(len(setup.shots), min(folds, len(setup.shots)))
        made = [hold_out(setup, part) for part in parts]
        made = [replace(part, target=SliceStore(tuple(map(thinned, part.target)))) for part in made]
    else:
        folds = min(folds, *(len(shot.slices) for shot in setup.shots))
        made = [_without_slices(setup, number, folds) for number in range(folds)]
    source = SliceStore(tuple(map(thinned, setup.choosers)))
    return [replace(part, source=source, source_cases=_rehearsed(setup)) for part in made]


def _without_slices(setup: AdaptationSetup, number: int, folds: int) -> AdaptationSetup:
    """Every so many slices of each shot are held out."""
    held_out = hold_out(setup, ())
    shots = tuple(Shot(shot.case, np.delete(shot.slices, np.s_[number::folds])) for shot in setup.shots)
    judged = tuple(shot.case.judged_by(shot.slices[number::folds]) for shot in setup.shots)
    return replace(held_out, shots=shots, target=SliceStore(judged))


def _rehearsed(setup: AdaptationSetup) -> SliceStore:
    """The source cases that are drawn from, without those that judge."""
    judges = {case.patient for case in setup.choosers}
    return SliceStore(tuple(case for case in setup.source_cases if case.patient not in judges))


def thinned(case: StoredCase) -> StoredCase:
    """The case as judged by so many of its outlined slices at most."""
    outlined = case.outlined
    if len(outlined) <= MOST_SLICES:
        return case
    return case.judged_by(outlined[np.linspace(0, len(outlined) - 1, MOST_SLICES).round().astype(int)])


def best_row(table: pd.DataFrame, forget_at_most: float, *, balance: bool = False) -> int:
    """The row of a table that the rule takes, of equal ones the first.

    Args:
        table: Columns ``target`` and ``source``, mean Dice in [0, 1] after tuning, and ``forgotten``, what the source
            has lost; the latter two are NaN where no source patient judges.
        forget_at_most: Bound on ``forgotten``. Where no row keeps it, the one that forgets least is taken.
        balance: Take the highest mean of target and source Dice instead.

    Returns:
        The place of the row, from 0.

    Raises:
        ValueError: No row has a target Dice.

    Examples:
        >>> table = pd.DataFrame({"target": [0.5, 0.7, 0.8], "source": [0.6, 0.56, 0.3], "forgotten": [0, 0.04, 0.3]})
        >>> best_row(table, 0.05), best_row(table, 0.5), best_row(table, 0.05, balance=True)
        (1, 2, 1)
    """
    known = table["target"].notna()
    if not known.any():
        raise ValueError("no row has a target Dice")
    unjudged = bool(table.loc[known, "forgotten"].isna().all())
    if unjudged or balance:
        score = table["target"] if unjudged else (table["target"] + table["source"]) / 2
    elif (kept := known & (table["forgotten"] <= forget_at_most)).any():
        score = table["target"].where(kept)
    else:
        score = -table["forgotten"].where(known)
    return int(np.nanargmax(score.to_numpy(float)))


@dataclass
class Choice:
    """A choice that is being made.

    Args:
        session: Of the run.
        setup: Network and all shots.
        tune: The verb's work.
        inherits: Whether tuned weights descend from the pretrained ones, so that there is a way back.

    Raises:
        UsageError: The network has seen all patients of the shots.
    """

    session: RunSession
    setup: AdaptationSetup
    tune: Tune
    inherits: bool = True

    def __post_init__(self) -> None:
        config: Any = self.session.config
        self.config, self.open = config, chosen_settings(config)
        effort = EFFORTS[config.effort]
        self.parts = judged_parts(self.setup, effort.folds)
        if not any(len(part.target) for part in self.parts):
            raise UsageError(
                "the network was trained on all patients of the shots: none of them can judge a choice",
                expected="shots of patients whom the pretraining did not see",
                remedy="give the settings and --effort none, or pretrain without these patients",
            )
        self.budget = max(PROBE, round(config.budget * effort.fraction))
        self.ways = WAYS if WAY_BACK in self.open and self.inherits else (config.interpolation or 1.0,)
        self.rows: list[dict[str, Any]] = []
        # A copy: the network of the setup is tuned in place.
        self.pretrained = copy.deepcopy(self.setup.network.model)

    def make(self) -> dict[str, Any]:
        """Try all stages, write ``choice.csv`` and say what was chosen.

        Returns:
            The settings to tune with, by name, but for the way back.

        Raises:
            TrainingError: Every trial diverged.
        """
        stages = list(stages_of(self.config))
        trials = 1 + sum(len(stage.values) - 1 for stage in stages)
        self._announce(trials)
        best: dict[str, Any] = {name: value for stage in stages for name, value in stage.values[0].items()}
        with progress("choosing (tunings)", trials * len(self.parts)) as bar:
            self._try("defaults", best, bar)
            for stage in stages:
                for values in stage.values[1:]:
                    self._try(stage.title, {**best, **values}, bar)
                best = {name: self._taken()[name] for name in best}
        self._write_down(best, trials)
        return best

    def keep(self, tuned: nn.Module) -> nn.Module:
        """The network to keep of a tuned one, somewhere on the way from the pretrained weights; enters which."""
        judged = replace(self.parts[0], target=SliceStore(()))
        kept = {way: Interpolation(self.pretrained, way)(tuned) for way in self.ways}
        source = [_mean(self._dice(network, judged)) for network in kept.values()]
        trial = self._trial(self._taken()["trial"])
        before = float(trial["source"].iloc[0] + trial["forgotten"].iloc[0])
        table = pd.DataFrame({"target": trial["target"].to_numpy(), "source": source}, index=list(kept))
        table["forgotten"] = before - table["source"]
        taken = best_row(table, self.config.forget_at_most, balance=self.config.balance)
        way, row = table.index[taken], table.iloc[taken]
        self.session.also["choice"] |= {
            "way_back": {WAY_BACK: way, **finite_metrics(row.to_dict()), "why": self._why(row)},
            "ways": [{WAY_BACK: name, **finite_metrics(row)} for name, row in table.to_dict("index").items()],
        }
        return kept[way]

    def _announce(self, trials: int) -> None:
        """Say what will be done, and about how long it will take."""
        judges = len(self.setup.choosers)
        work = trials * len(self.parts) * self.budget
        told = f"{judges} cases of the source" if judges else "none of the source: what is forgotten is not known"
        left_out = "patients" if len(self.setup.shots) > 2 else "slices"
        seconds = self._time(trials)
        self.session.record(seconds_told=round(seconds, 1))
        print_line(
            f"effort {self.config.effort}: {trials} settings by {len(self.parts)} folds over the shots' {left_out} and "
            f"{told}; {work} slice gradients, then {self.config.budget} to tune; about {duration(seconds)}"
        )

    def _time(self, trials: int) -> float:
        """Seconds that all will take, from a tuning with a few slices."""
        name, start = f"{FOLDER}/probe", time.perf_counter()
        with quiet():
            tune_inside(self.session, name, self._settings({}, PROBE), self._untuned(self.parts[0]), self.tune)
        whole = time.perf_counter() - start
        fit = max((float(row["seconds"] or 0) for row in read_timing(self.session.run.path / name)), default=0.0)
        marks = max(0.0, whole - fit) / 2 * (2 + len(self.ways))
        seconds = trials * len(self.parts) * (fit / PROBE * self.budget + marks) + fit / PROBE * self.config.budget
        self.session.fabric.barrier()
        if is_first(self.session.fabric):
            shutil.rmtree(self.session.run.path / name, ignore_errors=True)
        return float(self.session.fabric.broadcast(seconds))

    def _settings(self, values: Mapping[str, Any], budget: int) -> Any:
        changed = {"effort": "none", "budget": budget, "marks": 1, "first_marks": 0, "pictures": False, "gate": False}
        way = 1.0 if len(self.ways) > 1 else self.ways[0]
        return resolve_defaults(replace(self.config, **changed, **{WAY_BACK: way}, **values))

    def _untuned(self, part: AdaptationSetup) -> AdaptationSetup:
        """The part with a pretrained network of its own, since that is tuned in place."""
        return replace(part, network=replace(part.network, model=copy.deepcopy(self.pretrained)))

    def _try(self, stage: str, values: Mapping[str, Any], bar: Progress) -> None:
        """Tune with some settings in every fold, and enter a row for each fraction of the way."""
        trial = 1 + max((row["trial"] for row in self.rows), default=-1)
        tables = []
        for fold, part in enumerate(self.parts):
            tables.append(self._fold(f"{FOLDER}/trial-{trial}/fold-{fold}", values, part))
            bar.advance(1)
        for way in self.ways:
            found = [table[table["interpolation"] == way] for table in tables]
            self.rows.append({"trial": trial, "stage": stage, **values, WAY_BACK: way, **_means(found)})

    def _fold(self, name: str, values: Mapping[str, Any], part: AdaptationSetup) -> pd.DataFrame:
        """Dice of the judges before and after, for each fraction of the way; none where the tuning diverged."""
        folder, fabric = self.session.run.path / name, self.session.fabric
        if not fabric.broadcast((folder / WAYS_NAME).exists()):
            try:
                with quiet():
                    settings = self._settings(values, self.budget)
                    marks = tune_inside(self.session, name, settings, self._untuned(part), self.tune)
            except TrainingError as error:
                print_line(f"{name}: {error.found}: these settings are passed over")
                return pd.DataFrame(columns=WAYS_COLUMNS)
            self._walk(folder, marks, part)
        fabric.barrier()
        return read_frame(folder / WAYS_NAME, WAYS_KIND, WAYS_COLUMNS[1:4], (), ("interpolation", "before", "after"))

    def _walk(self, folder: Path, marks: pd.DataFrame, part: AdaptationSetup) -> None:
        """Write ``ways.csv`` of a finished trial, whose weights are then no longer needed."""
        before = marks[marks["step"] == 0].set_index(["domain", "case", "region"])["dice"]
        tuned = load_network(folder, "last").model
        ways = self.ways if len(self.ways) > 1 else (1.0,)
        rows = [
            {"interpolation": shown, **row, "before": before[row["domain"], row["case"], row["region"]]}
            for way, shown in zip(ways, self.ways, strict=True)
            for row in self._dice(Interpolation(self.pretrained, way)(tuned), part)
        ]
        if is_first(self.session.fabric):
            write_text(folder / WAYS_NAME, pd.DataFrame(rows, columns=WAYS_COLUMNS).to_csv(index=False))
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    def _dice(self, network: nn.Module, part: AdaptationSetup) -> list[dict[str, Any]]:
        """Dice of each region of the cases that judge a part."""
        fabric = self.session.fabric
        predictor = Predictor(fabric.to_device(network), part.modalities, part.space, autocast=fabric.autocast)
        return [
            {"domain": domain, "case": case.id, "region": region, "after": dice}
            for domain, store in (("target", part.target), ("source", part.source))
            for case, row in zip(store, distributed_map(fabric, predictor.dice, store.cases), strict=True)
            for region, dice in row.items()
        ]

    def _trial(self, number: int) -> pd.DataFrame:
        """The rows of a trial, in the order of the ways."""
        return pd.DataFrame([row for row in self.rows if row["trial"] == number])

    def _taken(self) -> dict[str, Any]:
        """The best row so far: the highest mean of target and source Dice, of equal ones the first."""
        table = pd.DataFrame(self.rows)
        if table["target"].isna().all():
            raise TrainingError(
                "every tuning of the choice diverged",
                expected="a finite loss with one of the tried rates",
                remedy="give a lower --learning-rate, or leave the choice out with --effort none",
            )
        return self.rows[best_row(table, 0.0, balance=True)]

    def _write_down(self, values: Mapping[str, Any], trials: int) -> None:
        """Enter into table and result what was tried and taken, and say it."""
        taken, first = self._taken(), self._trial(0)
        if is_first(self.session.fabric):
            table = pd.DataFrame(self.rows).assign(chosen=[row["trial"] == taken["trial"] for row in self.rows])
            write_text(self.session.run.path / TABLE_NAME, table.to_csv(index=False))
        work = trials * len(self.parts) * self.budget
        metrics = {name: taken[name] for name in METRICS}
        self.session.also["choice"] = {"settings": dict(values), **finite_metrics(metrics), "slice_gradients": work}
        default = first.iloc[best_row(first, 0.0, balance=True)] if first["target"].notna().any() else None
        told = "" if default is None else f" (defaults: {default['target']:.3f}, {default['source']:.3f})"
        print_line(
            f"chosen: {settings_text(values)}: target Dice {taken['target']:.3f}, source {taken['source']:.3f}{told}"
        )

    def _why(self, taken: Mapping[str, Any]) -> str:
        """The rule by which a fraction of the way was kept."""
        bound = self.config.forget_at_most
        if np.isnan(taken["forgotten"]):
            return "highest target Dice, since no source patient judges"
        if self.config.balance:
            return "highest mean of target and source Dice"
        if taken["forgotten"] <= bound:
            return f"highest target Dice that forgets at most {bound:g}"
        return f"all forget more than {bound:g}, this least"


def read_trials(run: Path) -> pd.DataFrame | None:
    """What a run tried, a row for each trial at its best fraction of the way; None where the run chose nothing.

    Returns:
        Columns ``trial``, ``stage``, ``settings`` in words, ``interpolation``, ``target``, ``source``, ``forgotten``
        (NaN where a trial diverged) and ``chosen``.

    Raises:
        RunError: The table is damaged.
    """
    file = run / TABLE_NAME
    if not file.exists():
        return None
    kind = FileKind("what a metaseg run tried", "continue the run with --resume, or start it again")
    table = read_frame(file, kind, ("stage", "chosen"), ("trial",), (WAY_BACK, *METRICS))
    names = [name for name in table.columns if name not in {"trial", "stage", "chosen", WAY_BACK, *METRICS}]
    # Of a trial that diverged, any row.
    best = [
        rows.iloc[best_row(rows, 0.0, balance=True) if rows["target"].notna().any() else 0]
        for _, rows in table.groupby("trial", sort=False)
    ]
    shown = pd.DataFrame(best).reset_index(drop=True)
    settings = [settings_text(row) for row in shown[names].to_dict("records")]
    return shown.assign(settings=settings, chosen=shown["chosen"] == "True").drop(columns=names)


def read_choice(run: Path) -> dict[str, Any] | None:
    """What a finished run chose, as :attr:`~metaseg.adapt.setup.AdaptationResult.choice`; None of any other run.

    Raises:
        RunError: The result is damaged.
    """
    if not (run / RESULT_NAME).exists():
        return None
    result: AdaptationResult = RunFolder.open(run).read_json(RESULT_NAME, AdaptationResult)
    return result.choice


def settings_text(values: Mapping[str, Any]) -> str:
    """Settings in one line."""
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "the defaults"


def _mean(rows: Sequence[Mapping[str, Any]]) -> float:
    """Mean over regions of the mean over cases, without what is empty in label and prediction; NaN of none."""
    return float(pd.DataFrame(rows).groupby("region")["after"].mean().mean()) if rows else float("nan")


def _means(tables: Sequence[pd.DataFrame]) -> dict[str, float]:
    """Mean Dice over folds, cases and regions, without what is empty in label and prediction."""
    if any(part.empty for part in tables):
        return dict.fromkeys(METRICS, float("nan"))
    by_region = pd.concat(tables).groupby(["domain", "region"])[["before", "after"]].mean().groupby("domain").mean()
    target, source = (by_region.reindex([domain]).iloc[0] for domain in ("target", "source"))
    return {
        "target": float(target["after"]),
        "source": float(source["after"]),
        "forgotten": float(source["before"] - source["after"]),
    }
