"""What happens around a pretraining's loop: validation on whole patients, logs, checkpoints, early stopping."""

from __future__ import annotations

import math
from dataclasses import replace

from lightning_fabric import Fabric
from torch import nn

from metaseg.cases.labels import LABEL_SPACES
from metaseg.evaluation.inference import mean_dice, stored_dice
from metaseg.models.checkpoint import ModelCard, save_checkpoint
from metaseg.runs.events import EventLog
from metaseg.runs.folder import RunFolder
from metaseg.runs.progress import Progress
from metaseg.runs.progress_plot import write_progress_plot
from metaseg.store.store import SliceStore
from metaseg.training.loop import LoopState
from metaseg.training.pictures import log_overlay


class PretrainListener:
    """The :class:`~metaseg.training.loop.LoopListener` of a pretraining.

    Args:
        run: The run folder.
        log: Its scalars and pictures.
        bar: Progress bar.
        card: Card of the network, without step and figures.
        val: Validation cases; may be none.
        state: The loop's state; best figures are kept in its ``extra``.
        fabric: Device and precision.
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
        val: SliceStore,
        state: LoopState,
        fabric: Fabric,
        steps_per_epoch: int,
        patience: int,
    ) -> None:
        self.run, self.log, self.bar, self.card, self.val = run, log, bar, card, val
        self.state, self.fabric, self.steps_per_epoch, self.patience = state, fabric, steps_per_epoch, patience
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
        """Validate, keep the best and the last weights; False when patience is at its end."""
        figures = self._validate(model, step)
        extra = self.state.extra
        score = smoothed_score(figures, extra.get("smoothed"))
        extra["smoothed"] = score
        card = replace(self.card, step=step, figures={f"dice/val/{name}": value for name, value in figures.items()})
        # Without validation patients the last weights are the best.
        if not figures or score > extra.get("score", -1.0):
            extra |= {"score": score, "best_step": step, "figures": figures, "stale": 0}
            save_checkpoint(self.run.checkpoints / "best", model, card)
        else:
            extra["stale"] = extra.get("stale", 0) + 1
        save_checkpoint(self.run.checkpoints / "last", model, card)
        self.run.state.set_figures({f"dice/val/{name}": value for name, value in extra["figures"].items()})
        write_progress_plot(self.run.path, synthetic=self.card.synthetic)
        return not (self.patience and extra["stale"] >= self.patience)

    def _validate(self, model: nn.Module, step: int) -> dict[str, float]:
        space, modalities = LABEL_SPACES[self.card.label_space], self.card.modalities
        rows = [stored_dice(model, case, modalities, space, autocast=self.fabric.autocast) for case in self.val]
        figures = mean_dice(rows)
        if figures:
            self.log.scalars({f"dice/val/{name}": value for name, value in figures.items()}, step=step)
            log_overlay(self.log, "val", model, self.val.cases[0], modalities, space, step)
            self.shown |= {f"dice {name}": value for name, value in figures.items()}
        return figures


def smoothed_score(figures: dict[str, float], before: float | None) -> float:
    """Score by which the best weights are chosen: mean Dice over regions, smoothed over validations.

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
