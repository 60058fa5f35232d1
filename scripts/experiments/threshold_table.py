"""Print how slices are parted into learned and unlearned ones before any tuning, by every rule; see docs/results.md.

Usage: threshold_table.py RUN DATA SPLIT CLASS..., where RUN is the source network and each CLASS a target disease.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from metaseg.adapt.scoring import score_slices
from metaseg.adapt.setup import prepare_setup
from metaseg.config.segmentation import MetatuneConfig
from metaseg.inference.predictor import Predictor
from metaseg.sampling import decompose

SEEDS, SLICES = range(5), 10


def parted(dice: np.ndarray, rule: str) -> np.ndarray:
    """Which slices are learned by a rule, ``(slices,)``; ``median alone`` is without a fallback."""
    if rule == "median alone":
        return dice >= np.median(dice)
    if rule == "median, else otsu" and np.median(dice) > dice.min():
        rule = "median"
    split = decompose(dice, rule.removeprefix("median, else "))
    return np.isin(np.arange(dice.size), split.learned)


RULES = ("median alone", "median", "median, else otsu", "otsu", "rank")


def draws(run: str, data: Path, split: Path, disease: str) -> list[np.ndarray]:
    """Dice of the slices of every drawn patient under the source network."""
    scores = []
    for seed in SEEDS:
        config = MetatuneConfig(from_run=run, data=(data,), classes=(disease,), split=split, slices=SLICES, seed=seed)
        setup = prepare_setup(config)
        predictor = Predictor(setup.network.model, setup.modalities, setup.space)
        scores += [score_slices(predictor, shot.case, shot.slices).score("dice") for shot in setup.shots]
    return scores


def row(scores: list[np.ndarray], rule: str) -> list[str]:
    """What a rule makes of the draws."""
    learned = [parted(dice, rule) for dice in scores]
    sides = [(dice[side], dice[~side]) for dice, side in zip(scores, learned, strict=True)]
    values = np.concatenate(scores)
    is_learned = np.concatenate(learned)
    tasks = [sum(side[number].size // 2 for side in sides) for number in (0, 1)]
    return [
        f"{sum(not low.size for _, low in sides)} of {len(scores)}",
        f"{np.count_nonzero(values[is_learned] == 0)} of {np.count_nonzero(values == 0)}",
        f"{values[is_learned].mean():.3f}",
        f"{values[~is_learned].mean():.3f}" if not is_learned.all() else "-",
        f"{tasks[0]} and {tasks[1]}",
        str(sum(min(side.size for side in pair) < 2 for pair in sides)),
    ]


def main(run: str, data: Path, split: Path, diseases: list[str]) -> None:
    heads = (
        "target", "rule", "patients not parted", "missed slices (Dice 0) called learned", "mean Dice, learned",
        "unlearned", "learned and unlearned tasks", "patients with a side too small for a task",
    )  # fmt: skip
    rows = []
    for disease in diseases:
        scores = draws(run, data, split, disease)
        tied = sum(np.ptp(dice) == 0 for dice in scores)
        print(f"{disease}: {sum(map(len, scores))} slices of {len(scores)} patients; {tied} have all slices tied")
        rows += [[disease, rule, *row(scores, rule)] for rule in RULES]
    for cells in (heads, ["---"] * len(heads), *rows):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
