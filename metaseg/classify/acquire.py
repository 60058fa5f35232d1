"""What the strategies of active learning ask of a network, and the choice that they make from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from metaseg.classify.fitting import BATCH, slice_probabilities, softmax
from metaseg.classify.slices import ClassifiedSlices, augmented_images
from metaseg.config.classification import ClassifyActiveConfig
from metaseg.errors import UsageError
from metaseg.models import Classifier, mc_dropout
from metaseg.models.weights import finite_output
from metaseg.sampling import STRATEGIES, Candidates, draw_from_band, rank_candidates, trim
from metaseg.training.augment import Augmentation

Network = Callable[[], Classifier]
"""Gives the current network, when it is needed."""
Committee = Callable[[ClassifiedSlices], np.ndarray]
"""Gives the class probabilities of slices by a committee that learned all that is labelled, when it is needed."""


@dataclass(frozen=True)
class ChosenSlices:
    """What a round chose.

    Attributes:
        positions: Places among the slices that were ranked, the first choice first, ``(count,)``.
        scores: What each was ranked by, ``(count,)``; NaN where the strategy has no score of a single slice.
        ranking: Places of all slices that were ranked, the first to be labelled first.
        rest: The same without the ends that are dropped.
        outputs: What the strategy asked of the network, by the names of ``NEEDS``.
    """

    positions: np.ndarray
    scores: np.ndarray
    ranking: np.ndarray
    rest: np.ndarray
    outputs: Mapping[str, np.ndarray]


def check_strategy(config: ClassifyActiveConfig, model: Classifier, initial: int) -> None:
    """Find out before anything is trained whether a strategy can be used.

    Args:
        config: Strategy and its settings.
        model: The network.
        initial: Slices that are labelled by chance.

    Raises:
        UsageError: It cannot.
    """
    strategy = STRATEGIES.get(config.acquisition)
    if strategy.chooses_set and (config.drop_top or config.drop_bottom or config.draw == "random"):
        raise UsageError(
            f"--acquisition {config.acquisition} chooses a set, not a ranking: nothing can be dropped or drawn from it",
            remedy="omit --drop-top, --drop-bottom and --draw",
        )
    if "committee" in strategy.needs and not initial:
        raise UsageError(
            f"--acquisition {config.acquisition} trains its members on labelled slices, and there are none before the "
            "first round",
            remedy="label some by chance first, with --initial",
        )
    if strategy.check is not None:
        strategy.check(vars(config))
    if "dropout" in strategy.needs:
        with mc_dropout(model):
            pass


def choose(
    config: ClassifyActiveConfig,
    network: Network,
    candidates: ClassifiedSlices,
    labelled: ClassifiedSlices,
    count: int,
    seed: tuple[int, ...],
    committee: Committee,
    patches: PatchImages,
) -> ChosenSlices:
    """Choose the slices to label next.

    Args:
        config: Strategy and its settings.
        network: The current network.
        candidates: Slices to rank.
        labelled: Slices that have labels.
        count: How many to choose.
        seed: Of this round's draws.
        committee: For strategies that ask one.
        patches: Makes the patches, for strategies that need them.
    """
    model = cache(network)
    computed: dict[str, Callable[[], np.ndarray]] = {
        "probabilities": lambda: slice_probabilities(model(), candidates),
        "patches": lambda: patch_probabilities(model(), candidates, patches),
        "dropout": lambda: dropout_probabilities(model(), candidates, config.dropout_passes, seed),
        "committee": lambda: committee(candidates),
        "features": lambda: embeddings(model(), candidates),
        "labelled_features": lambda: embeddings(model(), labelled),
        "gradients": lambda: gradient_embeddings(model(), candidates),
    }
    outputs = {need: computed[need]() for need in STRATEGIES.get(config.acquisition).needs}
    rng = np.random.default_rng(seed)
    ranking = rank_candidates(config.acquisition, Candidates(len(candidates), outputs, count, vars(config)), rng)
    rest = trim(ranking.positions, config.drop_top, config.drop_bottom)
    if config.draw == "random":
        # At the end of a pool less may be left than a round would take.
        chosen = draw_from_band(
            ranking.positions, min(count, len(rest)), rng, drop_top=config.drop_top, drop_bottom=config.drop_bottom
        )
    else:
        chosen = rest[:count]
    scores = np.full(len(chosen), np.nan) if ranking.scores is None else ranking.scores[chosen]
    return ChosenSlices(chosen, scores, ranking.positions, rest, outputs)


class PatchImages:
    """The patches of slices: each slice itself and augmentations of it at full strength (Zhou et al. 2017).

    They are the same in every round, and making them takes longer than predicting them: as many as fit are kept.

    Args:
        count: Patches of each slice.
        seed: Seed of the augmentations.
        memory: Bytes that may be kept.
    """

    def __init__(self, count: int, seed: int, memory: int = 2**29) -> None:
        self.count, self.seed, self.left = count, seed, memory
        self._augmentation = Augmentation("full")
        self._kept: dict[int, torch.Tensor] = {}

    def of(self, slices: ClassifiedSlices, place: int) -> torch.Tensor:
        """The patches ``(count, modality, height, width)`` of one slice."""
        row = int(slices.rows[place])
        if row in self._kept:
            return self._kept[row]
        image = slices.images([place])
        seeds = np.random.default_rng([self.seed, 3, row]).integers(2**31, size=self.count - 1)
        changed = augmented_images(image.repeat(self.count - 1, 1, 1, 1), seeds, self._augmentation)
        patches = torch.cat([image, changed])
        size = patches.element_size() * patches.numel()
        if size <= self.left:
            self.left -= size
            self._kept[row] = patches
        return patches


@torch.inference_mode()
def patch_probabilities(model: Classifier, slices: ClassifiedSlices, patches: PatchImages) -> np.ndarray:
    """Class probabilities of the patches of each slice (Zhou et al. 2017).

    Args:
        model: The classifier.
        slices: The candidates.
        patches: Makes their patches.

    Returns:
        ``(slices, patches, class)``.
    """
    device = next(model.parameters()).device
    model.eval()
    result = np.empty((len(slices), patches.count, len(slices.classes)))
    for place in range(len(slices)):
        result[place] = softmax(model(patches.of(slices, place).to(device)))
    return result


@torch.inference_mode()
def dropout_probabilities(
    model: Classifier, slices: ClassifiedSlices, passes: int, seed: tuple[int, ...]
) -> np.ndarray:
    """Class probabilities of several passes with dropout, ``(passes, slices, class)`` (Gal et al. 2017).

    Raises:
        UsageError: The network has no dropout.
    """
    device = next(model.parameters()).device
    model.eval()
    result = np.empty((passes, len(slices), len(slices.classes)))
    number = int(np.random.default_rng(seed).integers(2**31))
    with mc_dropout(model), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(number)
        for start in range(0, len(slices), BATCH):
            places = np.arange(start, min(start + BATCH, len(slices)))
            images = slices.images(places).to(device)
            for turn in range(passes):
                result[turn, places] = softmax(model(images))
    return result


@torch.inference_mode()
def embeddings(model: Classifier, slices: ClassifiedSlices) -> np.ndarray:
    """What the last layer sees of each slice, ``(slices, d)``."""
    return _by_batch(model, slices, lambda images: finite_output(model.embed(images), "a batch of slices"))


@torch.inference_mode()
def gradient_embeddings(model: Classifier, slices: ClassifiedSlices) -> np.ndarray:
    """Gradient of the last layer's weights for the class that the network believes in (BADGE; Ash et al. 2020).

    Returns:
        ``(slices, class * d)``.
    """

    def gradient(images: torch.Tensor) -> torch.Tensor:
        logits, features = model.forward_with_embedding(images)
        slope = torch.softmax(finite_output(logits, "a batch of slices"), dim=1)
        slope[torch.arange(len(slope)), slope.argmax(dim=1)] -= 1.0
        return (slope[:, :, None] * features[:, None, :]).flatten(1)

    return _by_batch(model, slices, gradient)


def _by_batch(
    model: Classifier, slices: ClassifiedSlices, compute: Callable[[torch.Tensor], torch.Tensor]
) -> np.ndarray:
    """What is computed from the images of all slices, a batch at a time, in evaluation mode: ``(slices, ...)``."""
    device = next(model.parameters()).device
    model.eval()
    places = np.arange(len(slices))
    parts = [
        compute(slices.images(places[start : start + BATCH]).to(device)).cpu().numpy()
        for start in range(0, len(slices), BATCH)
    ]
    return np.concatenate(parts).astype(np.float64) if parts else np.empty((0, 0))
