"""MAML (Finn et al. 2017) with the parts of MAML++, and the meta-learning methods that differ from it in a part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from metaseg.adapt.engines import (
    BatchedEngine,
    EngineChoice,
    InnerLoop,
    StepResult,
    TaskBatch,
    build_engine,
    slice_gradient_evaluations,
)
from metaseg.adapt.engines.functional import trainable_parameters
from metaseg.adapt.methods.registry import Stage, register_method
from metaseg.config.segmentation import MetatuneConfig
from metaseg.errors import RunError, UsageError
from metaseg.models.parts import head_modules
from metaseg.training.optimization import Loss

UNIT = 32.0
"""Learned values are in units of so many α: an Adam step at outer rate β moves a rate by about 32 β α, one hundredth of
α at the default β of 3e-4. MAML++ moves its rates at the same pace (β 1e-3, α 0.1). Moved by β itself, a rate of 0.01
would double within 33 steps. A power of two, so that rates start at α to the bit."""


class LearnableRates:
    """Inner rates, plain values as in the papers: they may pass zero and become negative.

    Args:
        adapted: The parameters of the inner loop, by name.
        rate: α, with which all begin.
        steps: Inner steps.
        each: ``"element"``: a rate for every element, the same in all steps (Meta-SGD, Li et al. 2017);
            ``"layer"``: a rate for every parameter tensor and step (MAML++, Antoniou et al. 2019).
    """

    def __init__(
        self, adapted: Mapping[str, nn.Parameter], rate: float, steps: int, each: Literal["element", "layer"]
    ) -> None:
        self.scale, self.steps, self.each = UNIT * rate, steps, each
        self.values = {
            name: nn.Parameter(
                parameter.new_full(parameter.shape if each == "element" else (steps,), 1 / UNIT, requires_grad=False)
            )
            for name, parameter in adapted.items()
        }

    def parameters(self) -> list[nn.Parameter]:
        """What the outer optimiser learns: the rates in units of :data:`UNIT` α."""
        return list(self.values.values())

    def tables(self) -> list[dict[str, Tensor]]:
        """The rates of each inner step, tied to :meth:`parameters` by their graph."""
        with torch.enable_grad():
            rates = {name: self.scale * value for name, value in self.values.items()}
            if self.each == "element":
                return [rates] * self.steps
            return [{name: rate[step] for name, rate in rates.items()} for step in range(self.steps)]

    def state_dict(self) -> dict[str, Tensor]:
        """The learned values, by the parameter's name."""
        return {name: value.detach() for name, value in self.values.items()}

    def load_state_dict(self, values: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            RunError: The values are those of another network or number of inner steps.
        """
        found = {name: tuple(value.shape) for name, value in values.items()}
        expected = {name: tuple(value.shape) for name, value in self.values.items()}
        if found != expected:
            raise RunError(
                "the saved inner rates do not fit the network and its inner steps",
                expected="the settings with which the run was begun",
                remedy="start the run again with --overwrite",
            )
        with torch.no_grad():
            for name, value in values.items():
                self.values[name].copy_(value)


Parameters = dict[str, nn.Parameter]


@register_method(
    "maml",
    "meta",
    title="MAML meta-tuning",
    paper="Finn et al. 2017, Model-Agnostic Meta-Learning; Han et al. 2018",
    needs_source="optional",
    cost="per task: 2 x inner steps x support + query; 1 x in first order; multi-step loss: inner steps x query",
)
class Maml:
    """Model-agnostic meta-learning. A method of the meta family overrides what it does otherwise.

    The parts of MAML++ (Antoniou et al. 2019, How to Train Your MAML) are switches of the settings:

    * ``multi_step_loss``: the query loss after every inner step, weighed alike at first and then, linearly over the
      budget, the last alone. With one inner step it changes nothing.
    * ``first_order_fraction``: derivative-order annealing, first order until that fraction of the budget is spent.
    * ``learnable_inner_rates``: an inner rate for every layer and inner step; see :class:`LearnableRates`.

    ``config.engine`` computes the steps. Where several query losses or learnable rates take part, or the inner loop
    takes some parameters only, ``learn2learn`` cannot, and the functional engine does instead.

    Args:
        config: The verb's settings.
        model: The network, on its device.
        fabric: Device and precision.

    Raises:
        UsageError: As :meth:`check`.
    """

    defaults: MappingProxyType[str, Any] = MappingProxyType(
        {"augment": "none", "ema": 0.0, "interpolation": 1.0, "recall_weight": 0.7, "outer_learning_rate": 3e-4}
    )
    stages: tuple[Stage, ...] = (
        Stage("rate", ({"outer_learning_rate": 3e-4}, {"outer_learning_rate": 1e-3}, {"outer_learning_rate": 1e-4})),
        Stage("recall", ({"recall_weight": 0.7}, {"recall_weight": 0.5}, {"recall_weight": 0.85}), "normal"),
    )

    def __init__(self, config: MetatuneConfig, model: nn.Module, fabric: Fabric) -> None:
        self.check(config)
        self.config, self.fabric = config, fabric
        trainable = trainable_parameters(model)
        self.adapted = self.inner_parameters(model, trainable)
        self.rates = self.learnable_rates(self.adapted)
        self.multi_step = config.multi_step_loss and config.inner_steps > 1
        # Whether all trainable parameters are adapted at one rate.
        self.plain = self.rates is None and self.adapted.keys() == trainable.keys()
        # The reference is imported only where it has something to do.
        reference = self.plain and not self.multi_step
        self.engine_name = "functional" if config.engine == "learn2learn" and not reference else config.engine
        self.engine = build_engine(self.engine_name)

    @classmethod
    def check(cls, config: MetatuneConfig) -> None:
        """Check settings before any data are read.

        Raises:
            UsageError: Settings contradict the method or each other.
        """
        if config.first_order and 0 < config.first_order_fraction < 1:
            raise UsageError(
                "--first-order drops the second derivative always, "
                f"--first-order-fraction {config.first_order_fraction} for a part of the budget",
                remedy="give one of the two",
            )

    def inner_parameters(self, model: nn.Module, trainable: Parameters) -> Parameters:
        """Those of the trainable parameters that the inner loop adapts: all."""
        return trainable

    def learnable_rates(self, adapted: Parameters) -> LearnableRates | None:
        """Inner rates to learn; None where α stays as it is."""
        config = self.config
        if not config.learnable_inner_rates:
            return None
        return LearnableRates(adapted, config.inner_learning_rate, config.inner_steps, "layer")

    def parameters(self) -> list[nn.Parameter]:
        """What is trained beside the network's own parameters, such as inner learning rates."""
        return self.rates.parameters() if self.rates else []

    def first_order(self, progress: float) -> bool:
        """Whether a step drops the second derivative.

        Args:
            progress: Fraction of the budget that is spent, in [0, 1].
        """
        return self.config.first_order or progress < self.config.first_order_fraction

    def query_weights(self, progress: float) -> tuple[float, ...]:
        """Weight of the query loss after each inner step, ``(inner_steps,)``; they sum to 1.

        Args:
            progress: Fraction of the budget that is spent, in [0, 1].
        """
        steps = self.config.inner_steps
        early = (1 - progress) / steps if self.multi_step else 0.0
        return (*[early] * (steps - 1), 1 - early * (steps - 1))

    def cost(self, tasks: Sequence[TaskBatch], progress: float) -> int:
        """Slice gradient evaluations of a step."""
        query_passes = sum(weight > 0 for weight in self.query_weights(progress))
        return sum(
            slice_gradient_evaluations(
                1,
                self.config.inner_steps,
                len(task.support_images),
                query_passes * len(task.query_images),
                self.first_order(progress),
            )
            for task in tasks
        )

    def step(self, model: nn.Module, tasks: Sequence[TaskBatch], loss: Loss, progress: float) -> StepResult:
        """Add the outer gradient of a step to ``p.grad`` of the network's and of :meth:`parameters`."""
        return self.engine.step(model, tasks, loss, self.inner_loop(progress))

    @property
    def has_reference(self) -> bool:
        """Whether learn2learn's MAML computes the same step; a method that overrides :meth:`step` is on its own."""
        return self.plain and not self.multi_step and type(self).step is Maml.step

    def inner_loop(self, progress: float) -> InnerLoop:
        """How a task is adapted.

        Args:
            progress: Fraction of the budget that is spent, in [0, 1].
        """
        rate, weights = self.config.inner_learning_rate, self.query_weights(progress) if self.multi_step else None
        rates = self.rates.tables() if self.rates else rate if self.plain else dict.fromkeys(self.adapted, rate)
        return InnerLoop(rates, self.config.inner_steps, self.first_order(progress), weights)

    def engine_choice(self) -> EngineChoice | None:
        """Which engine computed the last step, and why; None where none does."""
        asked = self.config.engine
        if isinstance(self.engine, BatchedEngine):
            why = f"{self.fabric.device.type}: " if asked == "auto" else "as asked for; "
            return EngineChoice("batched", why + self.engine.said)
        if self.engine_name == asked:
            return EngineChoice(asked, "as asked for")
        return EngineChoice(self.engine_name, f"{asked} has no such inner loop")

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the network, its optimiser and the counters."""
        return {"inner_rates": self.rates.state_dict()} if self.rates else {}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        if self.rates:
            self.rates.load_state_dict(values.get("inner_rates", {}))


@register_method(
    "fomaml",
    "meta",
    title="first-order MAML",
    paper="Finn et al. 2017, section 5.2",
    needs_source="optional",
    cost="per task: inner steps x support + query; multi-step loss: inner steps x query",
)
class FirstOrderMaml(Maml):
    """MAML whose inner gradients count as constants."""

    @classmethod
    def check(cls, config: MetatuneConfig) -> None:
        """Refuse a second derivative for a part of the budget.

        Raises:
            UsageError: Settings contradict the method.
        """
        if 0 < config.first_order_fraction < 1:
            raise UsageError(
                f"--first-order-fraction {config.first_order_fraction} with the method fomaml, which is first order "
                "always",
                remedy="use --method maml",
            )

    def first_order(self, progress: float) -> bool:
        """Always."""
        return True


@register_method(
    "anil",
    "meta",
    title="ANIL",
    paper="Raghu et al. 2020, Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML",
    needs_source="optional",
    cost="as maml, an upper bound: the inner backward pass ends at the head",
)
class Anil(Maml):
    """MAML whose inner loop adapts the head alone; the outer loop learns all layers.

    Its cost is counted as MAML's, which is an upper bound: the forward passes are the same, but the inner backward pass
    and its derivative go through the head only.
    """

    def inner_parameters(self, model: nn.Module, trainable: Parameters) -> Parameters:
        """Those of the head.

        Raises:
            UsageError: It is not known which layers are the head, or all of them are frozen.
        """
        head = {id(parameter) for module in head_modules(model) for parameter in module.parameters()}
        adapted = {name: parameter for name, parameter in trainable.items() if id(parameter) in head}
        if not adapted:
            raise UsageError(
                "the network's head is frozen, and the method anil adapts nothing else",
                remedy="unfreeze the head, or use --method maml",
            )
        return adapted


@register_method(
    "meta-sgd",
    "meta",
    title="Meta-SGD",
    paper="Li et al. 2017, Meta-SGD: Learning to Learn Quickly for Few-Shot Learning",
    needs_source="optional",
    cost="as maml",
)
class MetaSgd(Maml):
    """MAML with an inner rate for every element of every parameter, learned by the outer optimiser.

    The rates begin at ``inner_learning_rate``, serve all inner steps alike and are plain values, which may become
    negative, as in the paper. :data:`metaseg.adapt.methods.maml.UNIT` says how fast they move.
    """

    @classmethod
    def check(cls, config: MetatuneConfig) -> None:
        """Refuse a second set of learnable rates.

        Raises:
            UsageError: Settings contradict the method or each other.
        """
        super().check(config)
        if config.learnable_inner_rates:
            raise UsageError(
                "--learnable-inner-rates with the method meta-sgd, which learns a rate for every element already",
                remedy="leave the option out, or use --method maml",
            )

    def learnable_rates(self, adapted: Parameters) -> LearnableRates:
        """A rate for every element."""
        return LearnableRates(adapted, self.config.inner_learning_rate, self.config.inner_steps, "element")
