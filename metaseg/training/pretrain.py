"""``metaseg pretrain``: train a segmentation network on a source disease, validated on whole patients."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_fabric import Fabric
from torch import nn

from metaseg.cases.labels import LabelSpace
from metaseg.config import PretrainConfig
from metaseg.evaluation.inference import mean_dice, stored_dice
from metaseg.models import ModelCard, build_segmenter, save_checkpoint
from metaseg.runs.events import EventLog
from metaseg.runs.folder import RunFolder
from metaseg.runs.manifest import make_manifest
from metaseg.runs.progress import Progress, progress
from metaseg.runs.progress_plot import write_progress_plot
from metaseg.runs.training_state import load_training_state
from metaseg.store.prepare import open_data, phantom_folder
from metaseg.store.store import SliceStore
from metaseg.training.augment import Augmentation
from metaseg.training.device import make_fabric
from metaseg.training.loop import LoopPlan, LoopState, fit
from metaseg.training.losses import DiceCrossEntropy
from metaseg.training.optimizers import build_optimizer
from metaseg.training.pictures import log_overlay
from metaseg.training.schedule import learning_rate
from metaseg.training.slices import TrainingSlices, default_window
from metaseg.training.source import choose_space, divide, shared_modalities

STATE_FILE = "last.state.pt"


@dataclass(frozen=True)
class PretrainResult:
    """What a pretraining leaves.

    Attributes:
        run: The run folder.
        figures: Best validation Dice of each region, or those of the last weights without validation patients.
        steps: Optimiser steps done.
    """

    run: Path
    figures: dict[str, float]
    steps: int


class _Listener:
    """Validation, logging and checkpoints around the loop of one pretraining."""

    def __init__(
        self,
        config: PretrainConfig,
        card: ModelCard,
        space: LabelSpace,
        val: SliceStore,
        run: RunFolder,
        log: EventLog,
        fabric: Fabric,
        plan: LoopPlan,
        state: LoopState,
        bar: Progress,
        steps_per_epoch: int,
    ) -> None:
        self.config, self.card, self.space, self.val, self.run, self.log = config, card, space, val, run, log
        self.fabric, self.plan, self.state, self.bar, self.steps_per_epoch = fabric, plan, state, bar, steps_per_epoch
        self.losses: list[float] = []
        self.shown: dict[str, float] = {}

    def on_step(self, step: int, values: dict[str, float]) -> None:
        self.losses.append(values["loss"])
        self.bar.advance(1, **self.shown)
        if step % self.steps_per_epoch == 0:
            means = {"train/loss": sum(self.losses) / len(self.losses), "train/learning_rate": values["learning_rate"]}
            self.log.scalars(means, step=step, epoch=step // self.steps_per_epoch)
            self.shown["loss"] = means["train/loss"]
            self.losses.clear()

    def on_mark(self, step: int, model: nn.Module) -> bool:
        extra = self.state.extra
        rows = [
            stored_dice(model, case, self.card.modalities, self.space, autocast=self.fabric.autocast)
            for case in self.val
        ]
        figures = mean_dice(rows)
        card = replace(self.card, step=step, figures={f"dice/val/{name}": value for name, value in figures.items()})
        if figures:
            self.log.scalars({f"dice/val/{name}": value for name, value in figures.items()}, step=step)
            log_overlay(self.log, "val", model, self.val.cases[0], self.card.modalities, self.space, step)
            self.shown |= {f"dice {name}": value for name, value in figures.items()}
        score = smoothed_score(figures, extra.get("smoothed"))
        extra["smoothed"] = score
        # Without validation patients the last weights are the best.
        if not figures or score > extra.get("score", -1.0):
            extra |= {"score": score, "best_step": step, "figures": figures, "stale": 0}
            save_checkpoint(self.run.checkpoints / "best", model, card)
        else:
            extra["stale"] = extra.get("stale", 0) + 1
        save_checkpoint(self.run.checkpoints / "last", model, card)
        self.run.state.set_figures({f"dice/val/{name}": value for name, value in extra.get("figures", {}).items()})
        write_progress_plot(self.run.path, synthetic=self.card.synthetic)
        return not (self.config.patience and extra["stale"] >= self.config.patience)


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


def run_pretrain(config: PretrainConfig) -> PretrainResult:
    """Pretrain a network.

    Args:
        config: All settings; see :class:`~metaseg.config.PretrainConfig`.

    Raises:
        DataError: The cases cannot be used.
        UsageError: Settings contradict each other or the data.
        RunError: The run folder cannot be written or resumed.
        TrainingError: The loss became non-finite.
    """
    fabric = make_fabric(config.device, config.precision)
    with RunFolder.create(config.out, "pretrain", config, overwrite=config.overwrite, resume=config.resume) as run:
        if run.finished:
            print(f"{run.path} is finished; nothing to resume")
            return _result(run)
        _train(config, run, fabric)
    return _result(run)


def _result(run: RunFolder) -> PretrainResult:
    summary = run.read_json("result.json")
    return PretrainResult(run.path, summary["figures"], summary["steps"])


def open_pretraining_data(config: PretrainConfig) -> SliceStore:
    """The prepared cases of a pretraining: its data, or the phantoms that stand in for none."""
    folders = config.data or (phantom_folder("hgg", config.phantom_cases, config.seed, config.cache),)
    with progress("preparing cases", None) as bar:
        return open_data(
            folders,
            format=config.format,
            label_scheme=config.label_scheme,
            modalities=config.modalities,
            classes=config.classes,
            image_size=config.image_size,
            cache=config.cache,
            jobs=config.jobs,
            progress=lambda done, total, name: bar.advance(),
        )


def _train(config: PretrainConfig, run: RunFolder, fabric: Fabric) -> None:
    if not config.data:
        print("No --data given: training on SYNTHETIC phantoms, not on patients.")
    store = open_pretraining_data(config)
    train, val = divide(store, config)
    space = choose_space(store, config.labels)
    modalities = config.modalities or shared_modalities(store)
    model = build_segmenter(
        config.model,
        len(modalities),
        space.num_classes,
        weights="none" if config.weights == "none" else config.weights,
        seed=config.seed,
        **config.model_options,
    )
    slices = TrainingSlices(
        train,
        modalities,
        space,
        config.window or default_window(train),
        config.batch_size,
        config.slices_per_epoch,
        config.foreground_share,
        Augmentation(config.augment),
        config.seed,
    )
    card = ModelCard(
        name=config.model,
        in_channels=len(modalities),
        num_classes=space.num_classes,
        options=config.model_options,
        modalities=tuple(modalities),
        label_space=space.name,
        normalisation={"method": "z-score of the foreground, per volume and modality", "image_size": config.image_size},
        trained_on=tuple(sorted({case.info.cohort for case in train})),
        synthetic=store.synthetic,
    )
    run.write_json("patients.json", {"train": _ids(train), "val": _ids(val)})
    total = config.epochs * slices.steps_per_epoch
    plan = LoopPlan(
        total_steps=total,
        mark_every=config.validate_every * slices.steps_per_epoch,
        rate=lambda step: learning_rate(step, total, config.learning_rate, config.schedule, config.warmup_steps),
        clip_norm=config.clip_norm,
        average=config.ema,
        seed=config.seed,
    )
    print(
        f"{len(train)} cases to train on, {len(val)} to validate; {config.model} with {len(modalities)} modalities and "
        f"{space.num_classes} classes; {total} steps of {config.batch_size} slices of "
        f"{slices.window[0]}x{slices.window[1]} pixels on {fabric.device}"
    )
    _run_loop(config, run, fabric, model, slices, card, space, val, plan, store)


def _run_loop(
    config: PretrainConfig,
    run: RunFolder,
    fabric: Fabric,
    model: nn.Module,
    slices: TrainingSlices,
    card: ModelCard,
    space: LabelSpace,
    val: SliceStore,
    plan: LoopPlan,
    store: SliceStore,
) -> None:
    optimizer = build_optimizer(config.optimizer, model.parameters(), config.learning_rate, config.weight_decay)
    state = LoopState()
    state_file = run.checkpoints / STATE_FILE
    resume = config.resume and state_file.exists()
    start = int(load_training_state(state_file)["step"]) if resume else 0
    manifest = make_manifest(
        verb="pretrain",
        seed=config.seed,
        device=str(fabric.device),
        data_fingerprint=store.fingerprint,
        synthetic=store.synthetic,
    )
    manifest.save(run.path)
    with (
        EventLog(run, resume_step=start if config.resume else None) as log,
        progress("pretraining", plan.total_steps - start) as bar,
    ):
        listener = _Listener(config, card, space, val, run, log, fabric, plan, state, bar, slices.steps_per_epoch)
        fit(
            model,
            optimizer,
            fabric,
            plan,
            slices.draw,
            DiceCrossEntropy(space, config.recall_weight).to(fabric.device),
            listener,
            state,
            state_file,
            resume=resume,
        )
    figures = {f"dice/val/{name}": value for name, value in state.extra.get("figures", {}).items()}
    run.write_json("result.json", {"figures": _finite(figures), "steps": state.step, "best": state.extra["best_step"]})
    manifest.finish(run.path)
    print(f"run: {run.path}")
    for name, value in figures.items():
        print(f"  {name} {value:.3f} (best, step {state.extra['best_step']})")


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _ids(store: SliceStore) -> list[dict[str, str]]:
    return [{"case": case.id, "patient": case.patient, "cohort": case.info.cohort} for case in store]
