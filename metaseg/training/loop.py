"""The one ordinary training loop: pretraining, naive tuning and the fit of classifiers all run in it.

Everything that is drawn is a function of the seed and the step, so that the loop's state is the step, the weights, the
optimiser's moments and the best metric so far. A run that was killed continues from the last mark to the same bits.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from metaseg.errors import RunError, TrainingError
from metaseg.models.card import checkpoint_files, read_card
from metaseg.models.processes import (
    WholeBatch,
    agree,
    combine_gradients,
    gather_rows,
    row_bounds,
    several,
    span_batches,
)
from metaseg.models.weights import non_finite, unique_state
from metaseg.runs.training_state import load_training_state, save_training_state
from metaseg.threads import ReadAhead
from metaseg.training.optimization import AveragedModel, Loss

Batch = tuple[Tensor, Tensor]
"""Images ``(batch, modality, height, width)`` and classes ``(batch, height, width)``; of whole slices ``(batch,)``."""

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Takes the network, images and classes of a batch, gives the scalar to minimise."""


def supervised(loss: Loss) -> Objective:
    """The ordinary objective: a loss of the network's logits and the classes."""
    return lambda model, images, classes: loss(model(images), classes)


class LoopListener(Protocol):
    """What a verb does around the loop."""

    def on_step(self, step: int, values: dict[str, float]) -> None:
        """After every step; ``step`` counts the steps done, ``values`` holds loss and learning rate."""
        ...

    def on_mark(self, step: int, model: nn.Module) -> bool:
        """At every mark, before the state is saved; returns False to stop early."""
        ...


@dataclass(frozen=True)
class LoopPlan:
    """Length and pace of a training.

    Attributes:
        total_steps: Steps in all.
        mark_every: Steps between marks, at which the listener validates and the state is saved.
        rate: Learning rate of a step.
        clip_norm: Largest gradient norm; 0 switches clipping off.
        average: Decay of the averaged weights; 0 switches them off.
        seed: Seed of what the network itself draws (dropout).
        mark_steps: Steps of the marks, where they do not come evenly; ``mark_every`` is ignored then.
    """

    total_steps: int
    mark_every: int
    rate: Callable[[int], float]
    clip_norm: float = 0.0
    average: float = 0.0
    seed: int = 0
    mark_steps: frozenset[int] | None = None

    def is_mark(self, step: int) -> bool:
        """Whether a mark lies after ``step`` steps; the last step is always one."""
        due = step % self.mark_every == 0 if self.mark_steps is None else step in self.mark_steps
        return due or step == self.total_steps


