"""Scores of slices under the current network, and what some orders know beyond them.

``oracle`` is a curriculum by true difficulty: the slices that a network which knows the target segments well come first
(transfer scoring of Weinshall et al. 2018 and Hacohen and Weinshall 2019). It bounds what any order by difficulty can
give, and is no method: its network has seen labels that the tuning has not. ``adaptive`` learns while tuning which
difficulty pays (:mod:`metaseg.sampling.scheduler`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from metaseg.adapt.engines import StepResult, TaskBatch
from metaseg.adapt.setup import AdaptationSetup, Shot
from metaseg.config.segmentation import MetatuneConfig
from metaseg.errors import UsageError
from metaseg.inference.logits import batch_class_counts, largest_class, predict_logits
from metaseg.inference.predictor import Predictor
from metaseg.models.checkpoint import ModelCard
from metaseg.models.processes import combine_gradients, gather, row_bounds, several
from metaseg.runs.networks import load_network
from metaseg.sampling import ORDERS, Pool, slice_dice
from metaseg.sampling.scheduler import Exp3S, band_chances, difficulty_bands, slice_preferences
from metaseg.sampling.tasks import CasePlan
from metaseg.store.stored_case import StoredCase
from metaseg.training.optimization import Loss

T = TypeVar("T")

SCORES = ("dice", "entropy", "foreground")
"""What :func:`score_slices` gives; other scores are added to a pool afterwards."""


def score_slices(predictor: Predictor, case: StoredCase, slices: np.ndarray) -> Pool:
    """Forward slices once without gradient.

    Args:
        predictor: The network; put in evaluation mode for the call.
        case: A labelled case.
        slices: Stored slices to score.

    Returns:
        Dice (foreground mean over the classes in label or prediction, 1 where both are empty), mean predictive
        entropy in nats, and tumour area of every slice, by its stored index.
    """
    model, space = predictor.network, predictor.space
    device, training = next(model.parameters()).device, model.training
    model.eval()
    dice, entropy = [], []
    try:
        for start in range(0, len(slices), predictor.batch_size):
            chosen = slices[start : start + predictor.batch_size]
            images = torch.from_numpy(case.images(chosen, predictor.modalities)).to(device)
            labels = torch.from_numpy(case.labels(chosen, space)).to(device)
            with predictor.autocast():
                logits = predict_logits(model, images, of=f"case {case.id}")
            log_probabilities = torch.log_softmax(logits, dim=1)
            entropy.append(-(log_probabilities.exp() * log_probabilities).sum(dim=1).mean(dim=(1, 2)).cpu().numpy())
            counts = batch_class_counts(labels, largest_class(logits), space.num_classes)
            intersection, label_area, predicted_area = (part[:, 1:].cpu().numpy() for part in counts)
            dice.append(slice_dice(intersection, label_area, predicted_area))
    finally:
        model.train(training)
    return Pool(
        index=np.asarray(slices),
        dice=np.concatenate(dice),
        entropy=np.concatenate(entropy).astype(np.float64),
        foreground=case.areas(space)[slices, 1:].sum(axis=1),
    )


@dataclass(frozen=True)
class _Scored:
    """A pool, and how far the network had come when it was scored."""

    travelled: float
    pool: Pool


class ScoreCache:
    """Keeps scores of cases between visits, until the network has moved too far for them.

    How far is measured along the path: the relative change of the parameters, added up over the meta-steps since a case
    was scored. By the triangle inequality this is no less than the change between then and now, up to the slow growth
    of the weights' norm, so that a case is rather scored too often than too rarely; and it needs one number for all
    cases, where the change itself would need a copy of the weights for each.

    Args:
        tolerance: Relative change of the parameters up to which the scores of a case are used again; 0 scores always.
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.travelled = 0.0
        self.reused = 0
        self._scored: dict[str, _Scored] = {}

    def pool(self, case: str, slices: np.ndarray, score: Callable[[], Pool]) -> Pool:
        """The scores of a case's slices: kept ones where they are near enough, else new ones.

        Args:
            case: The case's id.
            slices: Its stored slices, or those that are left of them.
            score: Scores these slices under the current network.
        """
        if not self.tolerance:
            return score()
        known = self._scored.get(case)
        if known is not None and self.travelled - known.travelled <= self.tolerance:
            rows = {int(index): row for row, index in enumerate(known.pool.index)}
            if all(int(index) in rows for index in slices):
                self.reused += 1
                return known.pool.take(np.array([rows[int(index)] for index in slices]))
        pool = score()
        self._scored[case] = _Scored(self.travelled, pool)
        return pool

    @contextmanager
    def moving(self, model: nn.Module) -> Iterator[None]:
        """Around an update of the network: add how far it goes."""
        if not self.tolerance:
            yield
            return
        before = [parameter.detach().clone() for parameter in model.parameters()]
        yield
        after = [parameter.detach() for parameter in model.parameters()]
        self.travelled += relative_change(before, after)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; plain values and tensors."""
        return {
            "travelled": self.travelled,
            "reused": self.reused,
            "scored": {
                case: {
                    "travelled": scored.travelled,
                    "index": torch.from_numpy(scored.pool.index),
                    "values": {name: torch.from_numpy(scored.pool.score(name)) for name in SCORES},
                }
                for case, scored in self._scored.items()
            },
        }

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; of a run that kept nothing, nothing."""
        self.travelled, self.reused = values.get("travelled", 0.0), values.get("reused", 0)
        self._scored = {
            case: _Scored(
                own["travelled"],
                Pool(index=own["index"].numpy(), **{name: scores.numpy() for name, scores in own["values"].items()}),
            )
            for case, own in values.get("scored", {}).items()
        }


