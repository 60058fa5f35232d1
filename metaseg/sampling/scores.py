"""Scores of slices: how well a network segments them and how unsure it is of them; and parts of a ranking by scores."""

from __future__ import annotations

import math

import numpy as np

from metaseg.errors import UsageError
from metaseg.metrics.overlap import dice_from_counts
from metaseg.metrics.probabilities import require_probabilities

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
IntArray = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def slice_dice(intersection: np.ndarray, label_area: np.ndarray, predicted_area: np.ndarray) -> FloatArray:
    """Dice of each slice, averaged over the classes that are there (Han et al. 2018; the average is metaseg's choice).

    Counts are additive, so a whole case can be counted batch by batch before this is called.

    Args:
        intersection: Pixels of the class in label and prediction both, ``(slices, classes)``, background left out.
        label_area: Pixels of the class in the label, ``(slices, classes)``.
        predicted_area: Pixels of the class in the prediction, ``(slices, classes)``.

    Returns:
        ``(slices,)`` in ``0 .. 1``: the mean of ``2 I / (P + G)`` over the classes present in the label or the
        prediction of that slice. A class absent from both does not count; a slice empty in both scores 1.

    Raises:
        ValueError: The shapes differ or are not two-dimensional, or an intersection exceeds an area.
    """
    overlap, label, predicted = (
        np.asarray(counts, np.float64) for counts in (intersection, label_area, predicted_area)
    )
    if overlap.ndim != 2 or not overlap.shape == label.shape == predicted.shape:
        raise ValueError(f"need three (slices, classes) arrays, got {overlap.shape}, {label.shape}, {predicted.shape}")
    if np.any(overlap < 0) or np.any(overlap > np.minimum(label, predicted)):
        raise ValueError("an intersection lies outside 0 .. min(label area, predicted area)")
    per_class = dice_from_counts(overlap, label, predicted)
    classes = (~np.isnan(per_class)).sum(axis=1)
    mean: FloatArray = np.nan_to_num(per_class).sum(axis=1) / np.maximum(classes, 1)
    return np.where(classes > 0, mean, 1.0)


