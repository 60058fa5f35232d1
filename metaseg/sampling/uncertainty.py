"""How unsure a classifier is of an image: scores of one prediction, and of several of the same image."""

from __future__ import annotations

import numpy as np

from metaseg.sampling.distributions import as_distributions
from metaseg.sampling.scores import FloatArray, predictive_entropy


def margin_score(probabilities: np.ndarray) -> FloatArray:
    """One minus the lead of the likeliest class over the next (Scheffer et al. 2001), turned so that more is unsure.

    Args:
        probabilities: ``(samples, classes)``, at least two classes.

    Returns:
        ``(samples,)`` in ``0 .. 1``: 1 where two classes share the lead, 0 where one class is certain.

    Raises:
        ValueError: The array holds no probabilities that sum to 1, or one class.
    """
    values = as_distributions(probabilities, "samples", "classes")
    if values.shape[1] < 2:
        raise ValueError("a margin needs two classes")
    ranked = np.sort(values, axis=1)
    margin: FloatArray = 1 - (ranked[:, -1] - ranked[:, -2])
    return margin


def least_confidence(probabilities: np.ndarray) -> FloatArray:
    """One minus the probability of the likeliest class (Lewis and Gale 1994; Settles 2009).

    Args:
        probabilities: ``(samples, classes)``.

    Returns:
        ``(samples,)`` in ``0 .. 1 - 1 / classes``.

    Raises:
        ValueError: The array holds no probabilities that sum to 1.
    """
    confidence: FloatArray = as_distributions(probabilities, "samples", "classes").max(axis=1)
    return 1 - confidence


def bald_score(probabilities: np.ndarray) -> FloatArray:
    """What the label would tell about the network: mutual information of label and weights (BALD, Houlsby et al. 2011).

    The entropy of the mean prediction minus the mean of the predictions' entropies, over passes with dropout (Gal et
    al. 2017) or over an ensemble. An image on which every pass is unsure in the same way scores 0: there the data are
    ambiguous, and no label would help.

    Args:
        probabilities: ``(passes, samples, classes)``.

    Returns:
        ``(samples,)`` in nats, between 0 and the entropy of the mean prediction.

    Raises:
        ValueError: The array holds no probabilities that sum to 1, or no pass.
    """
    values = as_distributions(probabilities, "passes", "samples", "classes")
    of_mean = predictive_entropy(values.mean(axis=0), axis=1)
    of_passes = predictive_entropy(values, axis=2).mean(axis=0)
    return np.maximum(of_mean - of_passes, 0.0)