def relative_change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Euclidean distance of two sets of parameters, in norms of the first; in double precision."""
    moved = sum(float((new.double() - old.double()).square().sum()) for old, new in zip(before, after, strict=True))
    size = sum(float(old.double().square().sum()) for old in before)
    return (moved / size) ** 0.5 if size else float("inf")


# Scores and tasks distributed over processes; with one process everything is done by it.


def score_distributed(fabric: Fabric, score: Callable[[np.ndarray], Pool], slices: np.ndarray) -> Pool:
    """Score slices, each process a run of them.

    Args:
        fabric: Of this process.
        score: Scores stored slices; see :func:`score_slices`.
        slices: The slices of all.
    """
    if not several(fabric):
        return score(slices)
    bounds = row_bounds(len(slices), fabric.world_size)
    own = slices[bounds[fabric.global_rank] : bounds[fabric.global_rank + 1]]
    pools = [pool for pool in gather(fabric, [score(own) if len(own) else None]) if pool is not None]
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(pool, name) for pool in pools]) for name in ("index", *SCORES)
    }
    return Pool(**joined)


def of_first(fabric: Fabric, value: T) -> T:
    """The first process's value, for all."""
    return fabric.broadcast(value) if several(fabric) else value


def gather_step(fabric: Fabric, own: StepResult | None, trained: Sequence[Tensor]) -> StepResult:
    """Sum the outer gradients of a meta-step over processes, as over the tasks of one process.

    Args:
        fabric: Of this process.
        own: Losses of the tasks of this process; None if it has none.
        trained: What the outer optimiser trains.

    Returns:
        The losses of all tasks, in their order.
    """
    if own is not None and not several(fabric):
        return own
    combine_gradients(fabric, trained, mean=False)
    rows = [] if own is None else list(zip(own.support_losses.cpu(), own.query_losses.cpu(), strict=True))
    support, query = zip(*gather(fabric, rows), strict=True)
    return StepResult(torch.stack(support), torch.stack(query))


BANDS = 4
"""Bands of Dice that ``adaptive`` tells apart."""

QueryTask = tuple[tuple[int, ...], TaskBatch]
"""A task's query slices, by their index in the case, and its data."""


