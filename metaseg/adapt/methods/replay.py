"""Replay: a share of source slices in every batch (Rolnick et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from lightning_fabric import Fabric

from metaseg.adapt.balanced_slices import BalancedSlices, BatchSource, augmented, stack
from metaseg.adapt.methods.naive import Naive
from metaseg.adapt.methods.registry import register_method
from metaseg.adapt.setting import Setting
from metaseg.adapt.source_slices import source_shots
from metaseg.config import NaivetuneConfig
from metaseg.errors import UsageError
from metaseg.runs.events import Selection
from metaseg.training.loop import Batch


@register_method(
    "replay",
    "plain",
    title="replay of source slices",
    paper="Rolnick et al. 2019, Experience Replay for Continual Learning",
    needs_source="always",
    cost="b for a batch of b slices, source slices among them",
)
class Replay(Naive):
    """Every batch holds as many slices as in naive fine-tuning, some of them of the source's training cases.

    Both parts are drawn class-balanced from tumour-bearing slices. With a share of 0 this is naive fine-tuning, to the
    bit.

    Args:
        config: The verb's settings.
        setting: Network, shots and source memory.
        fabric: Device and precision.

    Raises:
        UsageError: A batch has no room for slices of both.
    """

    def __init__(self, config: NaivetuneConfig, setting: Setting, fabric: Fabric) -> None:
        super().__init__(config, setting, fabric)
        self.replayed = replayed_slices(config.batch_size, config.replay_share)

    def batches(self, steps: int) -> BatchSource:
        """All batches of a training of so many steps.

        Raises:
            UsageError: None of the source cases bears tumour.
        """
        if not self.replayed:
            return super().batches(steps)
        config, setting = self.config, self.setting
        target = BalancedSlices.plan(setting, config.batch_size - self.replayed, steps, config.seed, config.augment)
        source = replace(setting, shots=source_shots(setting))
        # A stream of its own, lest source and target are drawn in step.
        other = int(np.random.default_rng([config.seed, 23]).integers(2**31))
        return MixedSlices(target, BalancedSlices.plan(source, self.replayed, steps, other, config.augment))


@dataclass(frozen=True)
class MixedSlices:
    """Batches of target slices, followed by source slices.

    Attributes:
        target: The target's part of every batch.
        source: The source's part; its shots are the source's cases.
    """

    target: BalancedSlices
    source: BalancedSlices

    def draw(self, step: int) -> Batch:
        """The batch of a step; all of its slices are augmented alike."""
        (images, labels), (more_images, more_labels) = self.target.slices(step), self.source.slices(step)
        mixed = stack([*images, *more_images], [*labels, *more_labels])
        return augmented(*mixed, self.target.augmentation, [self.target.seed, 22, step])

    def selections(self, step: int, spent: int) -> list[Selection]:
        """The slices of the batch of a step; those of the source are marked as such."""
        target = self.target.selections(step, spent)
        source = self.source.selections(step, spent)
        return [*target, *(replace(row, task="source", position=row.position + len(target)) for row in source)]


def replayed_slices(batch_size: int, share: float) -> int:
    """Source slices of a batch: the share of it, halves up; one at least unless it is 0, and never the whole batch.

    Raises:
        UsageError: A batch of one slice has no room for both domains.
    """
    if not share:
        return 0
    if batch_size < 2:
        raise UsageError(
            "a batch of one slice has no room for a slice of the source beside one of the target",
            expected="--batch-size of 2 or more, or --replay-share 0",
        )
    return min(max(int(np.floor(share * batch_size + 0.5)), 1), batch_size - 1)
