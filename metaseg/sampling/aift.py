"""The score of AIFT: entropy and diversity of a sample's augmented patches (Zhou et al. 2017)."""

from __future__ import annotations

import numpy as np

from metaseg.sampling.bands import share_count
from metaseg.sampling.distributions import as_distributions, pair_divergence
from metaseg.sampling.scores import FloatArray, predictive_entropy

TIE = 1e-6
"""Means nearer than this to each other, or to 0.5, are equal: the sum of floats such as 0.1 is not exact."""


def aift_score(
    probabilities: np.ndarray, lambda_entropy: float = 1.0, lambda_diversity: float = 1.0, patch_share: float = 0.25
) -> float:
    """How much the label of one sample would teach, from the predictions of its augmented patches.

    See :func:`aift_scores`, which does the same for many samples.

    Args:
        probabilities: ``(patches, classes)``.
        lambda_entropy: λ1 of Eq. 3.
        lambda_diversity: λ2 of Eq. 3.
        patch_share: α of Sec. 3.3.

    Returns:
        The sum of all entries of R; 0 where all kept patches are certain and agree.

    Raises:
        ValueError: The array holds no probabilities that sum to 1, or the share is not in ``0 .. 1``.
    """
    values = as_distributions(probabilities, "patches", "classes")
    return float(aift_scores(values[None], lambda_entropy, lambda_diversity, patch_share)[0])


def aift_scores(
    probabilities: np.ndarray, lambda_entropy: float = 1.0, lambda_diversity: float = 1.0, patch_share: float = 0.25
) -> FloatArray:
    """How much each sample's label would teach, from the predictions of its augmented patches (Zhou et al. 2017).

    ``R(j, j) = λ1 e(j)`` with the entropy ``e(j) = - sum_k p_k ln p_k`` of patch j, and for j ≠ l
    ``R(j, l) = λ2 d(j, l)`` with the symmetric Kullback-Leibler divergence
    ``d(j, l) = sum_k (p_k(j) - p_k(l)) ln(p_k(j) / p_k(l))``. The score is the sum of *all* entries of R, so that each
    pair of patches counts twice. Zeros are taken as the float64 machine epsilon, which gives the paper's Table 1.

    Args:
        probabilities: ``(samples, patches, classes)``; the patches of a sample share its label. With two classes the
            second is the positive one.
        lambda_entropy: λ1; 0 leaves the entropies out.
        lambda_diversity: λ2; 0 leaves the divergences out.
        patch_share: α, the share of its patches that :func:`majority_patches` keeps of a sample; 1 keeps all.

    Returns:
        ``(samples,)``; more is more worth a label.

    Raises:
        ValueError: The array holds no probabilities that sum to 1, or the share is not in ``0 .. 1``.
    """
    values = as_distributions(probabilities, "samples", "patches", "classes")
    kept = np.take_along_axis(values, majority_patches(values, patch_share)[..., None], axis=1)
    entropies = predictive_entropy(kept, axis=2).sum(axis=1)
    scores: FloatArray = lambda_entropy * entropies + lambda_diversity * 2 * pair_divergence(kept)
    return scores


def majority_patches(probabilities: np.ndarray, patch_share: float = 0.25) -> np.ndarray:
    """The patches of each sample on which its score is computed: those that go with the majority (Zhou, Sec. 3.3).

    ``a`` is the mean over all patches of the probability of the positive class, or, with more than two classes, of the
    class whose mean is the largest (the paper has two classes; this is metaseg's reading). If a > 0.5, the patches with
    the highest such probability are kept, otherwise those with the lowest.

    Args:
        probabilities: ``(samples, patches, classes)``.
        patch_share: α. ``α * patches`` are kept, rounded, halves up; at least 1.

    Returns:
        ``(samples, kept)``, places of patches; of equal patches the first are kept.

    Raises:
        ValueError: The share is not in ``0 .. 1``.
    """
    means = probabilities.mean(axis=1)
    if probabilities.shape[2] == 2:
        majority = np.ones(len(means), dtype=np.int64)
    else:
        majority = np.argmax(means >= means.max(axis=1, keepdims=True) - TIE, axis=1)
    each = np.arange(len(means))
    top = means[each, majority] > 0.5 + TIE
    of_majority = probabilities[each, :, majority]
    keys = np.where(top[:, None], -of_majority, of_majority)
    count = max(1, share_count(probabilities.shape[1], patch_share))
    return np.argsort(keys, axis=1, kind="stable")[:, :count]
