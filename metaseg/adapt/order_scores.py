"""What some orders know beyond a case's own scores: an oracle's Dice, or a bandit's preferences.

``oracle`` is a curriculum by true difficulty: the slices that a network which knows the target segments well come first
(transfer scoring of Weinshall et al. 2018 and Hacohen and Weinshall 2019). It bounds what any order by difficulty can
give, and is no method: its network has seen labels that the tuning has not.

``adaptive`` learns while tuning which difficulty pays (:mod:`metaseg.sampling.scheduler`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from metaseg.adapt.engines import Loss, TaskBatch
from metaseg.adapt.scoring import score_slices
from metaseg.adapt.setting import Setting, Shot
from metaseg.config import MetatuneConfig
from metaseg.errors import UsageError
from metaseg.models.checkpoint import ModelCard
from metaseg.runs.networks import load_network
from metaseg.sampling import Exp3S, Pool, band_chances, difficulty_bands, find_order, slice_preferences
from metaseg.sampling.tasks import CasePlan

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

    def figures(self) -> dict[str, float]:
        """Figures to log after a step."""
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
        model: The oracle, on the device.
        modalities: Its input modalities.
        setting: What is adapted.
        fabric: Device and precision.
    """

    def __init__(self, model: nn.Module, modalities: Sequence[str], setting: Setting, fabric: Fabric) -> None:
        self.model, self.modalities, self.setting, self.fabric = model, modalities, setting, fabric
        self._dice: dict[str, dict[int, float]] = {}

    def complete(self, shot: Shot, pool: Pool) -> Pool:
        """Add score ``oracle``."""
        if shot.case.id not in self._dice:
            scored = score_slices(
                self.model, shot.case, shot.slices, self.modalities, self.setting.space, self.fabric.autocast
            )
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

    def figures(self) -> dict[str, float]:
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


def build_order_scores(config: MetatuneConfig, setting: Setting, fabric: Fabric, loss: Loss) -> OrderScores:
    """Make what the order of the settings needs.

    Args:
        config: The verb's settings, checked by :func:`check_order`.
        setting: What is adapted.
        fabric: Device and precision.
        loss: The loss of the tuning.

    Raises:
        UsageError: The oracle has other modalities or another label space than the network.
        RunError: There is no such oracle.
    """
    needs = find_order(config.order).needs
    if "preference" in needs:
        return AdaptiveScores(loss, fabric)
    if "oracle" not in needs or config.oracle is None:
        return OrderScores()
    oracle = load_network(config.oracle)
    require_same_task(oracle.card, setting.network.card, config.oracle)
    return OracleScores(fabric.to_device(oracle.model), oracle.card.modalities, setting, fabric)


def check_order(config: MetatuneConfig) -> None:
    """Check the order and what belongs to it, before any data is read.

    Raises:
        UsageError: There is no such order, or it is for classification; an oracle is missing or not asked for, or
            knows other images or classes than the network that ``--from`` names; or an order of one side meets a
            setting that undoes it.
        RunError: There is no such oracle.
    """
    order = find_order(config.order, "segmentation")
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
