"""``metaseg metatune``: meta-tuning whose tasks are learned and unlearned slices (Han et al. 2018, Algorithm 1).

The target's cases are visited in turn. At each visit the case's slices are scored under the current network, parted
into learned and unlearned ones, ordered and paired (:mod:`metaseg.sampling`); every meta-step then takes the next
pairs of both sides. A visit is the unit in which a run is saved and resumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from metaseg.adapt.batches import ChosenTask, SourceTasks, augmented, place_in_turn
from metaseg.adapt.choice import choose_and_tune
from metaseg.adapt.engines import EngineChoice, TaskBatch, difference_from_reference
from metaseg.adapt.folds import cross_validate, cross_validated_result
from metaseg.adapt.methods import find_method
from metaseg.adapt.methods.maml import Maml
from metaseg.adapt.methods.naive import Interpolation
from metaseg.adapt.methods.registry import resolve_defaults
from metaseg.adapt.scoring import (
    ScoreCache,
    build_order_scores,
    check_order,
    gather_step,
    of_first,
    score_distributed,
    score_slices,
)
from metaseg.adapt.setup import AdaptationResult, AdaptationSetup, Shot, prepare_setup
from metaseg.adapt.watch import Watch, due_marks, is_first_mark
from metaseg.config.segmentation import MetatuneConfig
from metaseg.errors import DataError, TrainingError, UsageError, recorded_warnings
from metaseg.inference.predictor import Predictor
from metaseg.models.processes import agree, own_part
from metaseg.runs.logs import Selection
from metaseg.runs.session import RunSession, run_session
from metaseg.runs.training_state import save_training_state
from metaseg.sampling import Pool, plan_case
from metaseg.sampling.decompose import THRESHOLD_RULES
from metaseg.sampling.tasks import CasePlan, Step
from metaseg.store.stored_case import StoredCase, share_cache
from metaseg.threads import ReadAhead
from metaseg.training.augment import Augmentation
from metaseg.training.loop import diverged, require_finite_weights
from metaseg.training.optimization import AveragedModel, build_loss, build_optimizer, learning_rate

TOLERANCES, TOLERANCE = {"cpu": 1e-3}, 2e-2
"""Largest difference from learn2learn's gradient that may be rounding, as a fraction of its norm: on a device type, and
on others, which may compute in TF32. Without the second derivative a gradient is off by a tenth or more."""

RATES = "--inner-learning-rate or --outer-learning-rate"


@recorded_warnings()
def run_metatune(config: MetatuneConfig) -> AdaptationResult:
    """Meta-tune a pretrained network to a new disease.

    Args:
        config: All settings; see :class:`~metaseg.config.segmentation.MetatuneConfig`.

    Raises:
        DataError: The data cannot be used.
        UsageError: Settings contradict each other or the data.
        RunError: There is no such pretrained run, or the run folder cannot be written or resumed.
        TrainingError: A loss or gradient became non-finite; the last good weights are kept.
    """
    parse_threshold(config.threshold)
    check_meta_batch(config)
    check_order(config)
    find_method(config.method, "meta").build.check(config)
    config = resolve_defaults(config)
    if config.precision == "16-mixed":
        raise UsageError("16-mixed cannot scale meta-gradients", remedy="use --precision bf16-mixed or 32-true")
    work = partial(cross_validate, tune=partial(choose_and_tune, tune=_tune))
    return run_session(config, lambda: prepare_setup(config, config.replay != "none"), work, cross_validated_result)


def _tune(session: RunSession, setup: AdaptationSetup) -> None:
    config, fabric = session.config, session.fabric
    share_cache(setup.cases, config.cache_gb)
    setup = replace(setup, network=replace(setup.network, model=fabric.to_device(setup.network.model)))
    model = setup.network.model
    method: Maml = find_method(config.method, "meta").build(config, model, fabric)
    optimizer = build_optimizer(
        config.outer_optimizer,
        [*model.parameters(), *method.parameters()],
        cast(float, config.outer_learning_rate),
        momentum=0.0,
    )
    values = session.saved_state()
    spent = None if values is None else int(values["spent"])
    with Watch(session, setup, spent, None if values is None else values.get("rows")) as watch:
        agree(fabric, model)
        tuning = MetaTuning(config, setup, fabric, watch, method, optimizer)
        if values is not None:
            tuning.restore(values)
        else:
            tuning.metrics["before"] = watch.mark(tuning.model, 0, 0)
        idle = 0
        with tuning.ahead:
            while not tuning.finished:
                spent = tuning.state.spent
                tuning.visit()
                idle = idle + 1 if tuning.state.spent == spent else 0
                if idle == len(setup.shots):
                    raise DataError(
                        "no shot has slices enough for a task",
                        expected="at least two learned or two unlearned slices in a case",
                        remedy="raise --slices, or take patients with more tumour-bearing slices",
                    )
                save_training_state(session.state_file, {**tuning.saved(), "rows": watch.sync()})
        tuning.record_fallbacks()
        watch.finish(tuning.final, tuning.state.spent, tuning.metrics["before"], tuning.metrics["after"])


@dataclass
class MetaState:
    """Where the meta-tuning stands between two visits."""

    visit: int = 0
    spent: int = 0
    meta_step: int = 0
    scorings: int = 0
    fallbacks: int = 0
    source_tasks: int = 0


class MetaTuning:
    """One meta-tuning: the pieces that a visit needs.

    Args:
        config: The verb's settings.
        setup: Network on its device, shots and, for source tasks, source cases.
        fabric: Device and precision.
        watch: Logs and metrics.
        method: How a meta-step is made.
        optimizer: Of the outer loop, over the network's and the method's parameters.
    """

    def __init__(
        self,
        config: MetatuneConfig,
        setup: AdaptationSetup,
        fabric: Fabric,
        watch: Watch,
        method: Maml,
        optimizer: Optimizer,
    ) -> None:
        self.config, self.setup, self.fabric, self.watch = config, setup, fabric, watch
        self.method, self.optimizer = method, optimizer
        self.model: nn.Module = setup.network.model
        self.trained = [*self.model.parameters(), *method.parameters()]
        self.predictor = Predictor(self.model, setup.modalities, setup.space, autocast=fabric.autocast)
        self.interpolation = setup.way_back or Interpolation(self.model, config.interpolation or 1.0)
        self.averaged = AveragedModel(self.model, config.ema) if config.ema else None
        self.loss = build_loss(config.loss, setup.space, cast(float, config.recall_weight), fabric.device)
        self.augmentation = Augmentation(config.augment or "none")
        self.threshold = parse_threshold(config.threshold)
        sizes = (config.support_size, config.query_size)
        self.rehearsal = (
            SourceTasks(setup.source_cases, setup.space, *sizes, config.seed) if config.replay != "none" else None
        )
        self.order_scores = build_order_scores(config, setup, fabric, self.loss)
        self.score_cache = ScoreCache(config.rescore_tolerance)
        self.ahead: ReadAhead[int, None] = ReadAhead(lambda visit: read_into_cache(self._shot(visit), setup.modalities))
        self.state = MetaState()
        self.choice: EngineChoice | None = None
        self.metrics: dict[str, dict[str, float]] = {}
        self.plan_metrics: dict[str, float] = {}

    @property
    def final(self) -> nn.Module:
        """The network to keep: averaged where weights are averaged, and interpolated with the pretrained one."""
        return self.interpolation(self.averaged.model if self.averaged else self.model)

    @property
    def finished(self) -> bool:
        """Whether the budget is spent."""
        return self.state.spent >= self.config.budget

    def visit(self) -> None:
        """Work through the next case, scoring anew as often as asked for."""
        shot = self._shot(self.state.visit)
        self.ahead.begin([self.state.visit + 1])
        left, round_ = shot.slices, 0
        while len(left) >= 2 and not self.finished:
            pool = self.score_cache.pool(shot.case.id, left, partial(self._score, shot.case, left))
            # Processes agree to the bit on what is drawn.
            pool = of_first(self.fabric, self.order_scores.complete(shot, pool))
            plan = self._plan(shot, pool, round_)
            self.order_scores.planned(pool, plan)
            taken: set[int] = set()
            steps = plan.steps[: self.config.rescore_every or len(plan)]
            for step in steps:
                if self.finished:
                    break
                taken |= {index for task in step.tasks for index in (*task.support, *task.query)}
                self._step(shot, step, plan, pool)
            # A plan that was not cut short leaves nothing for another round.
            left = left[[len(steps) < len(plan) and index not in taken for index in left.tolist()]]
            round_ += 1
        self.state.visit += 1

    def _shot(self, visit: int) -> Shot:
        shots = self.setup.shots
        return shots[place_in_turn(visit, len(shots), [self.config.seed, 32])]

    def _score(self, case: StoredCase, slices: np.ndarray) -> Pool:
        return score_distributed(self.fabric, lambda own: score_slices(self.predictor, case, own), slices)

    def _plan(self, shot: Shot, pool: Pool, round_: int) -> CasePlan:
        config = self.config
        plan = plan_case(
            pool,
            config.order,
            self.threshold,
            config.tasks_per_step if config.meta_batch == "pairs" else None,
            rng=np.random.default_rng([config.seed, 31, self.state.visit, round_]),
            support_size=config.support_size,
            query_size=config.query_size,
        )
        split = plan.decomposition
        # Logged with the first step: what stands at a step is written before that step's state is saved, never after.
        self.plan_metrics = {
            "tasks/learned": float(len(split.learned)),
            "tasks/unlearned": float(len(split.unlearned)),
            "tasks/threshold": split.threshold,
            "tasks/dice": float(np.mean(pool.score("dice"))),
            "tasks/fallback": float(split.fallback is not None),
        }
        self.state.scorings += 1
        if split.fallback is not None:
            self.state.fallbacks += 1
            self.watch.note(
                f"{shot.case.id}: threshold {config.threshold} parts nothing; by {split.fallback} instead, "
                f"{len(split.learned)} learned and {len(split.unlearned)} unlearned"
            )
        if not len(plan):
            self.watch.note(f"{shot.case.id}: {len(pool)} slices are too few for a task; passed over")
        return plan

    def _step(self, shot: Shot, step: Step, plan: CasePlan, pool: Pool) -> None:
        """One meta-step: the tasks' outer gradient, an update of the network, and what there is to note."""
        config, before = self.config, self.state.spent
        progress = min(1.0, before / config.budget)
        chosen = self._tasks(shot, step)
        batches = [self._batch(task, position) for position, task in enumerate(chosen)]
        for group in self.optimizer.param_groups:
            rate = cast(float, config.outer_learning_rate)
            group["lr"] = learning_rate(before, config.budget, rate, config.outer_schedule)
        self.optimizer.zero_grad(set_to_none=True)
        # Evaluation mode: no dropout, so that support and query see one network; norm layers are the engine's.
        self.model.eval()
        own = own_part(self.fabric, batches)
        with self.fabric.autocast():
            result = self.method.step(self.model, own, self.loss, progress) if own else None
            self._say_engine(own, progress)
        result = gather_step(self.fabric, result, self.trained)
        self._guard(result.query_losses, "loss")
        self._clip()
        targets = [(task.query, batch) for task, batch in zip(chosen, batches, strict=True) if task.kind != "source"]
        with self.order_scores.rewarding(self.model, targets), self.score_cache.moving(self.model):
            self.optimizer.step()
        if self.score_cache.tolerance:
            # Processors that round differently must not disagree on whether a case is scored anew.
            self.score_cache.travelled = of_first(self.fabric, self.score_cache.travelled)
        if self.averaged:
            self.averaged.update(self.model)
        cost = self.method.cost(batches, progress)
        self.state.spent += cost
        self.state.meta_step += 1
        self.watch.selection.add(self._selections(chosen, plan, pool))
        losses = {
            "train/query_loss": float(result.query_losses.mean()),
            "train/support_loss": float(result.support_losses.mean()),
        }
        self.watch.log.scalars({**losses, **self.plan_metrics, **self.order_scores.metrics()}, step=self.state.spent)
        self.plan_metrics = {}
        self.watch.advance(cost, loss=losses["train/query_loss"])
        passed = due_marks(before, self.state.spent, config.budget, config.marks)
        if passed or is_first_mark(self.state.meta_step, config.first_marks):
            self._mark()

    def _clip(self) -> None:
        """Bound the gradients' norm, where that is asked for."""
        if not self.config.clip_norm:
            return
        self._guard(clip_grad_norm_(self.model.parameters(), self.config.clip_norm), "gradient")
        # By themselves: together they would shrink the network's gradient.
        if rates := self.method.parameters():
            self._guard(clip_grad_norm_(rates, self.config.clip_norm), "gradient of the inner rates")

    def _mark(self) -> None:
        """Evaluate and save the network; the next loss would tell what this step did to it, and there may be none."""
        final = self.final
        for model in (self.model, final):
            require_finite_weights(model, f"meta-step {self.state.meta_step}", self.watch.run.checkpoints, RATES)
        self.metrics["after"] = self.watch.mark(final, self.state.spent, self.state.meta_step)
        self.watch.save(final, self.state.spent)

    def _say_engine(self, tasks: Sequence[TaskBatch], progress: float) -> None:
        """Name the engine of the step once, compared with learn2learn, and again only if another one takes over.

        Args:
            tasks: Those of this process, whose gradient was just computed.
            progress: Fraction of the budget that was spent before the step.

        Raises:
            TrainingError: The gradient is not learn2learn's.
        """
        choice = self.method.engine_choice()
        if choice is None or (self.choice is not None and choice.engine == self.choice.engine):
            return
        self.choice = choice
        with self.watch.uncounted():
            # The first process's gradient stands for all: they run the same engine.
            difference, verdict = of_first(self.fabric, self._compare_engine(choice.engine, tasks, progress))
        told = {"name": choice.engine, "why": choice.reason, "check": verdict, "difference": difference}
        self.watch.record(f"{choice}; {verdict}", engine=told)
        tolerance = TOLERANCES.get(self.fabric.device.type, TOLERANCE)
        if difference is not None and difference > tolerance:
            raise TrainingError(
                f"the gradient of engine {choice.engine} differs from learn2learn's by {difference:.2g} of its norm",
                expected=f"a difference of {tolerance:g} at most, from rounding",
                remedy="use --engine learn2learn or functional; --no-verify-engine goes on without the check",
            )

    def _compare_engine(self, engine: str, tasks: Sequence[TaskBatch], progress: float) -> tuple[float | None, str]:
        """How far the gradient just computed is from learn2learn's, None where that is not known, and what to say."""
        if engine == "learn2learn" or not self.config.verify_engine:
            return None, "learn2learn itself" if engine == "learn2learn" else "not compared with learn2learn, as asked"
        if not self.method.has_reference:
            return None, "not compared: learn2learn has no such step"
        try:
            inner = self.method.inner_loop(progress)
            difference = difference_from_reference(self.model, tasks, self.loss, inner)
        except Exception as error:
            # It may be missing, and need not be able to clone any network.
            return None, f"not compared: learn2learn cannot compute this step ({str(error).splitlines()[0]})"
        if difference is None:
            return None, "not compared: the gradient is not finite"
        return difference, f"its gradient is learn2learn's to {difference:.1g} of its norm"

    def record_fallbacks(self) -> None:
        """Say how often the threshold parted nothing, and keep that with the run."""
        scorings, fallbacks = self.state.scorings, self.state.fallbacks
        self.watch.record(
            f"threshold {self.config.threshold}: parted nothing in {fallbacks} of {scorings} scorings of a case",
            threshold={"rule": self.config.threshold, "scorings": scorings, "fallbacks": fallbacks},
        )

    def _tasks(self, shot: Shot, step: Step) -> list[ChosenTask]:
        """The step's tasks: the plan's, and those of the source."""
        chosen = [
            ChosenTask(task.kind, shot.case, task.support, task.query)
            for task in step.tasks
            if not (self.config.replay == "learned" and task.kind == "learned")
        ]
        if self.rehearsal is not None:
            kinds = [task.kind for task in step.tasks]
            of_side = self.config.tasks_per_step if self.config.meta_batch == "pairs" else max(map(kinds.count, kinds))
            first = self.state.source_tasks
            chosen += [self.rehearsal.draw(number) for number in range(first, first + of_side)]
            self.state.source_tasks += of_side
        return chosen

    def _selections(self, chosen: list[ChosenTask], plan: CasePlan, pool: Pool) -> list[Selection]:
        dice = dict(zip(pool.index.tolist(), pool.score("dice").tolist(), strict=True))
        roles: tuple[Literal["support", "query"], ...] = ("support", "query")
        return [
            Selection(
                step=self.state.spent,
                case=task.case.id,
                patient=task.case.patient,
                slice=task.case.native_slice(index),
                task=task.kind,
                role=role,
                position=position,
                dice=math.nan if task.kind == "source" else dice[index],
                threshold=math.nan if task.kind == "source" else plan.decomposition.threshold,
                rule="" if task.kind == "source" else plan.decomposition.fallback or self.config.threshold,
            )
            for position, task in enumerate(chosen)
            for role in roles
            for index in getattr(task, role)
        ]

    def _batch(self, task: ChosenTask, position: int) -> TaskBatch:
        def tensors(slices: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
            images = torch.from_numpy(task.case.images(list(slices), self.setup.modalities))
            labels = torch.from_numpy(task.case.labels(list(slices), self.setup.space))
            seed = [self.config.seed, 33, self.state.meta_step, position, slices[0]]
            images, labels = augmented(images, labels, self.augmentation, seed)
            return self.fabric.to_device(images), self.fabric.to_device(labels)

        return TaskBatch(*tensors(task.support), *tensors(task.query))

    def _guard(self, values: torch.Tensor, what: str) -> None:
        if not bool(torch.isfinite(values).all()):
            raise diverged(what, f"meta-step {self.state.meta_step + 1}", self.watch.run.checkpoints, RATES)

    def saved(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            **asdict(self.state),
            **(self.averaged.saved() if self.averaged else {}),
            "metrics": self.metrics,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state_dict(),
            "order": self.order_scores.state_dict(),
            "scores": self.score_cache.state_dict(),
        }

    def restore(self, values: dict[str, Any]) -> None:
        """The inverse of :meth:`saved`."""
        self.model.load_state_dict(values["model"])
        self.optimizer.load_state_dict(values["optimizer"])
        self.method.load_state_dict(values.get("method", {}))
        self.order_scores.load_state_dict(values.get("order", {}))
        self.score_cache.load_state_dict(values.get("scores", {}))
        if self.averaged:
            self.averaged.restore(values)
        # States of earlier versions count less: their steps had as many source tasks as tasks of a side.
        earlier = {"source_tasks": values["meta_step"] * self.config.tasks_per_step if self.rehearsal else 0}
        known = earlier | {name: values[name] for name in asdict(self.state) if name in values}
        self.state = MetaState(**known)
        self.metrics = values["metrics"]


def read_into_cache(shot: Shot, modalities: Sequence[str]) -> None:
    """Read a shot's slices where a cache keeps them; what is read later is the same bits either way."""
    if shot.case.cache is not None:
        # One at a time, so that no more than a slice is held beside the cache.
        for index in shot.slices.tolist():
            shot.case.images([index], modalities)


def check_meta_batch(config: MetatuneConfig) -> None:
    """Check what belongs to ``--meta-batch``.

    Raises:
        UsageError: All tasks of a patient are to make one update, and another option would divide them.
    """
    dividing = {"--tasks-per-step": config.tasks_per_step > 1, "--rescore-every": config.rescore_every > 0}
    given = [option for option, used in dividing.items() if used]
    if config.meta_batch == "patient" and given:
        raise UsageError(
            f"--meta-batch patient makes one update of all tasks of a patient, and {given[0]} would divide them",
            remedy=f"leave {given[0]} out, or use --meta-batch pairs",
        )


def parse_threshold(text: str) -> str | float:
    """``median``, ``otsu``, ``rank`` or a Dice value.

    Raises:
        UsageError: It is neither.
    """
    if text in THRESHOLD_RULES:
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise UsageError(
            f"threshold '{text}'", expected=", ".join(THRESHOLD_RULES) + " or a Dice value between 0 and 1"
        )
    return value
