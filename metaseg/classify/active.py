"""``metaseg classify active``: score, choose, label, fit, measure, round after round.

Every round is a function of the one before and the seed, and its choice, its labels and its metrics are written as
soon as they are known: a run that was killed repeats at most one fit, and continues to the same choices and metrics.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from metaseg.classify.acquire import ChosenSlices, PatchImages, check_strategy, choose
from metaseg.classify.annotator import Annotator, refuse_files_of_others, refuse_to_lose_labels
from metaseg.classify.data import Parts, phantoms_in_words
from metaseg.classify.fitting import classifier_card, fit_round, new_classifier, part_metrics, slice_probabilities
from metaseg.classify.rounds import (
    Round,
    RoundPatterns,
    budget_areas,
    curve_table,
    read_rounds,
    round_patterns,
    write_curve,
    write_round,
)
from metaseg.classify.slices import ClassifiedSlices
from metaseg.classify.train import begin_run, measure_test_part, open_parts
from metaseg.classify.uncertainty import RANKED_ROUND, SharedRanking, member_probabilities, uncertainty_list, write_list
from metaseg.config.classification import ClassifyActiveConfig
from metaseg.errors import UsageError, recorded_warnings
from metaseg.files import finite_metrics
from metaseg.models import Classifier, load_classifier, save_checkpoint
from metaseg.models.checkpoint import checkpoint_files
from metaseg.results import Result
from metaseg.runs.folder import RunFolder
from metaseg.runs.logs import EventLog
from metaseg.runs.session import Inputs, RunSession, run_session
from metaseg.sampling.scores import fraction_count, trim
from metaseg.terminal import Progress, progress


@dataclass(frozen=True)
class ActiveResult(Result):
    """What active learning leaves.

    Attributes:
        run: The run folder.
        curve: Metrics after each round, by part; see :func:`~metaseg.classify.rounds.curve_table`.
        area: Area under the budget curve of each metric on the test part.
        labels: Labels spent.
        waiting: The file whose labels the run waits for, or None.
    """

    run: Path
    curve: pd.DataFrame
    area: dict[str, float]
    labels: int
    waiting: Path | None = None

    def table(self) -> pd.DataFrame:
        """Metrics after each round, by part."""
        return self.curve


@dataclass(frozen=True)
class _Job:
    """Everything that is made before the run folder is touched."""

    inputs: Inputs
    parts: Parts
    fresh: Classifier
    sizes: Sizes
    shared: SharedRanking | None


@recorded_warnings()
def run_classify_active(config: ClassifyActiveConfig) -> ActiveResult:
    """Run active learning to its budget, or until an annotator is needed.

    Args:
        config: All settings; see :class:`~metaseg.config.classification.ClassifyActiveConfig`.

    Raises:
        DataError: The cases or the annotator's file cannot be used.
        UsageError: Settings contradict each other or the data.
        RunError: The run folder cannot be written or resumed.
        TrainingError: The loss became non-finite.
    """
    return run_session(
        config,
        lambda: _prepare(config),
        lambda session, job: _ActiveLearning(session, job).go(),
        lambda run: _result(run, config),
    )


def _prepare(config: ClassifyActiveConfig) -> _Job:
    if not config.data:
        print(f"No --data given: working on {phantoms_in_words(config)}, not on patients.")
    if config.transfer == "scratch" and config.weights != "none":
        raise UsageError(f"--transfer scratch with --weights {config.weights}", remedy="omit the weights")
    if config.ask is not None and not config.classes:
        raise UsageError("--ask without --classes", expected="the classes that an annotator may name")
    if not config.resume:
        refuse_to_lose_labels(config.out)
        if config.ask is not None:
            refuse_files_of_others(config.ask)
    inputs = Inputs.of(config)
    slices, parts = open_parts(config, inputs, annotator=config.ask is not None)
    if config.stop_at is not None and not len(parts.val):
        raise UsageError("--stop-at without a validation part", remedy="omit it, or give a split that has one")
    sizes = read_sizes(config, len(parts.train))
    network = new_classifier(config, slices, config.seed)
    check_strategy(config, network, sizes.initial)
    shared = SharedRanking.open(config, inputs) if sizes.budget > sizes.initial else None
    return _Job(inputs, parts, network, sizes, shared)


class _ActiveLearning:
    """The loop over rounds in one run folder."""

    def __init__(self, session: RunSession, job: _Job) -> None:
        self.session, self.job = session, job
        self.config, self.run, self.fabric = session.config, session.run, session.fabric
        self.pool = job.parts.train
        self.place = {name: place for place, name in enumerate(self.pool.ids)}
        self.labels = np.full(len(self.pool), -1, dtype=np.int64)
        self.rounds = read_rounds(self.run.path)
        for record in self.rounds:
            self._take_in(record)
        self.exhausted = False
        self.patches = PatchImages(self.config.patches, self.config.seed)
        self.card = classifier_card(self.config, job.fresh, self.pool)

    @property
    def done(self) -> list[Round]:
        """The rounds of which nothing is left to do."""
        return [record for record in self.rounds if record.done]

    def go(self) -> None:
        """All rounds that are left, or those until an annotator is waited for."""
        self._begin()
        done = self.done
        logged = len(done) + sum(len(values) for record in done for values in record.metrics.values())
        with EventLog(self.run, len(done) or None, logged) as log, progress("active learning", None) as bar:
            while not self._at_end():
                if self._round(log, bar):
                    self.run.state.set_status("stopped", f"waits for labels in {self.config.ask}")
                    return
        self._finish()

    def _begin(self) -> None:
        sizes = self.job.sizes
        print(
            f"{self.config.model}, {self.config.acquisition}: {sizes.initial} labels by chance, then "
            f"{sizes.batch} a round up to {sizes.budget} of {len(self.pool)} slices"
        )
        begin_run(self.session, self.job.inputs, self.job.parts)
        if self.done:
            # What a kill at the end of a round has left undone.
            self._forget_weights(self.done[-1].checkpoint)
            self._write_curve()

    def _at_end(self) -> bool:
        done = self.done
        if len(done) < len(self.rounds) or not done:
            return False
        if self.exhausted or done[-1].labelled >= self.job.sizes.budget or len(done) == self.config.rounds:
            return True
        reached = done[-1].metrics.get("val", {}).get(self.config.monitor)
        if self.config.stop_at is not None and reached is not None and reached >= self.config.stop_at:
            print(f"{self.config.monitor} on the validation part reached {reached:.3f}: enough")
            return True
        # Choosing among all slices, a round may bring nothing new: two in a row end the run.
        return len(done) > 2 and done[-1].labelled == done[-3].labelled

    def _round(self, log: EventLog, bar: Progress) -> bool:
        """Bring one round to its end; whether it has to wait for the annotator."""
        begun = time.monotonic()
        if not self.rounds and self.job.shared is not None:
            self._take_over(self.job.shared.first, log, bar)
            return False
        if len(self.done) == len(self.rounds):
            chosen = self._choose(len(self.rounds) + 1, bar)
            if not chosen.chosen:
                print("nothing is left of the ranking once its ends are dropped: the run ends here")
                self.exhausted = True
                return False
            self.rounds.append(chosen)
            write_round(self.run.path, chosen)
        if not self.rounds[-1].labels:
            labels = self._ask(self.rounds[-1])
            if labels is None:
                return True
            self._record(replace(self.rounds[-1], labels=tuple(labels.tolist())))
        record = self.rounds[-1]
        self._take_in(record)
        network = self._fit(record, bar)
        name = f"round-{record.number:03d}"
        save_checkpoint(self.run.checkpoints / name, network, replace(self.card, step=record.number))
        metrics = self._measure(network)
        measured = replace(
            record,
            metrics={part: finite_metrics(values) for part, values in metrics.items()},
            labelled=int(np.sum(self.labels >= 0)),
            checkpoint=name,
            seconds=round(time.monotonic() - begun, 3),
        )
        # What belongs to the round is logged before the round counts as done.
        self._show(measured, metrics, log, bar)
        log.sync()
        self._record(measured)
        self._write_curve()
        self._forget_weights(name)
        return False

    def _take_over(self, record: Round, log: EventLog, bar: Progress) -> None:
        """The round of another run whose ranking is taken, as if it had been done here."""
        self._take_in(record)
        metrics = {
            part: {name: math.nan if value is None else value for name, value in values.items()}
            for part, values in record.metrics.items()
        }
        self._show(record, metrics, log, bar)
        log.sync()
        self.rounds.append(record)
        write_round(self.run.path, record)
        self._write_curve()

    def _record(self, record: Round) -> None:
        self.rounds[-1] = record
        write_round(self.run.path, record)

    def _choose(self, number: int, bar: Progress) -> Round:
        sizes, known, config = self.job.sizes, self.labels >= 0, self.config
        left = sizes.budget - int(known.sum())
        count = sizes.batch
        if number == 1 and sizes.initial > 0:
            count = sizes.initial
            config = replace(config, acquisition="random", drop_top=0, drop_bottom=0, draw="top", rank="pool")
        ranks_all = config.rank == "all"
        candidates = np.arange(len(self.pool)) if ranks_all else np.flatnonzero(~known)
        choice = choose(
            config,
            self._current,
            self.pool.take(candidates),
            self._labelled(known),
            min(count, len(candidates) if ranks_all else left),
            (config.seed, 4, number),
            lambda slices: self._committee(slices, number, bar),
            self.patches,
        )
        places = candidates[choice.positions]
        paid = within_budget(places, known, left)
        if "committee" in choice.outputs:
            self._write_list(number, candidates, choice, paid)
        names = tuple(self.pool.ids[place] for place in places[paid])
        scores = tuple(float(score) if math.isfinite(score) else None for score in choice.scores[paid])
        return Round(number, names, scores, patterns=self._patterns(choice, candidates))

    def _patterns(self, choice: ChosenSlices, candidates: np.ndarray) -> RoundPatterns | None:
        """For the record alone: where labels are those of the data set, it also tells those that nobody asked for."""
        if "patches" not in choice.outputs:
            return None
        ranked = self.pool.take(candidates)
        labels = None if self.config.ask is not None else ranked.labels.tolist()
        return round_patterns(choice.outputs["patches"], choice.rest, ranked.ids, labels)

    def _places(self, record: Round) -> np.ndarray:
        return np.array([self.place[name] for name in record.chosen])

    def _ask(self, record: Round) -> np.ndarray | None:
        """The labels of a round's slices, ``(n,)``; None if the annotator was asked only now."""
        places = self._places(record)
        if self.config.ask is None:
            return self.pool.labels[places]
        labels = self.labels[places]
        new = labels < 0
        if new.any():
            scores = np.array([math.nan if score is None else score for score in record.scores])[new].tolist()
            before = {name for earlier in self.rounds[:-1] for name in earlier.chosen}
            wanted = self.pool.take(places[new])
            annotator = Annotator(self.config.ask, self.run.state)
            answers = annotator.labels(record.number, wanted, scores, before)
            if answers is None:
                print(f"{len(wanted)} slices to label are in {self.config.ask}: fill its column 'label'")
                print(f"then: metaseg classify active --out {self.run.path} --resume")
                return None
            labels[new] = answers
        return labels

    def _take_in(self, record: Round) -> None:
        for name, label in zip(record.chosen, record.labels, strict=False):
            self.labels[self.place[name]] = label

    def _labelled(self, chosen: np.ndarray) -> ClassifiedSlices:
        return self.pool.with_labels(self.labels).take(np.flatnonzero(chosen))

    def _fresh(self) -> Classifier:
        return copy.deepcopy(self.job.fresh).to(self.fabric.device)

    def _current(self) -> Classifier:
        """The network after the last round, or the one that all begins with."""
        done = self.done
        if not done:
            return self._fresh()
        file = self.run.checkpoints / done[-1].checkpoint
        # A run that was killed at its very end has its last weights under their last name.
        file = file if checkpoint_files(file)[0].exists() else self.run.checkpoints / "last"
        return load_classifier(file)[0].to(self.fabric.device)

    def _fit(self, record: Round, bar: Progress) -> Classifier:
        taught = self.labels >= 0
        if self.config.fit_on == "chosen":
            taught = np.zeros(len(self.labels), dtype=bool)
            taught[self._places(record)] = True
        begins = record.number == 1 or self.config.fit == "reset"
        network = self._fresh() if begins else self._current()
        return self._fitted(network, taught, record.number, bar, first=begins)

    def _committee(self, slices: ClassifiedSlices, number: int, bar: Progress) -> np.ndarray:
        """What members say that began alike and learned at different rates (Hao et al. 2021)."""
        if self.job.shared is not None and number == RANKED_ROUND:
            return member_probabilities(self.job.shared.path, slices)
        members = (
            self._fitted(self._fresh(), self.labels >= 0, number, bar, first=True, rate=rate)
            for rate in self.config.committee_rates
        )
        return np.stack([slice_probabilities(member, slices) for member in members])

    def _write_list(self, number: int, candidates: np.ndarray, choice: ChosenSlices, paid: np.ndarray) -> None:
        table = uncertainty_list(
            self.pool.take(candidates),
            choice.outputs["committee"],
            choice.ranking,
            self.labels[candidates] >= 0,
            choice.positions[paid],
        )
        title = f"uncertainty of {len(table)} slices before round {number}, {self.config.model}"
        write_list(self.run.path, number, table, title, self.pool.store.synthetic)

    def _fitted(
        self,
        network: Classifier,
        taught: np.ndarray,
        number: int,
        bar: Progress,
        *,
        first: bool,
        rate: float | None = None,
    ) -> Classifier:
        seed = self.config.seed * 1000 + number
        slices, val = self._labelled(taught), self.job.parts.val
        return fit_round(network, slices, val, self.config, self.fabric, bar, first=first, seed=seed, rate=rate)

    def _measure(self, network: Classifier) -> dict[str, dict[str, float]]:
        parts = {"test": self.job.parts.test, "val": self.job.parts.val}
        if self.config.ask is None:
            parts["pool"] = self.pool.take(np.flatnonzero(self.labels < 0))
        named = {part: part_metrics(network, slices, part) for part, slices in parts.items() if len(slices)}
        return {
            part: {name.partition("/")[0]: value for name, value in metrics.items()} for part, metrics in named.items()
        }

    def _forget_weights(self, keep: str = "") -> None:
        for file in self.run.checkpoints.glob("round-*"):
            if file.stem != keep:
                file.unlink()

    def _write_curve(self) -> None:
        table = curve_table(self.done, self.pool.classes)
        title = f"{self.config.acquisition}, {self.config.model}"
        write_curve(self.run.path, table, self.config.monitor, title, self.pool.store.synthetic)

    def _show(self, record: Round, metrics: Mapping[str, Mapping[str, float]], log: EventLog, bar: Progress) -> None:
        named = {f"{name}/{part}": value for part, values in metrics.items() for name, value in values.items()}
        log.scalars({"labels": float(record.labelled), **named}, step=record.number)
        shown = metrics.get("test") or metrics.get("val") or {}
        text = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
        bar.note(f"round {record.number}: {record.labelled} labels  {text}")

    def _finish(self) -> None:
        network, test = self._current(), self.job.parts.test
        save_checkpoint(self.run.checkpoints / "last", network, replace(self.card, step=len(self.rounds)))
        self._forget_weights()
        metrics = measure_test_part(self.run, network, test, self.config.seed) if len(test) else {}
        area = budget_areas(curve_table(self.rounds, self.pool.classes), "test") if len(test) else {}
        result = {
            "metrics": finite_metrics(metrics),
            "area_under_budget_curve": finite_metrics(area),
            "labels": self.rounds[-1].labelled,
            "rounds": len(self.rounds),
            "classes": list(self.pool.classes),
            "pool": {} if self.config.ask is not None else self.pool.counts(),
        }
        self.session.finish(result, metrics)
        print(f"run: {self.run.path}")
        for name, value in metrics.items():
            print(f"  {name} {value:.3f} with {self.rounds[-1].labelled} labels")


