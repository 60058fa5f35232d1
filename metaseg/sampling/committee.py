"""The score of a committee of networks: how unsure its members are, and how far apart (Hao et al. 2021)."""

from __future__ import annotations

import numpy as np

from metaseg.sampling.distributions import as_distributions, pair_divergence
from metaseg.sampling.scores import FloatArray, predictive_entropy


def committee_score(probabilities: np.ndarray) -> FloatArray:
    """Sum of the members' entropies and of the divergences between every two of them (Hao et al. 2021, Workflow).

    The paper's members are three networks fine-tuned with different learning rates. Each pair counts once, with the
    symmetric Kullback-Leibler divergence ``sum_k (p_k - q_k) ln(p_k / q_k)``. Both terms are unweighted, so that one
    member that is sure of another class than the others outweighs any entropy.

    Args:
        probabilities: ``(members, samples, classes)``. Zeros are taken as the float64 machine epsilon.

    Returns:
        ``(samples,)`` in nats, at least 0; more is more uncertain.

    Raises:
        ValueError: The array holds no probabilities that sum to 1, or no member.
    """
    values = np.moveaxis(as_distributions(probabilities, "members", "samples", "classes"), 0, 1)
    scores: FloatArray = predictive_entropy(values, axis=2).sum(axis=1) + pair_divergence(values)
    return scores