def predictive_entropy(probabilities: np.ndarray, axis: int = 1) -> FloatArray:
    """Shannon entropy of class probabilities, ``- sum_k p_k ln p_k``, in nats.

    Args:
        probabilities: Class probabilities, summing to 1 over ``axis``. Zeros are taken as the float64 machine epsilon.
        axis: The class axis.

    Returns:
        The entropies, with ``axis`` removed, in ``0 .. ln(classes)``.

    Raises:
        ValueError: The array holds no probabilities that sum to 1.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    require_probabilities(values, axis)
    clipped = np.clip(values, np.finfo(np.float64).eps, 1.0)
    entropy: FloatArray = -np.sum(clipped * np.log(clipped), axis=axis)
    return np.maximum(entropy, 0.0)


def slice_entropy(probabilities: np.ndarray) -> FloatArray:
    """Mean entropy over the pixels of each slice; needs no label.

    Args:
        probabilities: Class probabilities, ``(slices, class, height, width)``.

    Returns:
        ``(slices,)`` in nats, ``0 .. ln(classes)``.

    Raises:
        ValueError: The array is not four-dimensional, or holds no probabilities.
    """
    if probabilities.ndim != 4:
        raise ValueError(f"need (slices, class, height, width), got shape {probabilities.shape}")
    # One slice at a time: the float64 copy of a whole case would take gigabytes.
    return np.array([predictive_entropy(pixels, axis=0).mean() for pixels in probabilities], dtype=np.float64)


def require_finite(what: str, values: np.ndarray) -> None:
    """Refuse an array whose first axis is that of the slices, where a value is not finite.

    Raises:
        UsageError: One is not.
    """
    finite = np.isfinite(values)
    if not np.all(finite):
        slices = finite.all(axis=tuple(range(1, finite.ndim)))
        raise UsageError(
            f"{what} is not finite for {np.count_nonzero(~slices)} of {len(slices)} slices",
            remedy="check that the network's weights and its input are finite",
        )


# Parts of a ranking: without its ends, or between two fractions of it (Hao et al. 2021).


def fraction_count(total: int, fraction: float) -> int:
    """How many of ``total`` a fraction is: ``total * fraction``, rounded, halves up.

    A product that falls short of a whole or half number by float error alone is taken as that number.

    Args:
        total: At least 0.
        fraction: ``0 .. 1``.

    Raises:
        ValueError: A value is out of range.
    """
    if total < 0 or not 0 <= fraction <= 1:
        raise ValueError(f"need a total from 0 on and a fraction in 0 .. 1, got {total} and {fraction}")
    return min(math.floor(total * fraction + 0.5 + 1e-9), total)


def band(ranking: np.ndarray, low: float, high: float) -> IntArray:
    """What lies between two fractions of a ranking.

    Args:
        ranking: Positions, first to be drawn first, as :func:`~metaseg.sampling.orders.order_slices` gives them.
        low: Fraction of the ranking that comes before the band.
        high: Fraction at which the band ends; bands that share an edge neither overlap nor leave a gap.

    Returns:
        The positions in the band, in the sequence of the ranking.

    Raises:
        ValueError: Not ``0 <= low <= high <= 1``.
    """
    if not low <= high:
        raise ValueError(f"a band from {low} to {high}")
    ranked = np.asarray(ranking, dtype=np.int64)
    return ranked[fraction_count(ranked.size, low) : fraction_count(ranked.size, high)]


def trim(ranking: np.ndarray, drop_top: float = 0.1, drop_bottom: float = 0.1) -> IntArray:
    """A ranking without its ends.

    Args:
        ranking: Positions, first to be drawn first.
        drop_top: Fraction that is left out at the beginning.
        drop_bottom: Fraction that is left out at the end.

    Returns:
        What is left, in the sequence of the ranking; nothing where both together take all.

    Raises:
        ValueError: A fraction is outside ``0 .. 1``.
    """
    ranked = np.asarray(ranking, dtype=np.int64)
    begin, end = fraction_count(ranked.size, drop_top), ranked.size - fraction_count(ranked.size, drop_bottom)
    return ranked[begin : max(begin, end)]


def draw_from_band(
    ranking: np.ndarray, count: int, rng: np.random.Generator, drop_top: float = 0.1, drop_bottom: float = 0.1
) -> IntArray:
    """Draw at random from a ranking whose ends were dropped (Hao et al. 2021, step 4 and the study of sizes).

    In the paper the most uncertain tenth and the least uncertain tenth are left out, both having made results worse.

    Args:
        ranking: Positions, first to be drawn first.
        count: How many to draw; often :func:`fraction_count` of the *whole* ranking, as in the paper's Table 5.
        rng: The source of randomness.
        drop_top: Fraction that is left out at the beginning.
        drop_bottom: Fraction that is left out at the end.

    Returns:
        ``(count,)`` positions, in the sequence in which they were drawn, each once.

    Raises:
        UsageError: Fewer are left than are wanted.
        ValueError: A fraction is outside ``0 .. 1`` or the count below 0.
    """
    if count < 0:
        raise ValueError(f"cannot draw {count}")
    rest = trim(ranking, drop_top, drop_bottom)
    if count > rest.size:
        raise UsageError(
            f"{count} samples are wanted, but {rest.size} of {np.size(ranking)} are left in the band",
            expected=f"at most {rest.size}",
            remedy=f"ask for fewer, or drop less than {drop_top:g} at the top and {drop_bottom:g} at the bottom",
        )
    return rng.permutation(rest)[:count]


# How unsure a classifier is of an image: scores of one prediction, and of several of the same image.


def as_distributions(probabilities: np.ndarray, *axes: str) -> FloatArray:
    """Check class probabilities and bring them to float64.

    Args:
        probabilities: With the classes on the last axis.
        *axes: What the axes are, as many as the array must have. That of the samples alone may be empty.

    Returns:
        The same values, clipped to ``0 .. 1``.

    Raises:
        ValueError: The shape is another, an axis other than that of the samples is empty, or these are no
            probabilities.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != len(axes) or any(
        size == 0 and axis != "samples" for axis, size in zip(axes, values.shape, strict=True)
    ):
        raise ValueError(f"need ({', '.join(axes)}) probabilities, got shape {values.shape}")
    require_probabilities(values)
    return np.clip(values, 0.0, 1.0)


