"""What is drawn from shots and source cases: class-balanced batches, and the tasks of a meta-step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from metaseg.adapt.setup import AdaptationSetup, Shot
from metaseg.cases.labels import LabelSpace
from metaseg.errors import UsageError
from metaseg.runs.logs import Selection
from metaseg.sampling import class_balanced_draw, tumour_slices
from metaseg.sampling.tasks import group_support_query
from metaseg.store.store import SliceStore
from metaseg.store.stored_case import StoredCase
from metaseg.training.augment import Augmentation
from metaseg.training.loop import Batch
from metaseg.training.slices import fit_window


class BatchSource(Protocol):
    """Where the ordinary loop's batches come from; everything is a function of the step."""

    def draw(self, step: int) -> Batch:
        """Images ``(batch, modality, height, width)`` and classes ``(batch, height, width)`` of a step from 0."""
        ...

    def selections(self, step: int, spent: int) -> list[Selection]:
        """What the batch of a step holds, as logged when ``spent`` slice gradient evaluations are done."""
        ...


@dataclass(frozen=True)
class BalancedSlices:
    """Class-balanced batches out of the shots' slices.

    Attributes:
        setup: The shots.
        batch_size: Slices of a batch.
        drawn: For every draw of the whole training: number of the shot and stored slice, ``(draws, 2)``.
        augmentation: What happens to each slice.
        seed: Seed of the augmentation.
    """

    setup: AdaptationSetup
    batch_size: int
    drawn: np.ndarray
    augmentation: Augmentation
    seed: int

    @classmethod
    def plan(
        cls, setup: AdaptationSetup, batch_size: int, steps: int, seed: int, augment: str | None = None
    ) -> BalancedSlices:
        """Draw all batches of a training at once."""
        areas = np.concatenate([shot.case.areas(setup.space)[shot.slices, 1:] for shot in setup.shots])
        rows = np.array([(number, index) for number, shot in enumerate(setup.shots) for index in shot.slices])
        drawn = class_balanced_draw(areas, steps * batch_size, np.random.default_rng([seed, 21]))
        return cls(setup, batch_size, rows[drawn], Augmentation(augment or "none"), seed)

    def rows(self, step: int) -> np.ndarray:
        """Shot and slice of each member of a batch, ``(batch, 2)``."""
        return self.drawn[step * self.batch_size : (step + 1) * self.batch_size]

    def slices(self, step: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Images ``(modality, height, width)`` and classes ``(height, width)`` of a batch, of whatever sizes."""
        images, labels = [], []
        for number, index in self.rows(step):
            case = self.setup.shots[number].case
            images.append(case.images([index], self.setup.modalities)[0])
            labels.append(case.labels([index], self.setup.space)[0])
        return images, labels

    def draw(self, step: int) -> Batch:
        """The batch of a step."""
        images, labels = stack(*self.slices(step))
        return augmented(images, labels, self.augmentation, [self.seed, 22, step])

    def selections(self, step: int, spent: int) -> list[Selection]:
        """The shots' slices in the batch of a step."""
        cases = [(self.setup.shots[number].case, int(index)) for number, index in self.rows(step)]
        return [
            Selection(spent, case.id, case.patient, case.native_slice(index), "plain", "batch", position)
            for position, (case, index) in enumerate(cases)
        ]


def stack(images: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> Batch:
    """One batch of slices of different sizes: smaller brains are padded with background to the largest."""
    height, width = np.max([label.shape for label in labels], axis=0)
    window, middle = (int(height), int(width)), (0.5, 0.5)
    return (
        torch.from_numpy(np.stack([fit_window(image, window, middle) for image in images])),
        torch.from_numpy(np.stack([fit_window(label, window, middle) for label in labels])),
    )


def augmented(images: Tensor, labels: Tensor, augmentation: Augmentation, seed: Sequence[int]) -> Batch:
    """A batch with every slice changed in its own way; a function of the seed."""
    if augmentation.strength == "none":
        return images, labels
    seeds = np.random.default_rng(seed).integers(2**31, size=len(images))
    changed = [
        augmentation(image.numpy(), label.numpy(), int(draw))
        for image, label, draw in zip(images, labels, seeds, strict=True)
    ]
    return torch.stack([image for image, _ in changed]), torch.stack([label for _, label in changed])


def source_shots(setup: AdaptationSetup) -> tuple[Shot, ...]:
    """The source's training cases with all of their tumour-bearing slices, by case id.

    Raises:
        UsageError: None of them bears tumour.
    """
    cases = sorted(setup.source_cases, key=lambda case: case.id)
    shots = [Shot(case, tumour_slices(case.areas(setup.space)[:, 1:], case.num_slices)) for case in cases]
    bearing = tuple(shot for shot in shots if len(shot.slices))
    if not bearing:
        raise UsageError(
            f"none of the source's {len(cases)} training cases bears tumour",
            expected="source slices with tumour to draw from",
            remedy="check the labels of the source, or choose a method that needs no source data",
        )
    return bearing


@dataclass(frozen=True)
class ChosenTask:
    """A task of a meta-step; stored slices of one case.

    Attributes:
        kind: The side of the case that it comes from, or ``"source"``.
        case: The case.
        support: Slices of the inner loop.
        query: Slices of the outer loop; none of them is support.
    """

    kind: Literal["learned", "unlearned", "source"]
    case: StoredCase
    support: tuple[int, ...]
    query: tuple[int, ...]


class SourceTasks:
    """Draws source tasks; each is a function of the seed and its number.

    Cases are visited in turn, in an order drawn anew for every pass; of a case, tumour-bearing slices are drawn
    without replacement.

    Args:
        cases: Labelled source cases.
        space: The network's label space.
        support_size: Slices of an inner loop.
        query_size: Slices of an outer loop.
        seed: Seed of all draws.

    Raises:
        ValueError: No case has slices enough for a task.
    """

    def __init__(self, cases: SliceStore, space: LabelSpace, support_size: int, query_size: int, seed: int) -> None:
        self.sizes, self.seed = (support_size, query_size), seed
        bearing = [(case, tumour_slices(case.areas(space)[:, 1:], case.num_slices)) for case in cases]
        self.cases = [(case, slices) for case, slices in bearing if len(slices) >= support_size + query_size]
        if not self.cases:
            raise ValueError(f"no source case has {support_size + query_size} slices with tumour")

    def draw(self, number: int) -> ChosenTask:
        """The task of a number, counted from 0 over the whole tuning."""
        case, slices = self.cases[place_in_turn(number, len(self.cases), [self.seed, 41])]
        shuffled = np.random.default_rng([self.seed, 42, number]).permutation(slices)
        support, query = group_support_query(shuffled, *self.sizes)[0]
        return ChosenTask("source", case, support, query)


def place_in_turn(number: int, count: int, seed: list[int]) -> int:
    """Which of ``count`` things a number goes to: all in turn, in an order drawn anew for every pass."""
    round_, position = divmod(number, count)
    return int(np.random.default_rng([*seed, round_]).permutation(count)[position])
