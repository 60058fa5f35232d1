"""Reptile: move toward the weights that plain training on a task ends with (Nichol et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from metaseg.adapt.engines import EngineChoice, FastWeights, InnerLoop, StepResult, TaskBatch
from metaseg.adapt.engines.base import check_step
from metaseg.adapt.engines.functional import Values, add_to
from metaseg.adapt.methods.maml import Maml
from metaseg.adapt.methods.registry import register_method
from metaseg.config.segmentation import MetatuneConfig
from metaseg.errors import UsageError
from metaseg.training.optimization import Loss

Batches = tuple[tuple[Tensor, Tensor], ...]
"""Images and labels of an inner step, as one batch or, where sizes differ, as several."""


@register_method(
    "reptile",
    "meta",
    title="Reptile",
    paper="Nichol et al. 2018, On First-Order Meta-Learning Algorithms",
    needs_source="optional",
    cost="per task: inner steps x support or query, in turn; support + query with one inner step",
)
class Reptile(Maml):
    """Inner SGD over all slices of a task, and an outer step toward where it ends.

    Inner step j takes the support slices for even j and the query slices for odd j. With θ̃ after k steps, the outer
    gradient of a task is (θ − θ̃) / (α k), the mean of the inner gradients; tasks are summed, as in MAML. So it keeps
    the scale of an SGD gradient, and clipping its meaning, however many inner steps there are. It is computed as that
    mean, in which no digits cancel.

    With one inner step the query slices would never be seen. That step takes support and query as one batch then:
    joint training, to which Reptile comes down for k = 1 (Nichol et al. 2018, section 3). Its gradient is the SGD
    gradient of the task's slices.
    """

    def __init__(self, config: MetatuneConfig, model: nn.Module, fabric: Fabric) -> None:
        # No step is MAML's: the reference need not be imported.
        super().__init__(replace(config, engine="functional"), model, fabric)

    @classmethod
    def check(cls, config: MetatuneConfig) -> None:
        """Refuse what needs a query loss or an inner loop that is differentiated.

        Raises:
            UsageError: Settings contradict the method.
        """
        options = {
            "--multi-step-loss": config.multi_step_loss,
            "--learnable-inner-rates": config.learnable_inner_rates,
            "--first-order-fraction": config.first_order_fraction > 0,
        }
        given = [option for option, used in options.items() if used]
        if given:
            raise UsageError(
                f"{' and '.join(given)} with the method reptile, which has no query loss to differentiate",
                remedy="leave the option out, or use --method maml",
            )

    def first_order(self, progress: float) -> bool:
        """Always."""
        return True

    def cost(self, tasks: Sequence[TaskBatch], progress: float) -> int:
        """Slice gradient evaluations of a step."""
        return sum(
            len(images)
            for task in tasks
            for batches in inner_batches(task, self.config.inner_steps)
            for images, _ in batches
        )

    def engine_choice(self) -> EngineChoice | None:
        """None: nothing is differentiated but single passes."""
        return None

    def step(self, model: nn.Module, tasks: Sequence[TaskBatch], loss: Loss, progress: float) -> StepResult:
        """Add the outer gradient of a step to the network's.

        Returns:
            Loss before each inner step as support losses; the last of them as query loss, since the loss of θ̃ would
            cost another pass.
        """
        weights = FastWeights(model)
        check_step(tasks, InnerLoop(self.config.inner_learning_rate, self.config.inner_steps), weights.parameters)
        losses = []
        for task in tasks:
            with weights.task("running"):
                losses.append(self._inner_loop(weights, task, loss))
        found = torch.stack(losses)
        return StepResult(found, found[:, -1])

    def _inner_loop(self, weights: FastWeights, task: TaskBatch, loss: Loss) -> Tensor:
        """Train on a task, and add the mean gradient; gives the losses ``(inner_steps,)``."""
        steps, rate = self.config.inner_steps, self.config.inner_learning_rate
        values, total, losses = weights.values(), Values(), []
        for batches in inner_batches(task, steps):
            value, gradient = _differentiate(weights, values, batches, loss)
            values = values | {name: values[name] - rate * slope for name, slope in gradient.items()}
            add_to(total, gradient)
            losses.append(value)
        weights.add_gradient(total, 1 / steps)
        return torch.stack(losses)


def inner_batches(task: TaskBatch, steps: int) -> list[Batches]:
    """The slices of each inner step; see :class:`Reptile`."""
    support, query = (task.support_images, task.support_labels), (task.query_images, task.query_labels)
    if steps > 1:
        return [((support, query)[step % 2],) for step in range(steps)]
    if support[0].shape[1:] != query[0].shape[1:]:
        return [(support, query)]
    return [((torch.cat([support[0], query[0]]), torch.cat([support[1], query[1]])),)]


def _differentiate(weights: FastWeights, values: Values, batches: Batches, loss: Loss) -> tuple[Tensor, Values]:
    """Loss and gradient of an inner step, the mean over its slices."""
    slices, total, losses = sum(len(images) for images, _ in batches), Values(), []
    for images, labels in batches:
        found, part = weights.differentiate(values, weights.parameters, loss, images, labels), len(images) / slices
        add_to(total, {name: part * gradient for name, gradient in found.gradient.items()})
        losses.append(part * found.loss)
    return torch.stack(losses).sum(), total
