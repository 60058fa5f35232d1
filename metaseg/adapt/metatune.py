"""The loop of meta-tuning: visits to cases, and the meta-steps of each (Han et al. 2018, Algorithm 1).

The target's cases are visited in turn. At each visit the case's slices are scored under the current network, parted
into learned and unlearned ones, ordered and paired (:mod:`metaseg.sampling`); every meta-step then takes the next
pairs of both sides. A visit is the unit in which a run is saved and resumed.

Reading ahead: a thread brings the next case's slices into the cache while the current case trains.

``metaseg metatune``: meta-tuning whose tasks are learned and unlearned slices (Han et al. 2018, Algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from metaseg.adapt.batches import SourceTasks, augmented
from metaseg.adapt.engines import EngineChoice, TaskBatch
from metaseg.adapt.methods import find_method
from metaseg.adapt.methods.maml import Maml
from metaseg.adapt.methods.naive import Interpolation
from metaseg.adapt.scoring import (
    ScoreMemory,
    build_order_scores,
    check_order,
    of_first,
    score_shared,
    score_slices,
    shared_step,
)
from metaseg.adapt.session import resolve_defaults, run_adaptation
from metaseg.adapt.setup import AdaptationResult, Setting, Shot
from metaseg.adapt.watch import Watch, due_marks
from metaseg.config.segmentation import MetatuneConfig
from metaseg.errors import DataError, UsageError, recorded_warnings
from metaseg.models.processes import agree
from metaseg.runs.folder import RunFolder
from metaseg.runs.logs import Selection
from metaseg.runs.state import can_go_on, load_training_state, save_training_state
from metaseg.sampling import Pool, plan_case
from metaseg.sampling.tasks import CasePlan, Step
from metaseg.store.stored_case import StoredCase
from metaseg.training.augment import Augmentation
from metaseg.training.fitted_run import STATE_FILE
from metaseg.training.loop import diverged, require_finite_weights
from metaseg.training.optimization import AveragedModel, DiceCrossEntropy, build_optimizer, learning_rate


class Prefetch:
    """Reads slices that will be wanted, and gives nothing back: what is read later is the same bits either way.

    Args:
        modalities: The network's input modalities.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = tuple(modalities)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")

    def start(self, shot: Shot) -> Future[None] | None:
        """Begin to read a shot's slices; nothing is done where no cache could keep them.

        Errors are not raised: the reading that follows meets and raises them where they matter.
        """
        return None if shot.case.cache is None else self._thread.submit(self._read, shot)

    def _read(self, shot: Shot) -> None:
        # One at a time, so that no more than a slice is held beside the cache.
        for index in shot.slices.tolist():
            shot.case.images([index], self.modalities)


RATES = "--inner-learning-rate or --outer-learning-rate"


@dataclass
class MetaState:
    """Where the meta-tuning stands between two visits."""

    visit: int = 0
    spent: int = 0
    meta_step: int = 0


@dataclass(frozen=True)
class ChosenTask:
    """A task of a meta-step; stored slices of one case."""

    kind: Literal["learned", "unlearned", "source"]
    case: StoredCase
    support: tuple[int, ...]
    query: tuple[int, ...]


