"""A training in a run folder: manifest, patients, logs, the loop, and what is written at its end.

What happens around a training's loop: validation, logs, checkpoints, the best weights, early stopping.

Pretraining of segmentation networks and the fit of slice classifiers differ in what they validate and by which metric
the best weights are chosen; all else is this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer

from metaseg.errors import RunError, TrainingError, warn_user
from metaseg.files import finite_metrics
from metaseg.models.checkpoint import ModelCard, checkpoint_files, read_checkpoint, save_checkpoint
from metaseg.pictures.charts import write_progress_plot
from metaseg.runs.folder import RunFolder
from metaseg.runs.logs import EventLog
from metaseg.runs.manifest import make_manifest
from metaseg.runs.networks import (
    Inputs,
    inherited_rows,
    patient_rows,
    patients_known,
    run_of_checkpoint,
    trained_patients,
)
from metaseg.runs.state import can_go_on, load_training_state
from metaseg.terminal import Progress, progress
from metaseg.training.loop import Batch, LoopPlan, LoopState, Objective, fit

Validate = Callable[[nn.Module, int], dict[str, float]]
"""Takes the network and the step, gives metrics by their full names; nothing where there is nobody to validate."""

Score = Callable[[Mapping[str, float], float | None], float]
"""Takes metrics and the score of the validation before, gives the score by which the best weights are chosen."""

Watcher = Callable[[int, Mapping[str, float]], None]
"""Takes the epochs done and the metrics of a validation; raises :class:`GivenUpError` to end the training there."""

_WATCHER: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


class GivenUpError(TrainingError):
    """A training that its watcher ended, since it promises too little."""


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Tell somebody of every validation of the trainings inside the block; a search of hyper-parameters watches so."""
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)