class OrderScores:
    """What the orders need that look at the case's own scores: nothing more."""

    def complete(self, shot: Shot, pool: Pool) -> Pool:
        """Add the scores that the order reads.

        Args:
            shot: The case.
            pool: Its slices, or those that are left of it, scored under the current network.
        """
        return pool

    def planned(self, pool: Pool, plan: CasePlan) -> None:
        """Take note of a plan that was made of a pool, before its first step."""

    def rewarding(self, model: nn.Module, tasks: Sequence[QueryTask]) -> AbstractContextManager[None]:
        """Around the outer update: learn from what it does to the query loss.

        Args:
            model: The network, in evaluation mode.
            tasks: The step's tasks from the planned case.
        """
        return nullcontext()

    def metrics(self) -> dict[str, float]:
        """Metrics to log after a step."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; plain values."""
        return {}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""


class OracleScores(OrderScores):
    """The Dice of a network that knows the target, as score ``oracle``.

    A case is scored once, since the oracle does not change.

    Args:
        oracle: The network that knows the target, on the device.
    """

    def __init__(self, oracle: Predictor) -> None:
        self.oracle = oracle
        self._dice: dict[str, dict[int, float]] = {}

    def complete(self, shot: Shot, pool: Pool) -> Pool:
        """Add score ``oracle``."""
        if shot.case.id not in self._dice:
            scored = score_slices(self.oracle, shot.case, shot.slices)
            self._dice[shot.case.id] = dict(zip(scored.index.tolist(), scored.score("dice").tolist(), strict=True))
        dice = self._dice[shot.case.id]
        return pool.with_score("oracle", np.array([dice[index] for index in pool.index.tolist()]))


class AdaptiveScores(OrderScores):
    """A bandit's liking for each slice, as score ``preference``, learned from the progress of every step.

    A slice's arm is the band of its Dice when the case was scored. The reward is the decrease of the loss on a query
    slice by the outer update, under the network itself, not adapted to the task: what the step has taught it, on the
    slice that taught it (prediction gain in Graves et al. 2017). All tasks of a step share one update, so each is also
    credited with what the others do to it. These two forward passes of the query slices have no gradient and are not
    counted in the budget.

    Args:
        loss: Mean over the slices of a batch.
        fabric: Device and precision.
    """

    def __init__(self, loss: Loss, fabric: Fabric) -> None:
        self.loss, self.fabric = loss, fabric
        self.bandit = Exp3S(BANDS)
        self.progress = math.nan
        self._drawn: dict[int, tuple[int, float]] = {}

    def complete(self, shot: Shot, pool: Pool) -> Pool:
        """Add score ``preference``."""
        bands = difficulty_bands(pool.score("dice"), BANDS)
        return pool.with_score("preference", slice_preferences(self.bandit.probabilities(), bands))

    def planned(self, pool: Pool, plan: CasePlan) -> None:
        """Note the band of every slice that was drawn, and how likely that band was."""
        bands, weights = difficulty_bands(pool.score("dice"), BANDS), pool.score("preference")
        position = {index: place for place, index in enumerate(pool.index.tolist())}
        self._drawn = {}
        for draws in plan.draws.values():
            places = np.array([position[index] for index in draws], dtype=np.int64)
            chances = band_chances(weights[places], bands[places])
            arms = bands[places].tolist()
            self._drawn |= dict(zip(draws, zip(arms, chances.tolist(), strict=True), strict=True))

    @contextmanager
    def rewarding(self, model: nn.Module, tasks: Sequence[QueryTask]) -> Iterator[None]:
        """Reward the bands of the query slices by what the outer update does to their loss."""
        before = self._losses(model, tasks)
        yield
        gains = (before - self._losses(model, tasks)).tolist()
        self.progress = float(np.mean(gains)) if gains else math.nan
        for index, gain in zip((index for query, _ in tasks for index in query), gains, strict=True):
            # A step that diverged is reported by the loop; it teaches the bandit nothing.
            if math.isfinite(gain):
                arm, chance = self._drawn[index]
                self.bandit.update(arm, gain, chance)

    def metrics(self) -> dict[str, float]:
        """``scheduler/band-0`` (hardest) and so on: the bands' probabilities; ``scheduler/progress``: mean reward."""
        bands = {f"scheduler/band-{band}": float(value) for band, value in enumerate(self.bandit.probabilities())}
        return {**bands, "scheduler/progress": self.progress}

    def state_dict(self) -> dict[str, Any]:
        """The bandit's state."""
        return self.bandit.state_dict()

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.bandit.load_state_dict(values)

    @torch.no_grad()
    def _losses(self, model: nn.Module, tasks: Sequence[QueryTask]) -> Tensor:
        """Loss of every query slice by itself, ``(slices,)``, on the CPU."""
        losses: list[Tensor] = []
        with self.fabric.autocast():
            for _, batch in tasks:
                logits, labels = model(batch.query_images), batch.query_labels
                losses += [self.loss(logits[k : k + 1], labels[k : k + 1]).double() for k in range(len(labels))]
        return torch.stack(losses).cpu() if losses else torch.empty(0, dtype=torch.float64)


