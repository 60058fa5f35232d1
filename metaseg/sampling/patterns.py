"""The seven prediction patterns of a candidate's patches (Zhou et al. 2017, Sec. 3.4 and Table 1)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from metaseg.sampling.scores import TIE, as_distributions, majority_probabilities

PATTERNS: Mapping[str, str] = {
    "A": "together at 0.5",
    "B": "spread from 0 to 1",
    "C": "at both ends",
    "D": "together at 0",
    "E": "together at 1",
    "F": "low, with outliers",
    "G": "high, with outliers",
}
"""Each pattern, and where the predictions of its patches lie."""

LOW, HIGH = 1 / 3, 2 / 3
"""Thirds of 0 .. 1, by which a mean prediction is low, undecided or high."""
TOGETHER, APART = 0.2, 0.4
"""Standard deviations halfway between those of the paper's examples: 0.05 to 0.07 (A, D, E), 0.33 (B, F, G), 0.46."""

_LETTERS = np.array([["D", "F", "F"], ["A", "B", "C"], ["E", "G", "G"]])
"""By mean (low, undecided, high) and deviation (together, spread, apart)."""


def prediction_patterns(probabilities: np.ndarray) -> np.ndarray:
    """Which of the seven patterns the predictions of each sample's patches show.

    The paper describes the patterns by their histograms and gives an example of each, but no rule. This one, which is
    metaseg's, needs two numbers: the mean of the patches' predictions and their standard deviation.

    ================  =================  ==========  ===============
    mean              deviation < 0.2    0.2 to 0.4  0.4 and above
    ================  =================  ==========  ===============
    below 1/3         D                  F           F
    1/3 to 2/3        A                  B           C
    above 2/3         E                  G           G
    ================  =================  ==========  ===============

    The limits of the mean are thirds; those of the deviation lie halfway between the paper's examples. An even spread
    over 0 to 1 has 0.29, halves at both ends have 0.5. Swapping the two classes swaps D with E and F with G.

    Args:
        probabilities: ``(samples, patches, classes)``. Of two classes the second is the positive one; of more, a
            sample's predictions are those of the class with the largest mean, so that D and F are rare.

    Returns:
        ``(samples,)``, a letter of :data:`PATTERNS` each.

    Raises:
        ValueError: The array holds no probabilities that sum to 1.
    """
    values = majority_probabilities(as_distributions(probabilities, "samples", "patches", "classes"))
    mean, deviation = values.mean(axis=1), values.std(axis=1)
    # As everywhere here, what equals a limit up to rounding lies inside.
    height = 1 + (mean > HIGH + TIE) - (mean < LOW - TIE).astype(np.int64)
    width = (deviation >= TOGETHER - TIE).astype(np.int64) + (deviation >= APART - TIE)
    letters: np.ndarray = _LETTERS[height, width]
    return letters


def pattern_counts(patterns: np.ndarray) -> dict[str, int]:
    """How many of some letters are of each pattern, all seven in order."""
    return {name: int(np.count_nonzero(np.asarray(patterns) == name)) for name in PATTERNS}
