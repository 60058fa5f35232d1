"""A training in a run folder: manifest, patients, logs, the loop, and what is written at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer

from metaseg.errors import RunError, warn_user
from metaseg.models.checkpoint import ModelCard, checkpoint_files, read_checkpoint
from metaseg.runs.events import EventLog
from metaseg.runs.folder import RunFolder
from metaseg.runs.inputs import Inputs
from metaseg.runs.manifest import make_manifest
from metaseg.runs.networks import inherited_rows, patient_rows, patients_known, run_of_checkpoint, trained_patients
from metaseg.runs.progress import progress
from metaseg.runs.training_state import can_go_on, load_training_state
from metaseg.training.fit_listener import FitListener, Score, Validate
from metaseg.training.loop import Batch, LoopPlan, LoopState, Objective, fit
from metaseg.written_files import finite_figures

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
        patience: Validations without a better figure before stopping.
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

    figures: dict[str, float | None]
    steps: int
    best_step: int


def fit_in_run(job: FittedRun, run: RunFolder, fabric: Fabric, *, seed: int, resume: bool) -> LoopState:
    """Train in a run folder, or go on; writes ``result.json`` and prints the best figures.

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
    figures: dict[str, float] = state.extra["figures"]
    run.write_json("result.json", asdict(FitSummary(finite_figures(figures), state.step, state.extra["best_step"])))
    print(f"run: {run.path}")
    for name, value in figures.items():
        print(f"  {name} {value:.3f} (best, step {state.extra['best_step']})")


def _drop_damaged_best(run: RunFolder) -> None:
    """Delete best weights that cannot be read: the next mark then keeps its own, whatever their figure was."""
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
