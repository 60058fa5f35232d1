"""What happens around a training's loop: validation, logs, checkpoints, the best weights, early stopping.

Pretraining of segmentation networks and the fit of slice classifiers differ in what they validate and by which figure
the best weights are chosen; all else is this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

from torch import nn

from metaseg.errors import TrainingError, warn_user
from metaseg.models.checkpoint import ModelCard, checkpoint_files, save_checkpoint
from metaseg.runs.events import EventLog
from metaseg.runs.folder import RunFolder
from metaseg.runs.progress import Progress
from metaseg.runs.progress_plot import write_progress_plot
from metaseg.training.loop import LoopState

Validate = Callable[[nn.Module, int], dict[str, float]]
"""Takes the network and the step, gives figures by their full names; nothing where there is nobody to validate."""

Score = Callable[[Mapping[str, float], float | None], float]
"""Takes figures and the score of the validation before, gives the score by which the best weights are chosen."""

Watcher = Callable[[int, Mapping[str, float]], None]
"""Takes the epochs done and the figures of a validation; raises :class:`GivenUpError` to end the training there."""

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
        card: Card of the network, without step and figures.
        validate: Measures the network at a mark.
        score: By what the best weights are chosen; more is better.
        state: The loop's state; best figures are kept in its ``extra``.
        steps_per_epoch: Steps between lines of the training loss.
        patience: Validations without a better figure before stopping; 0 never stops.
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
        figures = self.validate(model, step)
        extra = self.state.extra
        score = self.score(figures, extra.get("smoothed"))
        extra["smoothed"] = score
        card = replace(self.card, step=step, figures=figures)
        if figures:
            self.log.scalars(figures, step=step)
            self.shown |= {name.replace("/val", "").replace("/", " "): value for name, value in figures.items()}
        watcher = _WATCHER.get()
        if watcher is not None:
            watcher(step // self.steps_per_epoch, figures)
        if "score" in extra and not all(file.exists() for file in checkpoint_files(self.run.checkpoints / "best")):
            warn_user(
                f"the best weights, of step {extra['best_step']}, have vanished: kept anew from step {step} on",
                where=self.run.checkpoints,
            )
            del extra["score"]
        # Without anybody to validate on the last weights are the best.
        if not figures or score > extra.get("score", -math.inf):
            extra |= {"score": score, "best_step": step, "figures": figures, "stale": 0}
            save_checkpoint(self.run.checkpoints / "best", model, card)
        else:
            extra["stale"] = extra.get("stale", 0) + 1
        save_checkpoint(self.run.checkpoints / "last", model, card)
        self.run.state.set_figures(extra["figures"])
        # On the disk before the training state that goes on from here is.
        extra["rows"] = self.log.sync()
        write_progress_plot(self.run.path, synthetic=self.card.synthetic)
        return not (extra.get("enough") or (self.patience and extra["stale"] >= self.patience))


def smoothed_score(figures: Mapping[str, float], before: float | None) -> float:
    """Score by which the best segmentation weights are chosen: mean Dice over regions, smoothed over validations.

    A few validation patients make single figures jump; the running mean (0.7 of the old, 0.3 of the new) does not let
    one lucky epoch win.

    Args:
        figures: Dice of each region; NaN counts as 0.
        before: Score of the validation before, or None at the first.
    """
    if not figures:
        return 0.0
    score = sum(value if math.isfinite(value) else 0.0 for value in figures.values()) / len(figures)
    return score if before is None else 0.7 * before + 0.3 * score
