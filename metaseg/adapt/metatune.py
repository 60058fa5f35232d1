"""``metaseg metatune``: MAML adaptation whose tasks are learned and unlearned slices (Han et al. 2018, Algorithm 1).

The target's cases are visited in turn. At each visit the case's slices are scored under the current network, parted
into learned and unlearned ones, ordered and paired (:mod:`metaseg.sampling`); every meta-step then takes the next
pairs of both sides. A visit is the unit in which a run is saved and resumed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from metaseg.adapt.engines import MetaStepEngine, TaskBatch, build_engine, slice_gradient_evaluations
from metaseg.adapt.result import AdaptationResult, adaptation_result
from metaseg.adapt.scoring import score_slices
from metaseg.adapt.setting import Setting, Shot, prepare_setting
from metaseg.adapt.watch import Watch, due_marks
from metaseg.config import MetatuneConfig
from metaseg.errors import DataError, TrainingError, UsageError
from metaseg.models.device import make_fabric
from metaseg.runs.events import Selection
from metaseg.runs.folder import RunFolder
from metaseg.runs.training_state import load_training_state, save_training_state
from metaseg.sampling import Pool, find_order, plan_case
from metaseg.sampling.tasks import CasePlan, Step
from metaseg.training.losses import DiceCrossEntropy
from metaseg.training.optimizers import build_optimizer

STATE_FILE = "last.state.pt"


@dataclass
class _State:
    """Where the meta-tuning stands between two visits."""

    visit: int = 0
    spent: int = 0
    meta_step: int = 0


class _MetaTuning:
    """One meta-tuning in memory: the pieces that a visit needs."""

    def __init__(self, config: MetatuneConfig, setting: Setting, fabric: Fabric, watch: Watch, optimizer: Optimizer):
        self.config, self.setting, self.fabric, self.watch, self.optimizer = config, setting, fabric, watch, optimizer
        self.model: nn.Module = setting.network.model
        self.engine: MetaStepEngine = build_engine(config.engine)
        self.loss = DiceCrossEntropy(setting.space, config.recall_weight).to(fabric.device)
        self.threshold = parse_threshold(config.threshold)
        self.state = _State()
        self.figures: dict[str, dict[str, float]] = {}
        self.plan_figures: dict[str, float] = {}

    def visit(self) -> None:
        """Work through the next case, scoring anew as often as asked for."""
        shot = self.setting.shots[case_of_visit(self.state.visit, len(self.setting.shots), self.config.seed)]
        left, round_ = shot.slices, 0
        while len(left) >= 2 and self.state.spent < self.config.budget:
            left = self._round(shot, left, round_)
            round_ += 1
        self.state.visit += 1

    def _round(self, shot: Shot, slices: np.ndarray, round_: int) -> np.ndarray:
        """Score, plan and step; gives the slices that are left for another round."""
        pool = score_slices(
            self.model, shot.case, slices, self.setting.modalities, self.setting.space, self.fabric.autocast
        )
        rng = np.random.default_rng([self.config.seed, 31, self.state.visit, round_])
        plan = plan_case(pool, self.config.order, self.threshold, self.config.tasks_per_step, rng=rng, fill=2)
        split = plan.decomposition
        # Logged with the first step: what stands at a step is written before that step's state is saved, never after.
        self.plan_figures = {
            "tasks/learned": float(len(split.learned)),
            "tasks/unlearned": float(len(split.unlearned)),
            "tasks/threshold": split.threshold,
            "tasks/dice": float(np.mean(pool.score("dice"))),
            "tasks/filled": float(split.filled is not None),
        }
        if split.filled is not None:
            self.watch.note(f"{shot.case.id}: no {split.filled} slices; filled with the nearest of the other side")
        if not len(plan):
            self.watch.note(f"{shot.case.id}: {len(slices)} slices are too few for a task; passed over")
        taken: set[int] = set()
        for number, step in enumerate(plan):
            if self.state.spent >= self.config.budget:
                return np.empty(0, dtype=int)
            if self.config.rescore_every and number == self.config.rescore_every:
                return np.array([index for index in slices if int(index) not in taken])
            taken |= {index for task in step.tasks for index in (*task.support, *task.query)}
            self._step(shot, step, plan, pool)
        return np.empty(0, dtype=int)

    def _step(self, shot: Shot, step: Step, plan: CasePlan, pool: Pool) -> None:
        before = self.state.spent
        cost = slice_gradient_evaluations(len(step.tasks), self.config.inner_steps, first_order=self.config.first_order)
        batches = [self._batch(shot, task.support, task.query) for task in step.tasks]
        self.optimizer.zero_grad(set_to_none=True)
        # Evaluation mode: no dropout, so that support and query see one network; norm layers are the engine's.
        self.model.eval()
        with self.fabric.autocast():
            result = self.engine.step(
                self.model,
                batches,
                self.loss,
                self.config.inner_learning_rate,
                self.config.inner_steps,
                self.config.first_order,
            )
        self._guard(result.query_losses, "loss")
        if self.config.clip_norm:
            norm = clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
            self._guard(norm, "gradient")
        self.optimizer.step()
        self.state.spent += cost
        self.state.meta_step += 1
        query = float(result.query_losses.mean())
        self.watch.selection.add(self._selections(shot, step, plan, pool))
        self.watch.log.scalars(
            {
                "train/query_loss": query,
                "train/support_loss": float(result.support_losses.mean()),
                **self.plan_figures,
            },
            step=self.state.spent,
        )
        self.plan_figures = {}
        self.watch.advance(cost, loss=query)
        if due_marks(before, self.state.spent, self.config.budget, self.config.marks):
            self.figures["after"] = self.watch.mark(self.model, self.state.spent)

    def _batch(self, shot: Shot, support: tuple[int, ...], query: tuple[int, ...]) -> TaskBatch:
        def tensors(chosen: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
            images = torch.from_numpy(shot.case.images(list(chosen), self.setting.modalities))
            labels = torch.from_numpy(shot.case.labels(list(chosen), self.setting.space))
            return self.fabric.to_device(images), self.fabric.to_device(labels)

        return TaskBatch(*tensors(support), *tensors(query))

    def _guard(self, values: torch.Tensor, what: str) -> None:
        if bool(torch.isfinite(values).all()):
            return
        self.watch.save(self.model, self.state.spent)
        raise TrainingError(
            f"the {what} became non-finite at meta-step {self.state.meta_step + 1}",
            expected="finite numbers",
            remedy="lower --inner-learning-rate or --outer-learning-rate; checkpoints/last holds the last good weights",
        )

    def _selections(self, shot: Shot, step: Step, plan: CasePlan, pool: Pool) -> list[Selection]:
        dice = dict(zip(pool.index.tolist(), pool.score("dice").tolist(), strict=True))
        rows = []
        for position, task in enumerate(step.tasks):
            for role, chosen in (("support", task.support), ("query", task.query)):
                rows += [
                    Selection(
                        step=self.state.spent,
                        case=shot.case.id,
                        patient=shot.case.patient,
                        slice=shot.case.native_slice(index),
                        task=task.kind,
                        role=role,  # type: ignore[arg-type]
                        position=position,
                        dice=dice[index],
                        threshold=plan.decomposition.threshold,
                    )
                    for index in chosen
                ]
        return rows

    def saved(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "visit": self.state.visit,
            "spent": self.state.spent,
            "meta_step": self.state.meta_step,
            "figures": self.figures,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, values: dict[str, Any]) -> None:
        """The inverse of :meth:`saved`."""
        self.model.load_state_dict(values["model"])
        self.optimizer.load_state_dict(values["optimizer"])
        self.state = _State(values["visit"], values["spent"], values["meta_step"])
        self.figures = values["figures"]


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


def run_metatune(config: MetatuneConfig) -> AdaptationResult:
    """Meta-tune a pretrained network to a new disease.

    Args:
        config: All settings; see :class:`~metaseg.config.MetatuneConfig`.

    Raises:
        DataError: The data cannot be used.
        UsageError: Settings contradict each other or the data.
        RunError: There is no such pretrained run, or the run folder cannot be written or resumed.
        TrainingError: A loss or gradient became non-finite; the last good weights are kept.
    """
    parse_threshold(config.threshold)
    find_order(config.order)
    if config.precision == "16-mixed":
        raise UsageError("16-mixed cannot scale meta-gradients", remedy="use --precision bf16-mixed or 32-true")
    fabric = make_fabric(config.device, config.precision)
    finished = RunFolder.check(config.out, "metatune", config, overwrite=config.overwrite, resume=config.resume)
    if finished is not None:
        print(f"{finished.path} is finished; nothing to resume")
        return adaptation_result(finished)
    setting = prepare_setting(config)
    with RunFolder.create(config.out, "metatune", config, overwrite=config.overwrite, resume=config.resume) as run:
        _tune(config, run, fabric, setting)
    return adaptation_result(run)


def _tune(config: MetatuneConfig, run: RunFolder, fabric: Fabric, setting: Setting) -> None:
    setting = replace(setting, network=replace(setting.network, model=fabric.to_device(setting.network.model)))
    optimizer = build_optimizer(
        config.outer_optimizer, setting.network.model.parameters(), config.outer_learning_rate, momentum=0.0
    )
    state_file: Path = run.checkpoints / STATE_FILE
    values = load_training_state(state_file) if config.resume and state_file.exists() else None
    spent = 0 if values is None else int(values["spent"])
    with Watch(run, config, setting, fabric, spent if config.resume else None) as watch:
        tuning = _MetaTuning(config, setting, fabric, watch, optimizer)
        if values is not None:
            tuning.restore(values)
        else:
            tuning.figures["before"] = watch.mark(tuning.model, 0)
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
            save_training_state(state_file, tuning.saved())
        watch.finish(tuning.model, tuning.state.spent, tuning.figures["before"], tuning.figures["after"])
