"""Watching an adaptation: Dice on target and source at marks of the budget, its logs and its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metaseg.adapt.setup import AdaptationSetup, draw_slices
from metaseg.errors import UsageError
from metaseg.files import finite_metrics
from metaseg.inference.gate import Gate, GatedPredictor, WatchedDecision, gate_features
from metaseg.inference.predictor import Predictor, mean_dice
from metaseg.models.checkpoint import checkpoint_files, keep_checkpoint, load_checkpoint, save_checkpoint
from metaseg.models.processes import distributed_map, is_first
from metaseg.pictures.charts import write_progress_plot
from metaseg.runs.logs import CsvLog, EventLog, SelectionLog, read_log
from metaseg.runs.networks import SOURCE, inherited_rows
from metaseg.runs.session import RunSession
from metaseg.terminal import progress
from metaseg.training.fitted_run import log_overlay

MARKS_NAME, MARKS_COLUMNS = "marks.csv", ("step", "update", "domain", "case", "patient", "region", "dice")
TIMING_NAME, TIMING_COLUMNS = "timing.csv", ("step", "seconds")


def read_marks(run: Path) -> list[dict[str, str]]:
    """Rows of a run's ``marks.csv``; none if there is no such file, and no ``update`` in those of earlier versions.

    Raises:
        RunError: The file is damaged.
    """
    return read_log(run / MARKS_NAME, ("domain", "case", "patient", "region"), ("step",), ("dice",), ("update",))


def read_timing(run: Path) -> list[dict[str, str]]:
    """Rows of a run's ``timing.csv``, as :func:`read_marks` reads marks."""
    return read_log(run / TIMING_NAME, (), ("step",), ("seconds",))


def begin_session(session: RunSession, setup: AdaptationSetup, *, inherits: bool = True) -> None:
    """Write down what an adaptation is made from, unless the session has done so.

    Args:
        session: The run's.
        setup: What is adapted.
        inherits: Whether the weights that are written descend from the pretrained ones.
    """
    network = setup.network
    session.begin(
        setup.inputs,
        {
            "train": [shot.case for shot in setup.shots],
            "target": setup.target,
            "source": setup.source,
            **({} if session.config.effort in (None, "none") else {"val": setup.choosers}),
        },
        inherited_rows(network.trained_patients, known=network.patients_known) if inherits else [],
        fingerprint=setup.fingerprint,
        synthetic=setup.synthetic,
        parent=_parent(setup),
    )


def _parent(setup: AdaptationSetup) -> str:
    return str(setup.network.run or setup.network.checkpoint)


