"""The reference engine: learn2learn's MAML (Finn et al. 2017; Arnold et al. 2020)."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metaseg.adapt.engines.base import (
    ENGINES,
    InnerLoop,
    NormStatistics,
    StepResult,
    TaskBatch,
    check_norm_statistics,
    check_step,
    checked_scalar,
    isolate_buffers,
)
from metaseg.errors import UsageError
from metaseg.training.optimization import Loss


@ENGINES.register("learn2learn")
class Learn2LearnEngine:
    """Meta-steps with ``learn2learn.algorithms.MAML``.

    Each task is cloned, adapted and differentiated before the next begins, so that memory does not grow with their
    number. learn2learn's clones share the model's buffers; here every clone gets its own.

    Args:
        norm_statistics: ``"running"`` (default) normalises by the pretrained running statistics, frozen: with one
            slice a task, batch statistics would turn a batch normalisation into another function than was trained.
            ``"batch"`` normalises by the slices at hand. Layers without running statistics do not care.

    Raises:
        UsageError: The choice is unknown, or learn2learn cannot be imported.
    """

    def __init__(self, norm_statistics: NormStatistics = "running") -> None:
        check_norm_statistics(norm_statistics)
        self.norm_statistics = norm_statistics
        self._maml = _import_maml()

    def step(self, model: nn.Module, tasks: Sequence[TaskBatch], loss: Loss, inner: InnerLoop) -> StepResult:
        """Add the outer gradient to the model's; see :meth:`metaseg.adapt.engines.base.MetaStepEngine.step`."""
        if not isinstance(inner.rates, int | float) or inner.query_weights is not None:
            raise UsageError(
                "learn2learn knows one inner rate for all parameters, and the last query loss",
                remedy="use the functional engine",
            )
        parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        check_step(tasks, inner, parameters)
        maml = self._maml(model, lr=inner.rates, first_order=inner.first_order, allow_nograd=True)
        support_losses, query_losses = [], []
        # A clone made without gradients would silently lose its tie to the model.
        with torch.enable_grad():
            for task in tasks:
                support, query = self._adapt(maml, task, loss, inner.steps)
                query.backward(inputs=list(parameters.values()))
                support_losses.append(support)
                query_losses.append(query.detach())
        return StepResult(torch.stack(support_losses), torch.stack(query_losses))

    def _adapt(self, maml: Any, task: TaskBatch, loss: Loss, inner_steps: int) -> tuple[Tensor, Tensor]:
        """One task: its support losses ``(inner_steps,)``, detached, and its query loss with the graph to the model."""
        learner = maml.clone()
        isolate_buffers(learner.module, self.norm_statistics)
        support_losses = []
        for _ in range(inner_steps):
            support_loss = checked_scalar(loss(learner(task.support_images), task.support_labels))
            learner.adapt(support_loss)
            support_losses.append(support_loss.detach())
        return torch.stack(support_losses), checked_scalar(loss(learner(task.query_images), task.query_labels))


def difference_from_reference(
    model: nn.Module, tasks: Sequence[TaskBatch], loss: Loss, inner: InnerLoop
) -> float | None:
    """How far the outer gradient in ``p.grad`` of the model's parameters is from learn2learn's for the same step.

    The gradient stays as it is. learn2learn takes about as long as for a step of its own.

    Args:
        model: The network, with the gradient that an engine has just added to none.
        tasks: The step's tasks.
        loss: Its loss.
        inner: Its inner loop.

    Returns:
        Norm of the difference, as a fraction of the norm of learn2learn's gradient; None where either is not finite.

    Raises:
        UsageError: learn2learn cannot be imported, or knows no such inner loop.
    """
    engine = Learn2LearnEngine()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        engine.step(model, tasks, loss, inner)
        expected = [parameter.grad for parameter in parameters]
    finally:
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient
    pairs = [_filled(*both) for both in zip(parameters, found, expected, strict=True)]
    apart = sum(float((one - other).square().sum()) for one, other in pairs) ** 0.5
    size = sum(float(other.square().sum()) for _, other in pairs) ** 0.5
    if not math.isfinite(apart) or not math.isfinite(size):
        return None
    return apart / size if size else apart


def _filled(parameter: Tensor, *gradients: Tensor | None) -> list[Tensor]:
    """Gradients in double precision, zeros where there is none."""
    filled = (torch.zeros_like(parameter) if gradient is None else gradient for gradient in gradients)
    return [gradient.detach().double() for gradient in filled]


def _import_maml() -> Any:
    """Import learn2learn's MAML without the notice that the gym it depends on prints, and without its warnings."""
    silent = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
            warnings.simplefilter("ignore")
            from learn2learn.algorithms import MAML
    except ImportError as error:
        raise UsageError(
            f"learn2learn cannot be imported ({error})",
            expected="learn2learn 0.2, built for this Python",
            remedy="install metaseg with 'uv sync', which builds it",
        ) from error
    return MAML
