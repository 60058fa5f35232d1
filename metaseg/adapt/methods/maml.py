"""MAML (Finn et al. 2017), and the frame in which the other meta-learning methods differ from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from metaseg.adapt.engines import Loss, MetaStepEngine, StepResult, TaskBatch, build_engine, slice_gradient_evaluations
from metaseg.adapt.methods.registry import register_method
from metaseg.config import MetatuneConfig


@register_method(
    "maml",
    "meta",
    title="MAML meta-tuning",
    paper="Finn et al. 2017, Model-Agnostic Meta-Learning; Han et al. 2018",
    needs_source="optional",
    cost="per task: 2 x inner steps x support + query; 1 x in first order",
)
class Maml:
    """Model-agnostic meta-learning. A method of the meta family overrides what it does otherwise.

    Args:
        config: The verb's settings.
        model: The network, on its device.
        fabric: Device and precision.
    """

    def __init__(self, config: MetatuneConfig, model: nn.Module, fabric: Fabric) -> None:
        self.config, self.fabric = config, fabric
        self.engine: MetaStepEngine = build_engine(config.engine)

    def parameters(self) -> list[nn.Parameter]:
        """What is learned beside the network's own parameters, such as inner learning rates."""
        return []

    def first_order(self, progress: float) -> bool:
        """Whether a step drops the second derivative.

        Args:
            progress: Share of the budget that is spent, in [0, 1].
        """
        return self.config.first_order

    def cost(self, tasks: Sequence[TaskBatch], progress: float) -> int:
        """Slice gradient evaluations of a step."""
        return sum(
            slice_gradient_evaluations(
                1,
                self.config.inner_steps,
                len(task.support_images),
                len(task.query_images),
                self.first_order(progress),
            )
            for task in tasks
        )

    def step(self, model: nn.Module, tasks: Sequence[TaskBatch], loss: Loss, progress: float) -> StepResult:
        """Add the outer gradient of a step to ``p.grad`` of the network's and of :meth:`parameters`."""
        return self.engine.step(
            model,
            tasks,
            loss,
            self.config.inner_learning_rate,
            self.config.inner_steps,
            self.first_order(progress),
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the network, its optimiser and the counters."""
        return {}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