class Watch:
    """Logs, metrics and checkpoints of one adaptation; a context manager.

    The horizontal axis of everything is the work spent, in slice gradient evaluations, so that curves of methods
    whose steps cost differently can be laid over each other.

    Args:
        session: The run's.
        setup: What is adapted.
        spent: Work done by the training state that the run continues from; None for a run that begins.
        rows: Rows that the tables had then, as :meth:`sync` gave them.
        inherits: Whether the weights that are written descend from the pretrained ones.
    """

    def __init__(
        self,
        session: RunSession,
        setup: AdaptationSetup,
        spent: int | None = None,
        rows: Mapping[str, int] | None = None,
        *,
        inherits: bool = True,
    ) -> None:
        self.session, self.setup, self.inherits = session, setup, inherits
        self.run, self.config, self.fabric = session.run, session.config, session.fabric
        run, rows = session.run, rows or {}
        self.log = EventLog(run, spent, rows.get("metrics"))
        self.selection = SelectionLog(run, spent, rows.get("selection"))
        self.marks = CsvLog(run.path / MARKS_NAME, MARKS_COLUMNS, spent, rows.get("marks"))
        # Times have a file of their own: all others are the same whether or not a run was interrupted.
        self.timing = CsvLog(run.path / TIMING_NAME, TIMING_COLUMNS, spent, rows.get("timing"))
        self.seconds = max((float(row["seconds"] or 0) for row in read_timing(run.path)), default=0.0)
        self._started = self._clock()
        self.shown: dict[str, float] = {}
        self._bar_context = progress(f"{run.verb} (slice gradients)", self.config.budget - (spent or 0))

    def __enter__(self) -> Watch:
        begin_session(self.session, self.setup, inherits=self.inherits)
        self.bar = self._bar_context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar_context.__exit__(*error)
        for log in (self.log, self.selection, self.marks, self.timing):
            log.close()

    def advance(self, cost: int, **values: float) -> None:
        """Count work as done and show metrics."""
        self.bar.advance(cost, **(self.shown | values))

    def note(self, text: str) -> None:
        """Print a line beside the bar."""
        self.bar.note(text)

    def record(self, text: str, **values: Any) -> None:
        """Print a line, and enter what it says into the manifest.

        Args:
            text: The line.
            values: JSON values by their name in the session's entry of the manifest.
        """
        self.note(text)
        self.session.record(**values)

    def mark(self, model: nn.Module, spent: int, update: int) -> dict[str, float]:
        """Evaluate the watched cases and log the metrics; the time that this takes is not counted as work.

        Args:
            model: The network as it stands.
            spent: Work done, in slice gradient evaluations.
            update: Updates of the network's parameters so far.

        Returns:
            ``dice/target/ET`` and the like.
        """
        with self.uncounted():
            self.timing.append([{"step": spent, "seconds": self.seconds}])
            return self._evaluate(model, spent, update)

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Around what is no work of the method: its time does not enter ``timing.csv``."""
        self.seconds += self._clock() - self._started
        yield
        self._started = self._clock()

    def _evaluate(self, model: nn.Module, spent: int, update: int) -> dict[str, float]:
        metrics: dict[str, float] = {}
        setup = self.setup
        predictor = Predictor(model, setup.modalities, setup.space, autocast=self.fabric.autocast)
        for domain, store in (("target", self.setup.target), ("source", self.setup.source)):
            rows = distributed_map(self.fabric, predictor.dice, store.cases)
            metrics |= {f"dice/{domain}/{region}": value for region, value in mean_dice(rows).items()}
            self.marks.append(
                [
                    {"step": spent, "update": update, "domain": domain, "case": case.id, "patient": case.patient}
                    | {"region": region, "dice": dice}
                    for case, row in zip(store, rows, strict=True)
                    for region, dice in row.items()
                ]
            )
            if rows and self.config.pictures:
                log_overlay(self.log, domain, predictor, store.cases[0], spent)
        self.log.scalars(metrics, step=spent)
        self.shown = {name.replace("dice/", "").replace("/", " "): value for name, value in metrics.items()}
        self.bar.show(**self.shown)
        if self.config.pictures:
            write_progress_plot(self.run.path, synthetic=self.setup.synthetic)
        return metrics

    def sync(self) -> dict[str, int]:
        """Bring the tables to the disk, before a training state is saved; gives the rows of each, for that state."""
        return {
            "metrics": self.log.sync(),
            "selection": self.selection.sync(),
            "marks": self.marks.sync(),
            "timing": self.timing.sync(),
        }

    def _clock(self) -> float:
        """Seconds of work: of the process on a CPU, where neighbours would spoil the wall clock, else of the wall."""
        if self.fabric.device.type == "cpu":
            return time.process_time()
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize(self.fabric.device)
        return time.perf_counter()

    def save(self, model: nn.Module, spent: int) -> None:
        """Write the network as the run's last checkpoint, and keep the one that it was tuned from beside it."""
        card = self.setup.network.card
        past = card.trained_on if self.inherits else ()
        cohorts = sorted({shot.case.cohort for shot in self.setup.shots} - set(past))
        card = replace(
            card,
            trained_on=(*past, *cohorts),
            synthetic=self.setup.synthetic,
            step=spent,
            metrics={},
            parent=_parent(self.setup),
        )
        save_checkpoint(self.run.checkpoints / "last", model, card)
        kept = self.run.checkpoints / SOURCE
        if is_first(self.fabric) and not checkpoint_files(kept)[1].exists():
            keep_checkpoint(self.setup.network.checkpoint, kept)

    def finish(self, model: nn.Module, spent: int, before: dict[str, float], after: dict[str, float]) -> None:
        """Write the last checkpoint, the result and the manifest, and print what came out."""
        self.save(model, spent)
        if self.config.gate:
            self._fit_gate(model)
        forgotten = {
            name.replace("dice/source/", "forgetting/"): before[name] - after[name]
            for name in before
            if name.startswith("dice/source/") and name in after
        }
        result: dict[str, Any] = {
            "spent": spent,
            "before": finite_metrics(before),
            "after": finite_metrics(after),
            "forgetting": finite_metrics(forgotten),
            "synthetic": self.setup.synthetic,
        }
        self.session.finish(result, after | forgotten)

    def _fit_gate(self, model: nn.Module) -> None:
        """Fit the gate of ``--as auto`` and write it, with what it decides on the watched cases."""
        setup = self.setup
        known = [draw_slices(case, self.config.slices) for case in setup.gate_cases]
        shots = [*setup.shots, *(shot for shot in known if len(shot.slices))]
        if len(shots) == len(setup.shots):
            self.note("No gate for --as auto: there are no source training cases to fit one on.")
            return
        # The network of the setup may have been tuned in place.
        source = self.fabric.to_device(load_checkpoint(setup.network.checkpoint)[0])
        before, after = (
            Predictor(network, setup.modalities, setup.space, autocast=self.fabric.autocast)
            for network in (source, model)
        )
        try:
            rows = distributed_map(
                self.fabric, lambda shot: gate_features(before, after, shot.case, shot.slices), shots
            )
        except UsageError as error:
            self.note(f"No gate for --as auto: {error.found}.")
            return
        cases = [(shot.case.id, features) for shot, features in zip(shots, rows, strict=True)]
        gate = Gate.fit(cases[len(setup.shots) :], cases[: len(setup.shots)])
        told = GatedPredictor.of(after, before, gate)
        watched = [("source", case) for case in setup.source] + [("target", case) for case in setup.target]
        decided = distributed_map(self.fabric, lambda one: told.decide(one[1]), watched)
        decisions = [
            WatchedDecision(domain, case.id, case.patient, decision.domain, decision.probability)
            for (domain, case), decision in zip(watched, decided, strict=True)
        ]
        replace(gate, watched=decisions).save(self.run.path)
        wrong = sum(decision.domain != decision.decided for decision in decisions)
        self.note(f"Gate for --as auto: {wrong} of {len(decisions)} watched cases taken for the other disease.")


def is_first_mark(update: int, first_marks: int) -> bool:
    """Whether an update of the parameters, counted from 1, is among the first 1, 2, 4, 8, ... that are marked.

    Args:
        update: Its number.
        first_marks: How many of them are marked: the last is update ``2 ** (first_marks - 1)``.
    """
    return update.bit_count() == 1 and update.bit_length() <= first_marks


def due_marks(before: int, after: int, budget: int, marks: int) -> bool:
    """Whether the work done passes a mark, the last of which is the whole budget.

    Args:
        before: Work done before the step.
        after: Work done after it.
        budget: All work.
        marks: Number of marks.
    """
    return before * marks // budget < min(after, budget) * marks // budget