@dataclass
class LoopState:
    """Where the loop stands; ``extra`` is the listener's."""

    step: int = 0
    stopped: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Loop:
    """A network in training, with all that a step needs.

    Attributes:
        module: The plain network.
        model: The same, set up for device, precision and processes.
        optimizer: Its optimiser.
        averaged: Its averaged weights, where they are kept.
        fabric: Device and precision.
        plan: Length and pace.
        checkpoints: Folder with the run's checkpoints; None if nothing is saved.
    """

    module: nn.Module
    model: nn.Module
    optimizer: Optimizer
    averaged: AveragedModel | None
    fabric: Fabric
    plan: LoopPlan
    checkpoints: Path | None

    def step(self, number: int, draw: Callable[[int], Batch], objective: Objective) -> dict[str, float]:
        """One step, counted from 0; gives its loss and learning rate."""
        fabric, plan, optimizer, rate = self.fabric, self.plan, self.optimizer, self.plan.rate(number)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("rate_factor", 1.0)
        # Dropout draws from torch's global generator: pinned to the step, a resumed run draws the same.
        torch.manual_seed(plan.seed * 1_000_003 + number)
        images, classes = draw(number)
        self.model.train()
        optimizer.zero_grad(set_to_none=True)
        value = objective(self.model, fabric.to_device(images), fabric.to_device(classes))
        values = {"loss": float(value.detach()), "learning_rate": rate}
        if not math.isfinite(values["loss"]):
            require_finite_images(images, f"step {number + 1}")
            raise diverged("loss", f"step {number + 1}", self.checkpoints)
        fabric.backward(value)
        combine_gradients(fabric, self.model.parameters(), mean=True)
        if plan.clip_norm:
            norm = fabric.clip_gradients(self.model, optimizer, max_norm=plan.clip_norm, error_if_nonfinite=False)
            values["gradient_norm"] = float(norm) if norm is not None else float("nan")
            # A gradient scaler skips such a step and lowers its scale by itself.
            scaled = getattr(fabric._precision, "scaler", None) is not None
            if not scaled and not math.isfinite(values["gradient_norm"]):
                raise diverged("gradient", f"step {number + 1}", self.checkpoints)
        optimizer.step()
        if self.averaged:
            self.averaged.update(self.module)
        return values

    def saved(self, state: LoopState) -> dict[str, Any]:
        """All that is needed to continue."""
        networks = {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        return vars(state) | networks | (self.averaged.saved() if self.averaged else {})

    def restore(self, values: dict[str, Any], state: LoopState) -> None:
        """The inverse of :meth:`saved`."""
        self.module.load_state_dict(values["model"])
        self.optimizer.load_state_dict(values["optimizer"])
        if self.averaged:
            self.averaged.restore(values)
        state.step, state.stopped = values["step"], values["stopped"]
        state.extra.clear()
        state.extra.update(values["extra"])


def fit(
    model: nn.Module,
    optimizer: Optimizer,
    fabric: Fabric,
    plan: LoopPlan,
    draw: Callable[[int], Batch],
    objective: Objective,
    listener: LoopListener,
    state: LoopState,
    state_file: Path | None,
    resume: bool = False,
) -> nn.Module:
    """Train a network.

    Args:
        model: The network, on the CPU or already on the device.
        optimizer: Its optimiser.
        fabric: Device and precision.
        plan: Length and pace.
        draw: Batch of a step; a pure function of the step.
        objective: What is minimised; see :func:`supervised`.
        listener: What to do after steps and at marks.
        state: Filled while training; shared with the listener.
        state_file: Where the state is saved at every mark; None for a training so short that it is rather repeated.
        resume: Continue from ``state_file``.

    Returns:
        The network to use: the averaged one if ``plan.average`` is set, else ``model``.

    Raises:
        TrainingError: The loss or the gradient became non-finite; the state of the last mark stays on disk.
    """
    module = model
    if several(fabric):
        span_batches(module)
    model, optimizer = fabric.setup(module, optimizer)
    if several(fabric):
        agree(fabric, module)
        model = WholeBatch(model, fabric)
    averaged = AveragedModel(module, plan.average) if plan.average else None
    checkpoints = state_file and state_file.parent
    loop = _Loop(module, model, optimizer, averaged, fabric, plan, checkpoints)
    if resume and state_file is not None:
        loop.restore(load_training_state(state_file), state)
    final = averaged.model if averaged else module
    while state.step < plan.total_steps and not state.stopped:
        values = loop.step(state.step, draw, objective)
        state.step += 1
        listener.on_step(state.step, values)
        if plan.is_mark(state.step):
            # The next loss would tell what this step did to the weights; they are saved before it.
            require_finite_weights(final, f"step {state.step}", checkpoints)
            state.stopped = not listener.on_mark(state.step, final)
            if state_file is not None:
                save_training_state(state_file, loop.saved(state))
    return final


def diverged(what: str, when: str, checkpoints: Path | None, rates: str = "--learning-rate") -> TrainingError:
    """The error of a training that diverged.

    Args:
        what: What is not finite, such as ``"loss"``.
        when: Such as ``"step 12"``.
        checkpoints: Folder with the run's checkpoints, which hold finite weights alone; None if nothing is saved.
        rates: Options to lower.
    """
    return TrainingError(
        f"the {what} became non-finite at {when}",
        expected="finite numbers",
        remedy=f"lower {rates} and start again; {_kept(checkpoints)}",
    )


def _kept(checkpoints: Path | None) -> str:
    """Which weights of before are there."""
    weights, card = checkpoint_files((checkpoints or Path()) / "last")
    try:
        step = read_card(card)[0].step
    except RunError:
        return "no weights had been saved"
    return f"{weights} holds the last good weights, those of step {step}"


def require_finite_weights(
    model: nn.Module, when: str, checkpoints: Path | None, rates: str = "--learning-rate"
) -> None:
    """Raise as :func:`diverged` says if a network's parameters or buffers are not finite."""
    name = non_finite(unique_state(model))
    if name is not None:
        raise diverged(f"tensor {name} of the network", when, checkpoints, rates)


def require_finite_images(images: Tensor, when: str) -> None:
    """Raise unless a batch is finite: what spoils a loss may be the data and not the learning rate."""
    if non_finite({"images": images}) is not None:
        raise TrainingError(
            f"the images of the batch hold non-finite values at {when}",
            expected="finite intensities",
            remedy="run 'metaseg data check' on the data, and leave the case out; or train with --augment none",
        )


DrawRows = Callable[[int, slice], Batch]
"""Takes a step and rows of its batch, gives these rows."""

MOST_THREADS = 4
"""Chosen without a GPU at hand; more would wait for each other at the interpreter's lock."""


def threads_ahead(device: torch.device) -> int:
    """Threads that draw ahead for a device: none on a CPU, whose cores have the network to compute."""
    return 0 if device.type == "cpu" else min(MOST_THREADS, max(1, (os.cpu_count() or 1) - 1))


def draw_ahead(draw: DrawRows, rows: slice, threads: int, total_steps: int) -> Callable[[int], Batch]:
    """Draw the same rows of every batch, in part before they are asked for.

    Args:
        draw: Takes a step and rows of its batch and gives these rows; a pure function that threads may call.
        rows: The rows.
        threads: Threads, each of which has one batch under way; 0 draws when asked.
        total_steps: The step at which there is nothing more to draw.
    """
    ahead: ReadAhead[int, Batch] = ReadAhead(lambda step: draw(step, rows), threads)
    return lambda step: ahead(step, range(step + 1, min(step + threads + 1, total_steps)))


def distributed_draw(fabric: Fabric, draw: DrawRows, batch_size: int, total_steps: int) -> Callable[[int], Batch]:
    """The loop's draw of a batch of which this process passes its own rows alone; for a GPU, threads draw ahead.

    Args:
        fabric: Of this process.
        draw: Draws rows of a batch; the same for all processes, and one that threads may call.
        batch_size: Rows of every batch.
        total_steps: Steps of the loop.

    Returns:
        Draws a batch whose images are zero but for the own rows, see
        :class:`~metaseg.models.processes.WholeBatch`; its classes are those of the whole batch.
    """
    threads = threads_ahead(fabric.device)
    if not several(fabric):
        return draw_ahead(draw, slice(None), threads, total_steps)
    bounds = row_bounds(batch_size, fabric.world_size)
    start, stop = bounds[fabric.global_rank], bounds[fabric.global_rank + 1]
    # Who has no row still has to know what one looks like.
    own_rows = draw_ahead(draw, slice(start, max(stop, start + 1)), threads, total_steps)

    def whole_batch(step: int) -> Batch:
        images, classes = own_rows(step)
        whole = images.new_zeros((batch_size, *images.shape[1:]))
        whole[start:stop] = images[: stop - start]
        # On the device: NCCL gathers nowhere else.
        return whole, gather_rows(fabric.to_device(classes[: stop - start]), bounds)

    return whole_batch
