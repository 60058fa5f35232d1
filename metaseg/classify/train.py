"""``metaseg classify train``: fit a slice classifier by a transfer strategy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from lightning_fabric import Fabric
from torch import nn

from metaseg.classify.annotator import refuse_to_lose_labels
from metaseg.classify.data import Parts, into_parts, open_slices, part_lines, phantoms_in_words
from metaseg.classify.fitting import (
    Rates,
    check_network,
    classifier_card,
    classifier_objective,
    classifier_optimizer,
    new_classifier,
    part_metrics,
    slice_probabilities,
    watched,
    watched_score,
)
from metaseg.classify.slices import ClassifiedSlices, SliceBatches
from metaseg.classify.transfer import Transfer, check_transfer, choose_transfer
from metaseg.config.classification import ClassifyActiveConfig, ClassifyTrainConfig
from metaseg.errors import recorded_warnings, warn_user
from metaseg.files import finite_metrics
from metaseg.inference.classification_files import write_classification_metrics
from metaseg.results import Result, metrics_table
from metaseg.runs.folder import RunFolder
from metaseg.runs.logs import EventLog
from metaseg.runs.manifest import read_manifest
from metaseg.runs.networks import (
    NO_FILES,
    inherited_from_weights,
    load_classifier_network,
    patients_known,
    run_of_checkpoint,
    trained_patients,
    weights_file,
)
from metaseg.runs.session import Inputs, RunSession, run_session
from metaseg.terminal import print_text
from metaseg.training.augment import Augmentation
from metaseg.training.fitted_run import FitSummary, Training, Validate, fit_in_run
from metaseg.training.loop import LoopPlan, LoopState, distributed_draw

SPLIT_NAME = "split.json"


@dataclass(frozen=True)
class ClassifyTrainResult(Result):
    """What a fit leaves.

    Attributes:
        run: The run folder.
        metrics: Validation metrics at the best step, ``auc/val`` and so on, and those of the test part, ``auc/test``.
        strategy: The transfer strategy that was followed.
        steps: Optimiser steps done.
    """

    run: Path
    metrics: dict[str, float | None]
    strategy: str
    steps: int

    def table(self) -> pd.DataFrame:
        """Metrics by name."""
        return metrics_table(value=self.metrics)


@dataclass(frozen=True)
class _Fit:
    """Everything that is made before the run folder is touched."""

    inputs: Inputs
    parts: Parts
    transfer: Transfer
    batches: SliceBatches
    plan: LoopPlan
    reason: str


@recorded_warnings()
def run_classify_train(config: ClassifyTrainConfig) -> ClassifyTrainResult:
    """Fit a slice classifier, and measure it on the test part.

    Args:
        config: All settings; see :class:`~metaseg.config.classification.ClassifyTrainConfig`.

    Raises:
        DataError: The cases cannot be used.
        UsageError: Settings contradict each other or the data.
        RunError: The run folder cannot be written or resumed.
        TrainingError: The loss became non-finite.
    """
    return run_session(config, lambda: _prepare(config), lambda session, job: _train(config, session, job), _result)


def _prepare(config: ClassifyTrainConfig) -> _Fit:
    if config.overwrite:
        refuse_to_lose_labels(config.out)
    if not config.data:
        print(f"No --data given: training on {phantoms_in_words(config)}, not on patients.")
    inputs = Inputs.of(config)
    slices, parts = open_parts(config, inputs)
    check_transfer(config)
    name, reason = choose_transfer(config, len(parts.train))
    transfer = Transfer(new_classifier(config, slices, config.seed), name)
    batches = SliceBatches(parts.train, config.batch_size, config.balance, Augmentation(config.augment), config.seed)
    return _Fit(inputs, parts, transfer, batches, _plan(config, transfer, batches.steps_per_epoch), reason)


def open_parts(
    config: ClassifyTrainConfig | ClassifyActiveConfig, inputs: Inputs, *, annotator: bool = False
) -> tuple[ClassifiedSlices, Parts]:
    """The slices of a run and their parts; a resumed run keeps those that it began with.

    Args:
        config: The verb's settings.
        inputs: Filled; or compared, where the run is resumed.
        annotator: As of :func:`~metaseg.classify.data.open_slices`.

    Raises:
        RunError: The run to resume began with other data, or other weights.
    """
    inputs.take_files(config)
    # Before the data, which may take long to prepare.
    check_network(config, download=True)
    slices = open_slices(config, annotator=annotator, inputs=inputs)
    inputs.check_fingerprint(slices.store.fingerprint)
    kept = None if inputs.run is None else inputs.run / SPLIT_NAME
    recorded = kept if kept is not None and kept.exists() else None
    parts = into_parts(slices, config, annotator=annotator, recorded=recorded)
    return slices, without_inherited(parts, config.weights)


def begin_run(session: RunSession, inputs: Inputs, parts: Parts, **extra: Any) -> None:
    """Print the parts of a run, and write down what it is made from; ``extra`` goes into the manifest."""
    print("\n".join(part_lines(parts)))
    parts.split.save(session.run.path / SPLIT_NAME)
    session.begin(
        inputs,
        {"train": parts.train.cases, "val": parts.val.cases},
        inherited_from_weights(session.config.weights),
        fingerprint=parts.train.store.fingerprint,
        synthetic=parts.train.store.synthetic,
        **extra,
    )


def _plan(config: ClassifyTrainConfig, transfer: Transfer, steps_per_epoch: int) -> LoopPlan:
    total = config.epochs * steps_per_epoch
    marks = range(config.validate_every * steps_per_epoch, total, config.validate_every * steps_per_epoch)
    return LoopPlan(
        total_steps=total,
        mark_every=total,
        rate=Rates(config, total, steps_per_epoch),
        clip_norm=config.clip_norm,
        seed=config.seed,
        # A block is let go at the end of its stage, whether a validation falls there or not.
        mark_steps=frozenset({*marks, *_stage_ends(config, transfer, steps_per_epoch)}),
    )


def _stage_ends(config: ClassifyTrainConfig, transfer: Transfer, steps_per_epoch: int) -> tuple[int, ...]:
    return transfer.stage_ends(config.epochs * steps_per_epoch, config.unfreeze_epochs * steps_per_epoch)


def without_inherited(parts: Parts, weights: str) -> Parts:
    """Parts whose validation and test patients the weights have not been trained on.

    A part that loses all slices of a class by that is left out whole: its metrics would be of another task.
    """
    run = run_of_checkpoint(Path(weights_file(weights)))
    seen = trained_patients(run) if run is not None else frozenset()
    if weights not in NO_FILES and (run is None or not patients_known(run)):
        warn_user(
            "it is not known on whom the weights were trained: those patients may be validated and tested on",
            where=weights,
            remedy="name a run whose patients.json is there",
        )
    left = {}
    for name, part in (("validation", parts.val), ("test", parts.test)):
        rest = part.take([place for place, patient in enumerate(part.patients) if patient not in seen])
        if len(rest) < len(part):
            print(f"{len(part) - len(rest)} {name} slices are of patients that the weights were trained on: left out")
        lacking = rest.absent_classes()
        if lacking and len(rest):
            print(f"without them the {name} part has no slice of class {', '.join(lacking)}: it is left out whole")
            rest = rest.take([])
        left[name] = rest
    return Parts(parts.train, left["validation"], left["test"], parts.split)


def _train(config: ClassifyTrainConfig, session: RunSession, job: _Fit) -> None:
    run, fabric = session.run, session.fabric
    model, slices = job.transfer.model, job.parts.train
    print_text(
        f"{config.model} with {len(slices.modalities)} modalities and {len(slices.classes)} classes "
        f"({', '.join(slices.classes)}), {slices.input_size} pixels, {job.plan.total_steps} steps of "
        f"{job.batches.batch_size} slices on {fabric.device}"
    )
    begin_run(session, job.inputs, job.parts, strategy=job.transfer.name, reason=job.reason)
    print(f"transfer {job.transfer.name}: {job.reason}")
    if job.transfer.name == "gradual-unfreeze":
        _tell_stages(config, job)
    state = LoopState()
    training = Training(
        title="training",
        model=model,
        card=classifier_card(config, model, slices),
        optimizer=classifier_optimizer(config, job.transfer),
        plan=job.plan,
        draw=distributed_draw(fabric, job.batches.draw, job.batches.batch_size, job.plan.total_steps),
        objective=classifier_objective(job.transfer, lambda: state.extra),
        validate=lambda log: _validation(config, job, state, log, fabric),
        score=lambda metrics, before: watched_score(metrics, config.monitor),
        steps_per_epoch=job.batches.steps_per_epoch,
        patience=config.patience,
        state=state,
    )
    fit_in_run(training, session)
    if job.transfer.name == "gradual-unfreeze":
        blocks, learned = [name for name, _ in model.blocks], job.transfer.released(state.extra)
        print(f"{learned} of {len(blocks)} blocks were let go: {', '.join(blocks[len(blocks) - learned :]) or 'none'}")
    if config.test and len(job.parts.test):
        _test(config, run, job.parts.test, fabric)


def _tell_stages(config: ClassifyTrainConfig, job: _Fit) -> None:
    """Say how gradual unfreezing spends its epochs, which are as many as those of any other transfer."""
    ends, blocks = _stage_ends(config, job.transfer, job.batches.steps_per_epoch), job.transfer.num_blocks
    first = (*ends, job.plan.total_steps)[0]
    print(
        f"{config.epochs} epochs in all: a block is let go every {first} steps until the validation {config.monitor} "
        f"is {config.unfreeze_target:g}; those that learn then learn on to the end"
    )
    if len(ends) < blocks:
        warn_user(
            f"{config.epochs} epochs reach {len(ends)} of the {blocks} blocks of '{config.model}'",
            expected=f"at least {blocks + 1} stages, to be able to let all go",
            remedy="raise --epochs, or divide them evenly with --unfreeze-epochs 0",
        )


def _validation(config: ClassifyTrainConfig, job: _Fit, state: LoopState, log: EventLog, fabric: Fabric) -> Validate:
    """Metrics of the validation slices; lets the next block go when gradual unfreezing has waited long enough."""
    ends = set(_stage_ends(config, job.transfer, job.batches.steps_per_epoch))

    def validate(model: nn.Module, step: int) -> dict[str, float]:
        metrics = part_metrics(model, job.parts.val, "val", fabric)
        if job.transfer.name == "gradual-unfreeze":
            extra = state.extra
            best = max(float(extra.get("score", 0.0)), watched_score(metrics, config.monitor))
            if step in ends and best < config.unfreeze_target:
                extra["released"] = job.transfer.released(extra) + 1
            log.scalars({"blocks/released": float(job.transfer.released(extra))}, step=step)
        return metrics

    return validate


def measure_test_part(run: RunFolder, model: nn.Module, test: ClassifiedSlices, seed: int) -> dict[str, float]:
    """Write predictions and metrics of a run's test slices; gives the watched metrics, ``auc/test`` and so on.

    Args:
        run: The run folder.
        model: The classifier, on its device.
        test: The slices.
        seed: Seed of the bootstrap.
    """
    probabilities = slice_probabilities(model, test)
    write_classification_metrics(run.path / "test", probabilities, test, seed=seed, synthetic=test.store.synthetic)
    return watched(probabilities, test, "test")


def _test(config: ClassifyTrainConfig, run: RunFolder, test: ClassifiedSlices, fabric: Fabric) -> None:
    model = load_classifier_network(run.path).model.to(fabric.device)
    metrics = measure_test_part(run, model, test, config.seed)
    summary = run.read_json("result.json")
    run.write_json("result.json", {**summary, "metrics": {**summary["metrics"], **finite_metrics(metrics)}})
    run.state.set_metrics(metrics)
    for name, value in metrics.items():
        print(f"  {name} {value:.3f}")


def _result(run: RunFolder) -> ClassifyTrainResult:
    summary: FitSummary = run.read_json("result.json", FitSummary)
    return ClassifyTrainResult(
        run.path, dict(summary.metrics), str(read_manifest(run.path).get("strategy", "")), summary.steps
    )
