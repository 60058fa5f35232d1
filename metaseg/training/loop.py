"""The one ordinary training loop: pretraining and naive tuning both run in it.

Everything that is drawn is a function of the seed and the step, so that the loop's state is the step, the weights, the
optimiser's moments and the best figure so far. A run that was killed continues from the last mark to the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from metaseg.models.processes import WholeBatch, agree, combine_gradients, several
from metaseg.models.whole_batch_layers import span_batches
from metaseg.runs.training_state import load_training_state, save_training_state
from metaseg.training.averaging import AveragedModel
from metaseg.training.divergence import diverged, require_finite_images, require_finite_weights

Batch = tuple[Tensor, Tensor]
"""Images ``(batch, modality, height, width)`` and classes ``(batch, height, width)``; of whole slices ``(batch,)``."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Takes logits ``(batch, class, height, width)`` and classes ``(batch, height, width)``, gives a scalar."""

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
    if resume and state_file is not None:
        _restore(state_file, module, optimizer, averaged, state, fabric)
    final = averaged.model if averaged else module
    checkpoints = state_file and state_file.parent
    while state.step < plan.total_steps and not state.stopped:
        values = _step(model, optimizer, fabric, plan, draw, objective, state.step, checkpoints)
        if averaged:
            averaged.update(module)
        state.step += 1
        listener.on_step(state.step, values)
        if plan.is_mark(state.step):
            # The next loss would tell what this step did to the weights; they are saved before it.
            require_finite_weights(final, f"step {state.step}", checkpoints)
            state.stopped = not listener.on_mark(state.step, final)
            if state_file is not None:
                _save(state_file, module, optimizer, averaged, state)
    return final


def _step(
    model: nn.Module,
    optimizer: Optimizer,
    fabric: Fabric,
    plan: LoopPlan,
    draw: Callable[[int], Batch],
    objective: Objective,
    step: int,
    checkpoints: Path | None,
) -> dict[str, float]:
    rate = plan.rate(step)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_factor", 1.0)
    # Dropout draws from torch's global generator: pinned to the step, a resumed run draws the same.
    torch.manual_seed(plan.seed * 1_000_003 + step)
    images, classes = draw(step)
    model.train()
    optimizer.zero_grad(set_to_none=True)
    value = objective(model, fabric.to_device(images), fabric.to_device(classes))
    number = float(value.detach())
    if not math.isfinite(number):
        require_finite_images(images, f"step {step + 1}")
        raise diverged("loss", f"step {step + 1}", checkpoints)
    fabric.backward(value)
    combine_gradients(fabric, model.parameters(), mean=True)
    values = {"loss": number, "learning_rate": rate}
    if plan.clip_norm:
        norm = fabric.clip_gradients(model, optimizer, max_norm=plan.clip_norm, error_if_nonfinite=False)
        values["gradient_norm"] = float(norm) if norm is not None else float("nan")
        # A gradient scaler skips such a step and lowers its scale by itself.
        scaled = getattr(fabric._precision, "scaler", None) is not None
        if not scaled and not math.isfinite(values["gradient_norm"]):
            raise diverged("gradient", f"step {step + 1}", checkpoints)
    optimizer.step()
    return values


def _save(path: Path, model: nn.Module, optimizer: Optimizer, averaged: AveragedModel | None, state: LoopState) -> None:
    values: dict[str, Any] = {
        "step": state.step,
        "stopped": state.stopped,
        "extra": state.extra,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    if averaged:
        values |= {"average": averaged.model.state_dict(), "average_updates": averaged.updates}
    save_training_state(path, values)


def _restore(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    averaged: AveragedModel | None,
    state: LoopState,
    fabric: Fabric,
) -> None:
    values = load_training_state(path)
    model.load_state_dict(values["model"])
    optimizer.load_state_dict(values["optimizer"])
    if averaged:
        averaged.model.load_state_dict(values["average"])
        averaged.updates = values["average_updates"]
    state.step, state.stopped = values["step"], values["stopped"]
    state.extra.clear()
    state.extra.update(values["extra"])
