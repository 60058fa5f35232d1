"""An adaptive task scheduler: a bandit over bands of difficulty, rewarded by learning progress.

Graves et al. 2017 (Automated Curriculum Learning for Neural Networks) let a bandit choose what a network learns next,
rewarded by how much it has just learned. Here a band of the slices' Dice is an arm, and a case's slices are drawn in
proportion to the bandit's liking of their bands. ATS (Yao et al. 2021, Meta-learning with an Adaptive Task Scheduler)
has the same purpose: there a second network scores the tasks and is trained itself, by reinforcement, on validation
tasks. A few labelled patients leave no tasks to spare for that, while the bandit has one number for each band.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metaseg.sampling.scores import FloatArray, IntArray


def difficulty_bands(dice: np.ndarray, bands: int = 4) -> IntArray:
    """The band of each slice: ``[0, 1]`` cut into equal parts, the hardest slices in band 0.

    Bands of the Dice itself, not of its rank within the case: so that a band stands for the same slices in every case
    and at every time, and what is learned about it carries over. A case may leave bands empty.

    Args:
        dice: Dice under the current network, ``(slices,)`` in ``0 .. 1``.
        bands: Their number. The upper edge belongs to the next band; 1 belongs to the last.

    Returns:
        ``(slices,)`` in ``0 .. bands - 1``.

    Raises:
        ValueError: A Dice lies outside ``0 .. 1``, or ``bands`` is below 1.
    """
    values = np.asarray(dice, dtype=np.float64)
    if bands < 1 or not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"need Dice within 0 .. 1 and a band at least, got {bands} bands")
    return np.minimum(np.floor(values * bands), bands - 1).astype(np.int64)


def slice_preferences(probabilities: np.ndarray, bands: np.ndarray) -> FloatArray:
    """Weights that make the first of a case's slices come from band b with probability ``probabilities[b]``.

    The slices of a band share its probability; that of empty bands goes to the others in proportion.

    Args:
        probabilities: One a band, positive.
        bands: The band of each slice, ``(slices,)``.

    Returns:
        ``(slices,)``, positive.
    """
    counts = np.bincount(bands, minlength=len(probabilities))
    weights: FloatArray = np.asarray(probabilities, dtype=np.float64)[bands] / counts[bands]
    return weights


def band_chances(weights: np.ndarray, bands: np.ndarray) -> FloatArray:
    """How likely each draw of a weighted sequence without replacement was to come from the band it came from.

    Args:
        weights: Weight of each slice in the sequence of their drawing, ``(slices,)``, positive.
        bands: Their bands, ``(slices,)``.

    Returns:
        ``(slices,)`` in ``0 .. 1``: the weight that was left of the drawn slice's band, over all that was left. 1 once
        no other band is left.
    """
    weights, bands = np.asarray(weights, dtype=np.float64), np.asarray(bands)

    def left(values: np.ndarray) -> np.ndarray:
        return np.cumsum(values[::-1])[::-1]

    everything = left(weights)
    chances = np.empty(len(weights))
    for band in np.unique(bands):
        drawn = bands == band
        chances[drawn] = (left(np.where(drawn, weights, 0.0)) / everything)[drawn]
    return np.minimum(chances, 1.0)


class Exp3S:
    """EXP3.S: a bandit against rewards whose distribution moves (Auer et al. 2002), as Graves et al. 2017 use it.

    Arm a is drawn with probability ``(1 - ε) exp(w_a) / Σ_b exp(w_b) + ε / N``. A reward r, rescaled to ``-1 .. 1``,
    for an arm that was drawn with probability p counts ``r / p``, which makes up for arms that are seldom drawn::

        v_b = w_b + η (r / p if b is the arm, else 0)
        w_b = log((1 - α) exp(v_b) + α / (N - 1) Σ_{c ≠ b} exp(v_c))

    The fraction α that every arm gives to the others lets one that has fallen behind come back when it pays again.

    Two things differ from Graves et al. Their α falls as 1 / t; here it stays, since in the few hundred rewards of a
    tuning a switch may come late (and 1 / t would hand over the whole weight of an arm at the first reward). And the
    rewards are rescaled by the quantiles of the last ``window`` ones, not of a sample of all: progress shrinks as a
    network converges, and no chance is needed.

    Args:
        arms: Number of arms N, 2 or more.
        exploration: ε in ``(0, 1]``, the fraction of draws that go to all arms alike.
        rate: η, positive; by default ``ε / N`` as in Auer et al., with which no exponent exceeds 1.
        mixing: α in ``[0, 1)``.
        window: Past rewards that a new one is compared with.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(
        self, arms: int, exploration: float = 0.2, rate: float | None = None, mixing: float = 0.01, window: int = 500
    ) -> None:
        if arms < 2 or window < 1 or not 0 < exploration <= 1 or not 0 <= mixing < 1:
            raise ValueError(f"out of range: {arms} arms, exploration {exploration}, mixing {mixing}, window {window}")
        self.exploration, self.mixing, self.window = exploration, mixing, window
        self.rate = exploration / arms if rate is None else rate
        if not 0 < self.rate < math.inf:
            raise ValueError(f"a rate of {rate}")
        self._weights: FloatArray = np.zeros(arms)
        self._history: list[float] = []

    @property
    def arms(self) -> int:
        """Their number."""
        return len(self._weights)

    def probabilities(self) -> FloatArray:
        """The probability of each arm, ``(arms,)``; at least ``exploration / arms`` each."""
        powers = np.exp(self._weights - self._weights.max())
        probabilities: FloatArray = (1 - self.exploration) * powers / powers.sum() + self.exploration / self.arms
        return probabilities

    def update(self, arm: int, reward: float, chance: float | None = None) -> float:
        """Learn from the reward of an arm that was drawn.

        Args:
            arm: Which.
            reward: In any unit; more is better.
            chance: The probability with which it was drawn, where that was not :meth:`probabilities` of now: it may
                have been drawn some rewards ago, or with arms missing. Taken as at least ``exploration / arms``.

        Returns:
            The rescaled reward, in ``-1 .. 1``.

        Raises:
            ValueError: There is no such arm, or a value is not finite or no probability.
        """
        if not (0 <= arm < self.arms and math.isfinite(reward) and (chance is None or 0 < chance <= 1)):
            raise ValueError(f"arm {arm} of {self.arms}, reward {reward}, probability {chance}")
        drawn_with = float(self.probabilities()[arm]) if chance is None else chance
        scaled = rescale_reward(reward, self._history)
        self._history = [*self._history, float(reward)][-self.window :]
        raised = self._weights.copy()
        raised[arm] += self.rate * scaled / max(drawn_with, self.exploration / self.arms)
        powers = np.exp(raised - raised.max())
        others = powers.sum() - powers
        self._weights = np.log((1 - self.mixing) * powers + self.mixing / (self.arms - 1) * others)
        # Only differences count; the largest is kept at 0, so that nothing grows without bound.
        self._weights -= self._weights.max()
        return scaled

    def state_dict(self) -> dict[str, Any]:
        """What has been learned, as plain lists of numbers."""
        return {"weights": self._weights.tolist(), "history": list(self._history)}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: It is of another number of arms.
        """
        if len(values["weights"]) != self.arms:
            raise ValueError(f"a state of {len(values['weights'])} arms for {self.arms}")
        self._weights = np.array(values["weights"], dtype=np.float64)
        self._history = [float(reward) for reward in values["history"]]


def rescale_reward(reward: float, history: Sequence[float]) -> float:
    """Bring a reward to ``-1 .. 1`` by the quantiles 0.2 and 0.8 of past ones (Graves et al. 2017).

    The lower quantile becomes -1, the upper 1, what lies beyond is cut off there. So few outliers do not set the scale,
    and a fifth of the past rewards counts as full success whatever their unit.

    Args:
        reward: The new one.
        history: Those of before. Without any there is nothing to compare with, and the result is 0.
    """
    if not history:
        return 0.0
    low, high = np.quantile(np.asarray(history, dtype=np.float64), [0.2, 0.8])
    if reward < low:
        return -1.0
    if reward > high:
        return 1.0
    return float(2 * (reward - low) / (high - low) - 1) if high > low else 0.0