class FitListener:
    """The :class:`~metaseg.training.loop.LoopListener` of a training in a run folder.

    Args:
        run: The run folder.
        log: Its scalars and pictures.
        bar: Progress bar.
        card: Card of the network, without step and metrics.
        validate: Measures the network at a mark.
        score: By what the best weights are chosen; more is better.
        state: The loop's state; best metrics are kept in its ``extra``.
        steps_per_epoch: Steps between lines of the training loss.
        patience: Validations without a better metric before stopping; 0 never stops.
    """

    def __init__(
        self,
        *,
        run: RunFolder,
        log: EventLog,
        bar: Progress,
        card: ModelCard,
        validate: Validate,
        score: Score,
        state: LoopState,
        steps_per_epoch: int,
        patience: int,
    ) -> None:
        self.run, self.log, self.bar, self.card = run, log, bar, card
        self.validate, self.score, self.state = validate, score, state
        self.steps_per_epoch, self.patience = steps_per_epoch, patience
        self.losses: list[float] = []
        self.shown: dict[str, float] = {}

    def on_step(self, step: int, values: dict[str, float]) -> None:
        """Count the step; at the end of an epoch log its mean loss."""
        self.losses.append(values["loss"])
        self.bar.advance(1, **self.shown)
        if step % self.steps_per_epoch == 0:
            means = {"train/loss": sum(self.losses) / len(self.losses), "train/learning_rate": values["learning_rate"]}
            self.log.scalars(means, step=step, epoch=step // self.steps_per_epoch)
            self.shown["loss"] = means["train/loss"]
            self.losses.clear()

    def on_mark(self, step: int, model: nn.Module) -> bool:
        """Validate, keep the best and the last weights; False when patience ends or ``validate`` has enough."""
        metrics = self.validate(model, step)
        extra = self.state.extra
        score = self.score(metrics, extra.get("smoothed"))
        extra["smoothed"] = score
        card = replace(self.card, step=step, metrics=metrics)
        if metrics:
            self.log.scalars(metrics, step=step)
            self.shown |= {name.replace("/val", "").replace("/", " "): value for name, value in metrics.items()}
        watcher = _WATCHER.get()
        if watcher is not None:
            watcher(step // self.steps_per_epoch, metrics)
        if "score" in extra and not all(file.exists() for file in checkpoint_files(self.run.checkpoints / "best")):
            warn_user(
                f"the best weights, of step {extra['best_step']}, have vanished: kept anew from step {step} on",
                where=self.run.checkpoints,
            )
            del extra["score"]
        # Without anybody to validate on the last weights are the best.
        if not metrics or score > extra.get("score", -math.inf):
            extra |= {"score": score, "best_step": step, "metrics": metrics, "stale": 0}
            save_checkpoint(self.run.checkpoints / "best", model, card)
        else:
            extra["stale"] = extra.get("stale", 0) + 1
        save_checkpoint(self.run.checkpoints / "last", model, card)
        self.run.state.set_metrics(extra["metrics"])
        # On the disk before the training state that goes on from here is.
        extra["rows"] = self.log.sync()
        write_progress_plot(self.run.path, synthetic=self.card.synthetic)
        return not (extra.get("enough") or (self.patience and extra["stale"] >= self.patience))


def smoothed_score(metrics: Mapping[str, float], before: float | None) -> float:
    """Score by which the best segmentation weights are chosen: mean Dice over regions, smoothed over validations.

    A few validation patients make single metrics jump; the running mean (0.7 of the old, 0.3 of the new) does not let
    one lucky epoch win.

    Args:
        metrics: Dice of each region; NaN counts as 0.
        before: Score of the validation before, or None at the first.
    """
    if not metrics:
        return 0.0
    score = sum(value if math.isfinite(value) else 0.0 for value in metrics.values()) / len(metrics)
    return score if before is None else 0.7 * before + 0.3 * score


STATE_FILE = "last.state.pt"


@dataclass(frozen=True)
class FittedRun:
    """All that a training needs besides its run folder.

    Attributes:
        verb: What makes the run.
        title: What the progress bar says.
        model: The network.
        card: What it is.
        optimizer: Its optimiser.
        plan: Length and pace.
        draw: Batch of a step.
        objective: What is minimised.
        validate: Measures the network at marks; given the run's log.
        score: By what the best weights are chosen.
        steps_per_epoch: Steps of an epoch.
        patience: Validations without a better metric before stopping.
        parts: Cases by part, for ``patients.json``.
        fingerprint: Digest of the data.
        inputs: What the run reads.
        weights: The weights that the network began with, as the user named them.
        extra: What else the manifest shall hold.
        state: Where the loop stands; what ``objective`` and ``validate`` remember lies in its ``extra``.
    """

    verb: str
    title: str
    model: nn.Module
    card: ModelCard
    optimizer: Optimizer
    plan: LoopPlan
    draw: Callable[[int], Batch]
    objective: Objective
    validate: Callable[[EventLog], Validate]
    score: Score
    steps_per_epoch: int
    patience: int
    parts: Mapping[str, Any]
    fingerprint: str
    inputs: Inputs
    weights: str = "none"
    extra: Mapping[str, Any] = field(default_factory=dict)
    state: LoopState = field(default_factory=LoopState)


@dataclass(frozen=True)
class FitSummary:
    """``result.json`` of a training."""

    metrics: dict[str, float | None]
    steps: int
    best_step: int


def fit_in_run(job: FittedRun, run: RunFolder, fabric: Fabric, *, seed: int, resume: bool) -> LoopState:
    """Train in a run folder, or go on; writes ``result.json`` and prints the best metrics.

    Args:
        job: What to train, on what.
        run: The folder, locked.
        fabric: Device and precision.
        seed: For the manifest.
        resume: Continue from the run's last state, where there is one.

    Raises:
        TrainingError: The loss became non-finite.
    """
    write_patients(run, job.parts, job.weights)
    job.inputs.save(run.path)
    manifest = make_manifest(
        verb=job.verb,
        seed=seed,
        device=str(fabric.device),
        data_fingerprint=job.fingerprint,
        synthetic=job.card.synthetic,
        extra=job.extra,
    )
    manifest.save(run.path)
    state, state_file = job.state, run.checkpoints / STATE_FILE
    goes_on = can_go_on(state_file, resume)
    saved: dict[str, Any] = load_training_state(state_file) if goes_on else {"step": 0, "extra": {}}
    start = int(saved["step"])
    if goes_on:
        _drop_damaged_best(run)
    with (
        EventLog(run, start if goes_on else None, saved["extra"].get("rows")) as log,
        progress(job.title, job.plan.total_steps - start) as bar,
    ):
        listener = FitListener(
            run=run,
            log=log,
            bar=bar,
            card=job.card,
            validate=job.validate(log),
            score=job.score,
            state=state,
            steps_per_epoch=job.steps_per_epoch,
            patience=job.patience,
        )
        fit(
            job.model, job.optimizer, fabric, job.plan, job.draw, job.objective, listener, state, state_file, goes_on
        )  # fmt: skip
    _finish(run, state)
    manifest.finish(run.path)
    return state


def write_patients(run: RunFolder, parts: Mapping[str, Any], weights: str) -> None:
    """Write ``patients.json``: whom a run trains and validates on, and whom the weights that it begins with have seen.

    Args:
        run: The run folder.
        parts: Cases by part.
        weights: ``none``, ``imagenet`` or a weights file. One of an earlier run brings that run's patients along: they
            are no test patients of this one either.
    """
    earlier = run_of_checkpoint(Path(weights))
    known = weights in ("none", "imagenet") or (earlier is not None and patients_known(earlier))
    inherited = inherited_rows(trained_patients(earlier) if earlier else (), known=known)
    rows = {name: patient_rows(cases) for name, cases in parts.items()}
    run.write_json("patients.json", {**rows, "inherited": inherited})


def _finish(run: RunFolder, state: LoopState) -> None:
    _require_best(run, state.extra["best_step"])
    metrics: dict[str, float] = state.extra["metrics"]
    run.write_json("result.json", asdict(FitSummary(finite_metrics(metrics), state.step, state.extra["best_step"])))
    print(f"run: {run.path}")
    for name, value in metrics.items():
        print(f"  {name} {value:.3f} (best, step {state.extra['best_step']})")


def _drop_damaged_best(run: RunFolder) -> None:
    """Delete best weights that cannot be read: the next mark then keeps its own, whatever their metric was."""
    files = checkpoint_files(run.checkpoints / "best")
    if not all(file.exists() for file in files):
        return
    try:
        read_checkpoint(run.checkpoints / "best")
    except RunError as error:
        warn_user(f"the best weights cannot be read and are dropped: {error.found}", where=error.where)
        for file in files:
            file.unlink()


def _require_best(run: RunFolder, step: int) -> None:
    """Raise RunError unless the best weights are there: no run is finished that points at nothing."""
    path = run.checkpoints / "best"
    try:
        found = read_checkpoint(path)[1].step
        wrong = None if found == step else f"they are of step {found}"
    except RunError as error:
        wrong = error.found
    if wrong is not None:
        raise RunError(
            f"the best weights, of step {step}, cannot be used: {wrong}",
            where=checkpoint_files(path)[0],
            remedy="use checkpoints/last, the weights of the last step, or start the run again with --overwrite",
        )