def pair_divergence(distributions: np.ndarray) -> FloatArray:
    """Symmetric Kullback-Leibler divergence, summed over all unordered pairs of some distributions.

    The divergence of ``p`` and ``q`` is ``sum_k (p_k - q_k) ln(p_k / q_k)``. It is the product of two differences, so
    that the sum over the pairs of m distributions is m times the co-deviation of ``p`` and ``ln p`` from their means:
    no matrix of pairs is made, and equal distributions give 0 without the rounding of a difference of large sums.

    Args:
        distributions: ``(..., m, classes)``. Zeros are taken as the float64 machine epsilon.

    Returns:
        ``(...)``, at least 0.
    """
    clipped = np.clip(np.asarray(distributions, dtype=np.float64), np.finfo(np.float64).eps, 1.0)
    logarithms = np.log(clipped)
    products = (clipped - clipped.mean(axis=-2, keepdims=True)) * (logarithms - logarithms.mean(axis=-2, keepdims=True))
    divergence: FloatArray = clipped.shape[-2] * products.sum(axis=(-2, -1))
    return np.maximum(divergence, 0.0)


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


TIE = 1e-6
"""Means nearer than this to each other, or to 0.5, are equal: the sum of floats such as 0.1 is not exact."""


def aift_score(
    probabilities: np.ndarray, lambda_entropy: float = 1.0, lambda_diversity: float = 1.0, patch_fraction: float = 0.25
) -> float:
    """How much the label of one sample would teach, from the predictions of its augmented patches.

    See :func:`aift_scores`, which does the same for many samples.

    Args:
        probabilities: ``(patches, classes)``.
        lambda_entropy: λ1 of Eq. 3.
        lambda_diversity: λ2 of Eq. 3.
        patch_fraction: α of Sec. 3.3.

    Returns:
        The sum of all entries of R; 0 where all kept patches are certain and agree.

    Raises:
        ValueError: The array holds no probabilities that sum to 1, or the fraction is not in ``0 .. 1``.
    """
    values = as_distributions(probabilities, "patches", "classes")
    return float(aift_scores(values[None], lambda_entropy, lambda_diversity, patch_fraction)[0])


def aift_scores(
    probabilities: np.ndarray, lambda_entropy: float = 1.0, lambda_diversity: float = 1.0, patch_fraction: float = 0.25
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
        patch_fraction: α, the fraction of its patches that :func:`majority_patches` keeps of a sample; 1 keeps all.

    Returns:
        ``(samples,)``; more is more worth a label.

    Raises:
        ValueError: The array holds no probabilities that sum to 1, or the fraction is not in ``0 .. 1``.
    """
    values = as_distributions(probabilities, "samples", "patches", "classes")
    kept = np.take_along_axis(values, majority_patches(values, patch_fraction)[..., None], axis=1)
    entropies = predictive_entropy(kept, axis=2).sum(axis=1)
    scores: FloatArray = lambda_entropy * entropies + lambda_diversity * 2 * pair_divergence(kept)
    return scores


def majority_patches(probabilities: np.ndarray, patch_fraction: float = 0.25) -> np.ndarray:
    """The patches of each sample on which its score is computed: those that go with the majority (Zhou, Sec. 3.3).

    ``a`` is the mean over all patches of :func:`majority_probabilities`. If a > 0.5, the patches with the highest such
    probability are kept, otherwise those with the lowest.

    Args:
        probabilities: ``(samples, patches, classes)``.
        patch_fraction: α. ``α * patches`` are kept, rounded, halves up; at least 1.

    Returns:
        ``(samples, kept)``, places of patches; of equal patches the first are kept.

    Raises:
        ValueError: The fraction is not in ``0 .. 1``.
    """
    of_majority = majority_probabilities(probabilities)
    top = of_majority.mean(axis=1) > 0.5 + TIE
    keys = np.where(top[:, None], -of_majority, of_majority)
    count = max(1, fraction_count(probabilities.shape[1], patch_fraction))
    return np.argsort(keys, axis=1, kind="stable")[:, :count]


def majority_probabilities(probabilities: np.ndarray) -> FloatArray:
    """The one probability of each patch that Zhou et al. 2017 speak of.

    That of the positive class; with more than two classes, of the class whose mean over the sample's patches is the
    largest (the paper has two classes; this is metaseg's reading).

    Args:
        probabilities: ``(samples, patches, classes)``. Of two classes the second is the positive one.

    Returns:
        ``(samples, patches)``.
    """
    means = probabilities.mean(axis=1)
    if probabilities.shape[2] == 2:
        majority = np.ones(len(means), dtype=np.int64)
    else:
        majority = np.argmax(means >= means.max(axis=1, keepdims=True) - TIE, axis=1)
    of_majority: FloatArray = probabilities[np.arange(len(means)), :, majority]
    return of_majority


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
