"""``metaseg naivetune``: plain fine-tuning on class-balanced slices, the baseline of Han et al. (2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from metaseg.adapt.result import AdaptationResult, adaptation_result
from metaseg.adapt.setting import Setting, prepare_setting
from metaseg.adapt.watch import Watch, due_marks
from metaseg.config import NaivetuneConfig
from metaseg.models.device import make_fabric
from metaseg.runs.events import Selection
from metaseg.runs.folder import RunFolder
from metaseg.runs.training_state import load_training_state
from metaseg.sampling import class_balanced_draw
from metaseg.training.loop import Batch, LoopPlan, LoopState, fit
from metaseg.training.losses import DiceCrossEntropy
from metaseg.training.optimizers import build_optimizer
from metaseg.training.slices import fit_window

STATE_FILE = "last.state.pt"


@dataclass(frozen=True)
class BalancedSlices:
    """Class-balanced batches out of the shots' slices.

    Attributes:
        setting: The shots.
        batch_size: Slices of a batch.
        drawn: For every draw of the whole training: number of the shot and stored slice, ``(draws, 2)``.
    """

    setting: Setting
    batch_size: int
    drawn: np.ndarray

    @classmethod
    def plan(cls, setting: Setting, batch_size: int, steps: int, seed: int) -> BalancedSlices:
        """Draw all batches of a training at once."""
        areas = np.concatenate([shot.case.areas(setting.space)[shot.slices, 1:] for shot in setting.shots])
        rows = np.array([(number, index) for number, shot in enumerate(setting.shots) for index in shot.slices])
        drawn = class_balanced_draw(areas, steps * batch_size, np.random.default_rng([seed, 21]))
        return cls(setting, batch_size, rows[drawn])

    def rows(self, step: int) -> np.ndarray:
        """Shot and slice of each member of a batch, ``(batch, 2)``."""
        return self.drawn[step * self.batch_size : (step + 1) * self.batch_size]

    def draw(self, step: int) -> Batch:
        """The batch of a step; slices of smaller brains are padded with background to the largest."""
        images, labels = [], []
        for number, index in self.rows(step):
            case = self.setting.shots[number].case
            images.append(case.images([index], self.setting.modalities)[0])
            labels.append(case.labels([index], self.setting.space)[0])
        height, width = np.max([label.shape for label in labels], axis=0)
        window, middle = (int(height), int(width)), (0.5, 0.5)
        return (
            torch.from_numpy(np.stack([fit_window(image, window, middle) for image in images])),
            torch.from_numpy(np.stack([fit_window(label, window, middle) for label in labels])),
        )


class _Listener:
    """Marks and logs around the loop."""

    def __init__(self, watch: Watch, slices: BalancedSlices, config: NaivetuneConfig, state: LoopState, net: nn.Module):
        self.watch, self.slices, self.config, self.state, self.net = watch, slices, config, state, net

    def on_step(self, step: int, values: dict[str, float]) -> None:
        size = self.config.batch_size
        before, spent = (step - 1) * size, step * size
        self.watch.log.scalars({"train/loss": values["loss"]}, step=spent)
        shots = self.slices.setting.shots
        self.watch.selection.add(
            [
                Selection(
                    step=spent,
                    case=shots[number].case.id,
                    patient=shots[number].case.patient,
                    slice=shots[number].case.native_slice(int(index)),
                    task="plain",
                    role="batch",
                    position=position,
                )
                for position, (number, index) in enumerate(self.slices.rows(step - 1))
            ]
        )
        self.watch.advance(spent - before, loss=values["loss"])
        # Whole batches only: a budget that is no multiple of them ends, and is marked for the last time, before it.
        if due_marks(before, spent, len(self.slices.drawn), self.config.marks):
            self.state.extra["after"] = self.watch.mark(self.net, spent)

    def on_mark(self, step: int, model: nn.Module) -> bool:
        self.watch.save(model, step * self.config.batch_size)
        return True


def run_naivetune(config: NaivetuneConfig) -> AdaptationResult:
    """Fine-tune a pretrained network on few target patients.

    Args:
        config: All settings; see :class:`~metaseg.config.NaivetuneConfig`.

    Raises:
        DataError: The data cannot be used.
        UsageError: Settings contradict each other or the data.
        RunError: There is no such pretrained run, or the run folder cannot be written or resumed.
        TrainingError: The loss became non-finite.
    """
    fabric = make_fabric(config.device, config.precision)
    finished = RunFolder.check(config.out, "naivetune", config, overwrite=config.overwrite, resume=config.resume)
    if finished is not None:
        print(f"{finished.path} is finished; nothing to resume")
        return adaptation_result(finished)
    setting = prepare_setting(config)
    with RunFolder.create(config.out, "naivetune", config, overwrite=config.overwrite, resume=config.resume) as run:
        _tune(config, run, fabric, setting)
    return adaptation_result(run)


def _tune(config: NaivetuneConfig, run: RunFolder, fabric: Fabric, setting: Setting) -> None:
    model = setting.network.model
    steps = max(1, config.budget // config.batch_size)
    slices = BalancedSlices.plan(setting, config.batch_size, steps, config.seed)
    plan = LoopPlan(
        total_steps=steps,
        mark_every=max(1, steps // config.marks),
        rate=lambda step: config.learning_rate,
        clip_norm=config.clip_norm,
        seed=config.seed,
    )
    optimizer = build_optimizer(config.optimizer, model.parameters(), config.learning_rate, momentum=0.0)
    state, state_file = LoopState(), run.checkpoints / STATE_FILE
    resume = config.resume and state_file.exists()
    spent = int(load_training_state(state_file)["step"]) * config.batch_size if resume else 0
    with Watch(run, config, setting, fabric, spent if config.resume else None) as watch:
        if not resume:
            fabric.to_device(model)
            state.extra["before"] = watch.mark(model, 0)
        listener = _Listener(watch, slices, config, state, model)
        loss = DiceCrossEntropy(setting.space, config.recall_weight).to(fabric.device)
        fit(model, optimizer, fabric, plan, slices.draw, loss, listener, state, state_file, resume)
        watch.finish(model, steps * config.batch_size, state.extra["before"], state.extra["after"])
