"""A training in a run folder: validation, logs, checkpoints, the best weights and early stopping around the loop.

Pretraining of segmentation networks and the fit of slice classifiers differ in what they validate and by which metric
the best weights are chosen; all else is this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from torch import nn
from torch.optim import Optimizer

from metaseg.cases.labels import WHOLE_LESION
from metaseg.errors import RunError, TrainingError, warn_user
from metaseg.files import finite_metrics
from metaseg.inference.case_pictures import shown_modality
from metaseg.inference.predictor import Predictor
from metaseg.models.checkpoint import ModelCard, checkpoint_files, read_checkpoint, save_checkpoint
from metaseg.pictures.charts import write_progress_plot
from metaseg.pictures.contact_sheet import contact_sheet
from metaseg.runs.folder import RunFolder
from metaseg.runs.logs import EventLog
from metaseg.runs.session import RunSession
from metaseg.store.stored_case import StoredCase, to_space
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


@dataclass(frozen=True)
class Training:
    """What is trained, on what and how: all that :func:`fit_in_run` needs besides the session.

    Attributes:
        title: What the progress bar says.
        model: The network.
        card: What it is, without step and metrics.
        optimizer: Its optimiser.
        plan: Length and pace.
        draw: Batch of a step.
        objective: What is minimised.
        validate: Measures the network at marks; given the run's log.
        score: By what the best weights are chosen; more is better.
        steps_per_epoch: Steps between lines of the training loss.
        patience: Validations without a better metric before stopping; 0 never stops.
        state: Where the loop stands; what ``objective`` and ``validate`` remember lies in its ``extra``.
    """

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
    state: LoopState = field(default_factory=LoopState)


class FitListener:
    """The :class:`~metaseg.training.loop.LoopListener` of a training in a run folder.

    Args:
        training: What is trained; the best metrics are kept in its ``state.extra``.
        run: The run folder.
        log: Its scalars and pictures.
        bar: Progress bar.
    """

    def __init__(self, training: Training, run: RunFolder, log: EventLog, bar: Progress) -> None:
        self.training, self.run, self.log, self.bar = training, run, log, bar
        self.validate, self.state = training.validate(log), training.state
        self.losses: list[float] = []
        self.shown: dict[str, float] = {}

    def on_step(self, step: int, values: dict[str, float]) -> None:
        """Count the step; at the end of an epoch log its mean loss."""
        self.losses.append(values["loss"])
        self.bar.advance(1, **self.shown)
        if step % self.training.steps_per_epoch == 0:
            means = {"train/loss": sum(self.losses) / len(self.losses), "train/learning_rate": values["learning_rate"]}
            self.log.scalars(means, step=step, epoch=step // self.training.steps_per_epoch)
            self.shown["loss"] = means["train/loss"]
            self.losses.clear()

    def on_mark(self, step: int, model: nn.Module) -> bool:
        """Validate, keep the best and the last weights; False when patience ends."""
        metrics = self.validate(model, step)
        extra, patience = self.state.extra, self.training.patience
        score = self.training.score(metrics, extra.get("smoothed"))
        extra["smoothed"] = score
        card = replace(self.training.card, step=step, metrics=metrics)
        if metrics:
            self.log.scalars(metrics, step=step)
            self.shown |= {name.replace("/val", "").replace("/", " "): value for name, value in metrics.items()}
            self.bar.show(**self.shown)
        watcher = _WATCHER.get()
        if watcher is not None:
            watcher(step // self.training.steps_per_epoch, metrics)
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
        write_progress_plot(self.run.path, synthetic=self.training.card.synthetic)
        return not (patience and extra["stale"] >= patience)


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


@dataclass(frozen=True)
class FitSummary:
    """``result.json`` of a training."""

    metrics: dict[str, float | None]
    steps: int
    best_step: int


def fit_in_run(training: Training, session: RunSession) -> LoopState:
    """Train in a run folder, or continue; writes ``result.json`` and prints the best metrics.

    Args:
        training: What to train, on what.
        session: The run's, begun.

    Raises:
        TrainingError: The loss became non-finite.
    """
    run, state, saved = session.run, training.state, session.saved_state()
    step = None if saved is None else int(saved["step"])
    rows = None if saved is None else saved["extra"].get("rows")
    if saved is not None:
        _drop_damaged_best(run)
    with EventLog(run, step, rows) as log, progress(training.title, training.plan.total_steps - (step or 0)) as bar:
        fit(
            training.model,
            training.optimizer,
            session.fabric,
            training.plan,
            training.draw,
            training.objective,
            FitListener(training, run, log, bar),
            state,
            session.state_file,
            resume=saved is not None,
        )
    best, metrics = state.extra["best_step"], state.extra["metrics"]
    _require_best(run, best)
    session.finish(asdict(FitSummary(finite_metrics(metrics), state.step, best)), metrics)
    print(f"run: {run.path}")
    for name, value in metrics.items():
        print(f"  {name} {value:.3f} (best, step {best})")
    return state


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


OVERLAY_SLICES = 3
"""Slices of a case that are shown while a run goes on."""


def log_overlay(log: EventLog, domain: str, predictor: Predictor, case: StoredCase, step: int) -> None:
    """Put label and prediction of a case's fullest slices into TensorBoard.

    Args:
        log: Where to.
        domain: ``val``, ``target`` or ``source``; part of the picture's name.
        predictor: The network.
        case: A labelled case.
        step: The step it belongs to.
    """
    space = predictor.space
    fullest = np.argsort(case.areas()[case.outlined, 1:].sum(axis=1), kind="stable")[-OVERLAY_SLICES:]
    chosen = np.sort(case.outlined[fullest])
    image = case.images(chosen, (shown_modality(predictor.modalities),))[:, 0]
    shown = space if space == case.space else WHOLE_LESION
    sheet = contact_sheet(
        image,
        to_space(case.labels(chosen), case.space, shown, case.id),
        to_space(predictor.classes(case, chosen), space, shown, case.id),
        shown,
        title=f"{case.id}, step {step}",
        synthetic=case.info.synthetic,
        slices=range(len(chosen)),
        planar=case.info.geometry.planar,
    )
    log.image(f"overlay/{domain}", np.asarray(sheet), step)