def build_order_scores(config: MetatuneConfig, setup: AdaptationSetup, fabric: Fabric, loss: Loss) -> OrderScores:
    """Make what the order of the settings needs.

    Args:
        config: The verb's settings, checked by :func:`check_order`.
        setup: What is adapted.
        fabric: Device and precision.
        loss: The loss of the tuning.

    Raises:
        UsageError: The oracle has other modalities or another label space than the network.
        RunError: There is no such oracle.
    """
    needs = ORDERS.get(config.order).needs
    if "preference" in needs:
        return AdaptiveScores(loss, fabric)
    if "oracle" not in needs or config.oracle is None:
        return OrderScores()
    oracle = load_network(config.oracle)
    require_same_task(oracle.card, setup.network.card, config.oracle)
    return OracleScores(replace(Predictor.from_network(oracle, fabric), space=setup.space))


def check_order(config: MetatuneConfig) -> None:
    """Check the order and what belongs to it, before any data is read.

    Raises:
        UsageError: There is no such order; an oracle is missing or not asked for, or
            knows other images or classes than the network that ``--from`` names; or an order of one side meets a
            option that undoes it.
        RunError: There is no such oracle.
    """
    order = ORDERS.get(config.order)
    if "oracle" in order.needs and config.oracle is None:
        raise UsageError(
            f"order '{order.name}' has no oracle",
            expected="a network that knows the target",
            remedy="name its run with --oracle, such as one pretrained or tuned on many target patients",
        )
    if "oracle" not in order.needs and config.oracle is not None:
        raise UsageError(
            f"an oracle is given, but order '{order.name}' asks none", remedy="add --order oracle, or drop --oracle"
        )
    if config.replay == "learned" and "unlearned" not in order.sides:
        raise UsageError(
            f"order '{order.name}' draws learned slices alone, and --replay learned puts source slices in their place",
            remedy="use --replay added, or an order that draws unlearned slices too",
        )
    if config.rescore_every and len(order.sides) == 1:
        raise UsageError(
            f"order '{order.name}' draws {order.sides[0]} slices alone, and --rescore-every parts what is left anew, "
            "so that slices of the other side would slip in",
            expected="one decomposition a visit",
            remedy="leave --rescore-every at 0",
        )
    if config.oracle is not None:
        card = load_network(config.oracle).card
        if config.from_run is not None:
            require_same_task(card, load_network(config.from_run).card, config.oracle)


def require_same_task(oracle: ModelCard, network: ModelCard, name: str) -> None:
    """Check that an oracle sees the same images and knows the same classes as the network that is tuned.

    Raises:
        UsageError: It does not.
    """
    for what, own, wanted in (
        ("modalities", sorted(oracle.modalities), sorted(network.modalities)),
        ("label space", [oracle.label_space], [network.label_space]),
    ):
        if own != wanted:
            raise UsageError(
                f"the oracle's {what}: {', '.join(own)}",
                where=name,
                expected=f"{', '.join(wanted)}, as the network that is tuned",
                remedy="name a run that was trained on the same kind of data",
            )