@dataclass(frozen=True)
class _Content:
    """What :func:`_result` counts on in ``result.json``."""

    classes: list[str]


def _result(run: RunFolder, config: ClassifyActiveConfig) -> ActiveResult:
    rounds = [record for record in read_rounds(run.path) if record.done]
    # A run that waits for an annotator was told the classes.
    classes = run.read_json("result.json", _Content).classes if run.finished else config.classes
    table = curve_table(rounds, classes)
    labels = rounds[-1].labelled if rounds else 0
    return ActiveResult(run.path, table, budget_areas(table, "test"), labels, None if run.finished else config.ask)


@dataclass(frozen=True)
class Sizes:
    """Numbers of slices.

    Attributes:
        initial: Labelled by chance before the first choice.
        batch: Chosen in each round.
        budget: Labels in all.
    """

    initial: int
    batch: int
    budget: int


def read_sizes(config: ClassifyActiveConfig, total: int) -> Sizes:
    """The sizes that settings name, for a pool of ``total`` slices.

    Raises:
        UsageError: A number is not whole, a fraction is of no slice, or the ends that are dropped leave nothing.
    """
    initial = _number(config.initial, total, "initial")
    batch, budget = _number(config.batch, total, "batch"), _number(config.budget, total, "budget")
    if not len(trim(np.arange(total), config.drop_top, config.drop_bottom)):
        raise UsageError(
            f"--drop-top {config.drop_top:g} and --drop-bottom {config.drop_bottom:g} leave nothing of {total} slices",
            expected="fractions that leave something to choose from",
        )
    return Sizes(min(initial, total), batch, min(budget, total))


def _number(value: float, total: int, name: str) -> int:
    """A number of slices, or a fraction of them."""
    if value > 1 and value != int(value):
        raise UsageError(f"--{name} {value:g}", expected="a whole number of slices, or a fraction up to 1")
    # 1 is one slice for the sizes of rounds, and everything for the budget.
    number = fraction_count(total, value) if value < 1 or (value == 1 and name == "budget") else int(value)
    if value and not number:
        raise UsageError(f"--{name} {value:g} of {total} slices is none", expected="at least one slice")
    return number


def within_budget(positions: np.ndarray, known: np.ndarray, left: int) -> np.ndarray:
    """Which of the chosen slices the budget pays for, as truth values.

    Args:
        positions: What was chosen, the first choice first.
        known: Whether each slice of the pool is labelled; such slices cost nothing.
        left: Labels that may still be spent.
    """
    new = ~known[positions]
    return ~new | (np.cumsum(new) <= left)