class MetaTuning:
    """One meta-tuning in memory: the pieces that a visit needs.

    Args:
        config: The verb's settings.
        setting: Network on its device, shots and, for source tasks, memory.
        fabric: Device and precision.
        watch: Logs and metrics.
        method: How a meta-step is made.
        optimizer: Of the outer loop, over the network's and the method's parameters.
    """

    def __init__(
        self,
        config: MetatuneConfig,
        setting: Setting,
        fabric: Fabric,
        watch: Watch,
        method: Maml,
        optimizer: Optimizer,
    ) -> None:
        self.config, self.setting, self.fabric, self.watch = config, setting, fabric, watch
        self.method, self.optimizer = method, optimizer
        self.model: nn.Module = setting.network.model
        self.interpolation = Interpolation(self.model, config.interpolation or 1.0)
        self.averaged = AveragedModel(self.model, config.ema) if config.ema else None
        self.loss = DiceCrossEntropy(setting.space, config.recall_weight).to(fabric.device)
        self.augmentation = Augmentation(config.augment or "none")
        self.threshold = parse_threshold(config.threshold)
        sizes = (config.support_size, config.query_size)
        self.rehearsal = (
            SourceTasks(setting.memory, setting.space, *sizes, config.seed) if config.replay != "none" else None
        )
        self.order_scores = build_order_scores(config, setting, fabric, self.loss)
        self.memory = ScoreMemory(config.rescore_tolerance)
        self.prefetch = Prefetch(setting.modalities)
        self.state = MetaState()
        self.choice: EngineChoice | None = None
        self.metrics: dict[str, dict[str, float]] = {}
        self.plan_metrics: dict[str, float] = {}

    @property
    def final(self) -> nn.Module:
        """The network to keep: averaged where weights are averaged, and interpolated with the pretrained one."""
        return self.interpolation(self.averaged.model if self.averaged else self.model)

    def visit(self) -> None:
        """Work through the next case, scoring anew as often as asked for."""
        shots, seed = self.setting.shots, self.config.seed
        shot = shots[case_of_visit(self.state.visit, len(shots), seed)]
        self.prefetch.start(shots[case_of_visit(self.state.visit + 1, len(shots), seed)])
        left, round_ = shot.slices, 0
        while len(left) >= 2 and self.state.spent < self.config.budget:
            left = self._round(shot, left, round_)
            round_ += 1
        self.state.visit += 1

    def _round(self, shot: Shot, slices: np.ndarray, round_: int) -> np.ndarray:
        """Score, plan and step; gives the slices that are left for another round."""
        pool = self.memory.pool(
            shot.case.id, slices, lambda: score_shared(self.fabric, partial(self._score, shot.case), slices)
        )
        # Processes agree to the bit on what is drawn.
        pool = of_first(self.fabric, self.order_scores.complete(shot, pool))
        plan = self._plan(shot, pool, round_)
        self.order_scores.planned(pool, plan)
        taken: set[int] = set()
        for number, step in enumerate(plan):
            if self.state.spent >= self.config.budget:
                return np.empty(0, dtype=int)
            if self.config.rescore_every and number == self.config.rescore_every:
                return np.array([index for index in slices if int(index) not in taken])
            taken |= {index for task in step.tasks for index in (*task.support, *task.query)}
            self._step(shot, step, plan, pool)
        return np.empty(0, dtype=int)

    def _score(self, case: StoredCase, slices: np.ndarray) -> Pool:
        return score_slices(self.model, case, slices, self.setting.modalities, self.setting.space, self.fabric.autocast)

    def _plan(self, shot: Shot, pool: Pool, round_: int) -> CasePlan:
        config = self.config
        plan = plan_case(
            pool,
            config.order,
            self.threshold,
            config.tasks_per_step,
            rng=np.random.default_rng([config.seed, 31, self.state.visit, round_]),
            support_size=config.support_size,
            query_size=config.query_size,
            fill=config.support_size + config.query_size,
        )
        split = plan.decomposition
        # Logged with the first step: what stands at a step is written before that step's state is saved, never after.
        self.plan_metrics = {
            "tasks/learned": float(len(split.learned)),
            "tasks/unlearned": float(len(split.unlearned)),
            "tasks/threshold": split.threshold,
            "tasks/dice": float(np.mean(pool.score("dice"))),
            "tasks/filled": float(split.filled is not None),
        }
        if split.filled is not None:
            self.watch.note(f"{shot.case.id}: no {split.filled} slices; filled with the nearest of the other side")
        if not len(plan):
            self.watch.note(f"{shot.case.id}: {len(pool)} slices are too few for a task; passed over")
        return plan

    def _step(self, shot: Shot, step: Step, plan: CasePlan, pool: Pool) -> None:
        before, progress = self.state.spent, min(1.0, self.state.spent / self.config.budget)
        chosen = self._tasks(shot, step)
        batches = [self._batch(task, position) for position, task in enumerate(chosen)]
        cost = self.method.cost(batches, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                before, self.config.budget, self.config.outer_learning_rate, self.config.outer_schedule
            )
        self.optimizer.zero_grad(set_to_none=True)
        # Evaluation mode: no dropout, so that support and query see one network; norm layers are the engine's.
        self.model.eval()
        with self.fabric.autocast():
            step_alone = partial(self.method.step, self.model, loss=self.loss, progress=progress)
            learned = [*self.model.parameters(), *self.method.parameters()]
            result = shared_step(self.fabric, step_alone, batches, learned)
        self._say_engine()
        self._guard(result.query_losses, "loss")
        if self.config.clip_norm:
            norm = clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
            self._guard(norm, "gradient")
            # By themselves: together they would shrink the network's gradient.
            if learned := self.method.parameters():
                self._guard(clip_grad_norm_(learned, self.config.clip_norm), "gradient of the inner rates")
        own = [(task.query, batch) for task, batch in zip(chosen, batches, strict=True) if task.kind != "source"]
        with self.order_scores.rewarding(self.model, own), self.memory.moving(self.model):
            self.optimizer.step()
        if self.memory.tolerance:
            # Processors that round differently must not disagree on whether a case is scored anew.
            self.memory.travelled = of_first(self.fabric, self.memory.travelled)
        if self.averaged:
            self.averaged.update(self.model)
        self.state.spent += cost
        self.state.meta_step += 1
        query = float(result.query_losses.mean())
        self.watch.selection.add(self._selections(chosen, plan, pool))
        self.watch.log.scalars(
            {
                "train/query_loss": query,
                "train/support_loss": float(result.support_losses.mean()),
                **self.plan_metrics,
                **self.order_scores.metrics(),
            },
            step=self.state.spent,
        )
        self.plan_metrics = {}
        self.watch.advance(cost, loss=query)
        if due_marks(before, self.state.spent, self.config.budget, self.config.marks):
            self._mark()

    def _mark(self) -> None:
        """Evaluate and save the network; the next loss would tell what this step did to it, and there may be none."""
        final = self.final
        for model in (self.model, final):
            require_finite_weights(model, f"meta-step {self.state.meta_step}", self.watch.run.checkpoints, RATES)
        self.metrics["after"] = self.watch.mark(final, self.state.spent)
        self.watch.save(final, self.state.spent)

    def _say_engine(self) -> None:
        """Name the engine of the step once, and again only if another one takes over."""
        choice = self.method.engine_choice()
        if choice is not None and (self.choice is None or choice.engine != self.choice.engine):
            self.choice = choice
            self.watch.record(str(choice), engine={"name": choice.engine, "why": choice.reason})

    def _tasks(self, shot: Shot, step: Step) -> list[ChosenTask]:
        """The step's tasks: the plan's, and those of the source."""
        chosen = [
            ChosenTask(task.kind, shot.case, task.support, task.query)
            for task in step.tasks
            if not (self.config.replay == "learned" and task.kind == "learned")
        ]
        if self.rehearsal is not None:
            count = self.config.tasks_per_step
            drawn = [self.rehearsal.draw(self.state.meta_step * count + number) for number in range(count)]
            chosen += [ChosenTask("source", task.case, task.support, task.query) for task in drawn]
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
            )
            for position, task in enumerate(chosen)
            for role in roles
            for index in getattr(task, role)
        ]

    def _batch(self, task: ChosenTask, position: int) -> TaskBatch:
        def tensors(slices: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
            images = torch.from_numpy(task.case.images(list(slices), self.setting.modalities))
            labels = torch.from_numpy(task.case.labels(list(slices), self.setting.space))
            seed = [self.config.seed, 33, self.state.meta_step, position, slices[0]]
            images, labels = augmented(images, labels, self.augmentation, seed)
            return self.fabric.to_device(images), self.fabric.to_device(labels)

        return TaskBatch(*tensors(task.support), *tensors(task.query))

    def _guard(self, values: torch.Tensor, what: str) -> None:
        if not bool(torch.isfinite(values).all()):
            raise diverged(what, f"meta-step {self.state.meta_step + 1}", self.watch.run.checkpoints, RATES)

    def saved(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        values = {
            "visit": self.state.visit,
            "spent": self.state.spent,
            "meta_step": self.state.meta_step,
            "metrics": self.metrics,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state_dict(),
            "order": self.order_scores.state_dict(),
            "scores": self.memory.state_dict(),
        }
        if self.averaged:
            values |= {"average": self.averaged.model.state_dict(), "average_updates": self.averaged.updates}
        return values

    def restore(self, values: dict[str, Any]) -> None:
        """The inverse of :meth:`saved`."""
        self.model.load_state_dict(values["model"])
        self.optimizer.load_state_dict(values["optimizer"])
        self.method.load_state_dict(values["method"])
        self.order_scores.load_state_dict(values.get("order", {}))
        self.memory.load_state_dict(values.get("scores", {}))
        if self.averaged:
            self.averaged.model.load_state_dict(values["average"])
            self.averaged.updates = values["average_updates"]
        self.state = MetaState(values["visit"], values["spent"], values["meta_step"])
        self.metrics = values["metrics"]


def parse_threshold(text: str) -> str | float:
    """``median``, ``otsu`` or a Dice value.

    Raises:
        UsageError: It is neither.
    """
    if text in ("median", "otsu"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise UsageError(f"threshold '{text}'", expected="median, otsu or a Dice value between 0 and 1")
    return value


def case_of_visit(visit: int, cases: int, seed: int) -> int:
    """Which case a visit goes to: all in turn, in an order drawn anew for every pass."""
    round_, position = divmod(visit, cases)
    return int(np.random.default_rng([seed, 32, round_]).permutation(cases)[position])


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
    check_order(config)
    find_method(config.method, "meta").build.check(config)
    config = resolve_defaults(config)
    if config.precision == "16-mixed":
        raise UsageError("16-mixed cannot scale meta-gradients", remedy="use --precision bf16-mixed or 32-true")
    return run_adaptation(config, _tune, config.replay != "none")


def _tune(config: MetatuneConfig, run: RunFolder, fabric: Fabric, setting: Setting) -> None:
    setting = replace(setting, network=replace(setting.network, model=fabric.to_device(setting.network.model)))
    model = setting.network.model
    method: Maml = find_method(config.method, "meta").build(config, model, fabric)
    optimizer = build_optimizer(
        config.outer_optimizer, [*model.parameters(), *method.parameters()], config.outer_learning_rate, momentum=0.0
    )
    state_file: Path = run.checkpoints / STATE_FILE
    values = load_training_state(state_file) if can_go_on(state_file, config.resume) else None
    spent = None if values is None else int(values["spent"])
    with Watch(run, config, setting, fabric, spent, None if values is None else values.get("rows")) as watch:
        agree(fabric, model)
        tuning = MetaTuning(config, setting, fabric, watch, method, optimizer)
        if values is not None:
            tuning.restore(values)
        else:
            tuning.metrics["before"] = watch.mark(tuning.model, 0)
        idle = 0
        while tuning.state.spent < config.budget:
            spent = tuning.state.spent
            tuning.visit()
            idle = idle + 1 if tuning.state.spent == spent else 0
            if idle == len(setting.shots):
                raise DataError(
                    "no shot has slices enough for a task",
                    expected="at least two learned or two unlearned slices in a case",
                    remedy="raise --slices, or take patients with more tumour-bearing slices",
                )
            save_training_state(state_file, {**tuning.saved(), "rows": watch.sync()})
        watch.finish(tuning.final, tuning.state.spent, tuning.metrics["before"], tuning.metrics["after"])
