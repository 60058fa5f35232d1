"""``metaseg pretrain``: train a segmentation network on a source disease, validated on whole patients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from lightning_fabric import Fabric
from torch import nn

from metaseg.cases.labels import LABEL_SPACES
from metaseg.config.segmentation import PretrainConfig
from metaseg.errors import recorded_warnings
from metaseg.inference.predictor import Predictor, mean_dice
from metaseg.models import ModelCard, build_segmenter, resolve_options
from metaseg.models.processes import distributed_map
from metaseg.models.segmenters import check_segmenter, network_package
from metaseg.results import Result, metrics_table
from metaseg.runs.folder import RunFolder
from metaseg.runs.logs import EventLog
from metaseg.runs.networks import inherited_from_weights, weights_file
from metaseg.runs.session import Inputs, RunSession, run_session
from metaseg.store.prepare import open_cases, phantom_folder
from metaseg.store.store import SliceStore
from metaseg.store.stored_case import share_cache
from metaseg.terminal import print_text
from metaseg.training.augment import Augmentation
from metaseg.training.fitted_run import FitSummary, Training, Validate, fit_in_run, log_overlay, smoothed_score
from metaseg.training.loop import LoopPlan, distributed_draw, supervised
from metaseg.training.optimization import build_loss, build_optimizer, learning_rate
from metaseg.training.slices import TrainingSlices, default_window
from metaseg.training.source import choose_space, divide, shared_modalities

EPOCHS, PHANTOM_EPOCHS = 200, 30
"""Epochs where none are asked for: of patients, and of the phantoms that are for first steps."""


@dataclass(frozen=True)
class PretrainResult(Result):
    """What a pretraining leaves.

    Attributes:
        run: The run folder.
        metrics: Validation Dice of each region at the best step; empty without validation patients.
        steps: Optimiser steps done.
    """

    run: Path
    metrics: dict[str, float | None]
    steps: int

    def table(self) -> pd.DataFrame:
        """Metrics by name."""
        return metrics_table(value=self.metrics)


@dataclass(frozen=True)
class _Pretraining:
    """Everything that is made before the run folder is touched."""

    store: SliceStore
    inputs: Inputs
    train: SliceStore
    val: SliceStore
    model: nn.Module
    card: ModelCard
    slices: TrainingSlices
    plan: LoopPlan


@recorded_warnings()
def run_pretrain(config: PretrainConfig) -> PretrainResult:
    """Pretrain a network.

    Args:
        config: All settings; see :class:`~metaseg.config.segmentation.PretrainConfig`.

    Raises:
        DataError: The cases cannot be used.
        UsageError: Settings contradict each other or the data.
        RunError: The run folder cannot be written or resumed.
        TrainingError: The loss became non-finite.
    """
    return run_session(config, lambda: _prepare(config), lambda session, job: _train(config, session, job), _result)


def open_pretraining_data(config: PretrainConfig, *, allow_missing: bool = True) -> SliceStore:
    """The prepared cases of a pretraining: its data, or the phantoms that stand in for none."""
    folders = config.data or (phantom_folder("hgg", config.phantom_cases, config.seed, config.cache),)
    return open_cases(config, folders, need_labels=True, allow_missing=allow_missing)


def _prepare(config: PretrainConfig) -> _Pretraining:
    if not config.data:
        print("No --data given: training on SYNTHETIC phantoms, not on patients.")
    inputs = Inputs.of(config)
    inputs.take_files(config)
    # Before the data, which may take long to prepare.
    weights = weights_file(config.weights)
    check_segmenter(config.model, config.model_options, weights, download=True)
    store = inputs.take("data", open_pretraining_data(config, allow_missing=config.allow_missing))
    inputs.check_fingerprint(store.fingerprint)
    train, val = inputs.part("train", store), inputs.part("val", store)
    if train is None or val is None:
        train, val = divide(store, config)
    share_cache(store, config.cache_gb)
    modalities = tuple(config.modalities or shared_modalities(store))
    card = _card(config, store, train, modalities)
    model = build_segmenter(
        config.model,
        card.in_channels,
        card.num_classes,
        weights=weights,
        seed=config.seed,
        on_weights=lambda report: print("\n".join(report.lines())),
        **config.model_options,
    )
    slices = TrainingSlices(
        train,
        modalities,
        LABEL_SPACES[card.label_space],
        config.window or default_window(train),
        config.batch_size,
        config.slices_per_epoch,
        config.foreground_fraction,
        Augmentation(config.augment),
        config.seed,
    )
    epochs = config.epochs or (EPOCHS if config.data else PHANTOM_EPOCHS)
    total = epochs * slices.steps_per_epoch
    plan = LoopPlan(
        total_steps=total,
        mark_every=config.validate_every * slices.steps_per_epoch,
        rate=lambda step: learning_rate(step, total, config.learning_rate, config.schedule, config.warmup_steps),
        clip_norm=config.clip_norm,
        average=config.ema,
        seed=config.seed,
    )
    return _Pretraining(store, inputs, train, val, model, card, slices, plan)


def _card(config: PretrainConfig, store: SliceStore, train: SliceStore, modalities: tuple[str, ...]) -> ModelCard:
    space = choose_space(store, config.labels)
    return ModelCard(
        name=config.model,
        in_channels=len(modalities),
        num_classes=space.num_classes,
        options=resolve_options(config.model, config.model_options),
        modalities=modalities,
        label_space=space.name,
        normalisation={"method": "z-score of the foreground, per volume and modality", "image_size": config.image_size},
        trained_on=tuple(sorted({case.cohort for case in train})),
        synthetic=store.synthetic,
        plugin=network_package(config.model),
    )


def _train(config: PretrainConfig, session: RunSession, job: _Pretraining) -> None:
    fabric = session.fabric
    print_text(
        f"{len(job.train)} cases to train on, {len(job.val)} to validate; {config.model} with "
        f"{job.card.in_channels} modalities and {job.card.num_classes} classes; {job.plan.total_steps} steps of "
        f"{config.batch_size} slices of {job.slices.window[0]}x{job.slices.window[1]} pixels on {fabric.device}"
    )
    loss = build_loss(config.loss, LABEL_SPACES[job.card.label_space], config.recall_weight, fabric.device)
    session.begin(
        job.inputs,
        {"train": job.train, "val": job.val},
        inherited_from_weights(config.weights),
        fingerprint=job.store.fingerprint,
        synthetic=job.card.synthetic,
    )
    training = Training(
        title="pretraining",
        model=job.model,
        card=job.card,
        optimizer=build_optimizer(config.optimizer, job.model.parameters(), config.learning_rate, config.weight_decay),
        plan=job.plan,
        draw=distributed_draw(fabric, job.slices.draw, config.batch_size, job.plan.total_steps),
        objective=supervised(loss),
        validate=partial(_validation, job, fabric),
        score=smoothed_score,
        steps_per_epoch=job.slices.steps_per_epoch,
        patience=config.patience,
    )
    fit_in_run(training, session)


def _validation(job: _Pretraining, fabric: Fabric, log: EventLog) -> Validate:
    """Dice of whole validation patients, and a picture of the first."""
    space, modalities = LABEL_SPACES[job.card.label_space], job.card.modalities

    def validate(model: nn.Module, step: int) -> dict[str, float]:
        predictor = Predictor(model, modalities, space, autocast=fabric.autocast)
        rows = distributed_map(fabric, predictor.dice, job.val.cases)
        metrics = mean_dice(rows)
        if metrics:
            log_overlay(log, "val", predictor, job.val.cases[0], step)
        return {f"dice/val/{name}": value for name, value in metrics.items()}

    return validate


def _result(run: RunFolder) -> PretrainResult:
    summary: FitSummary = run.read_json("result.json", FitSummary)
    return PretrainResult(run.path, summary.metrics, summary.steps)
