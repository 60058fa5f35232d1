"""Strategies of active learning: which slices of a pool a classifier should learn next.

A strategy is one function under :func:`register_strategy` that says what it needs to know of a classifier. Whoever runs
it computes that and nothing else, as ``metaseg classify active`` does. Most strategies score each slice by itself;
``core-set`` and ``badge`` choose one slice after another by how far its features lie from those chosen before. No
strategy looks at a label of a slice that it may choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metaseg.errors import UsageError
from metaseg.registry import Registry
from metaseg.sampling.scores import (
    FloatArray,
    IntArray,
    aift_scores,
    bald_score,
    committee_score,
    fraction_count,
    least_confidence,
    margin_score,
    predictive_entropy,
    require_finite,
)

NEEDS: Mapping[str, tuple[str, ...]] = {
    "probabilities": ("slices", "classes"),
    "patches": ("slices", "patches", "classes"),
    "dropout": ("passes", "slices", "classes"),
    "committee": ("members", "slices", "classes"),
    "features": ("slices", "d"),
    "labelled_features": ("labelled slices", "d"),
    "gradients": ("slices", "classes * d"),
}
"""What a strategy can ask for, and its axes.

Class probabilities of each slice, of augmented patches of it, of passes with dropout (or an ensemble) and of a
committee's members; what the last layer sees of each slice, and of those that have labels already; and the gradient of
the last layer's weights for the likeliest class.
"""


@dataclass(frozen=True, eq=False)
class Candidates:
    """The slices to choose from, as a strategy sees them.

    Attributes:
        count: Their number.
        outputs: What the strategy needs, by the names of :data:`NEEDS`.
        wanted: How many will be chosen; None if that is not known. A strategy that chooses one slice after another may
            stop there.
        settings: Settings of strategies by name, such as ``lambda_entropy``; defaults apply to those left out.
    """

    count: int
    outputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    wanted: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Ranking:
    """All candidates, the first to be labelled first.

    Attributes:
        positions: A permutation of the candidates' places, ``(count,)``.
        scores: What each place was ranked by, ``(count,)``; None where no slice has a score by itself.
    """

    positions: IntArray
    scores: FloatArray | None = None


Rank = Callable[[Candidates, np.random.Generator], Ranking]


@dataclass(frozen=True)
class Strategy:
    """An entry of the registry.

    Attributes:
        name: As users type it.
        rank: Ranks candidates; takes the source of randomness, which deterministic strategies leave untouched.
        help: One line for the user.
        needs: What it needs to know, by the names of :data:`NEEDS`.
        chooses_set: Whether it chooses a set, so that no part of its ranking can be left out.
        check: Refuses settings that it cannot work with, before anything is computed; raises UsageError.
    """

    name: str
    rank: Rank
    help: str
    needs: tuple[str, ...] = ()
    chooses_set: bool = False
    check: Callable[[Mapping[str, Any]], None] | None = None


STRATEGIES: Registry[Strategy] = Registry("strategy", "metaseg.strategies", Strategy)
"""Strategies by name."""


def register_strategy(
    name: str,
    *,
    help: str,
    needs: tuple[str, ...] = (),
    chooses_set: bool = False,
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> Callable[[Rank], Rank]:
    """Enter the decorated function into :data:`STRATEGIES`; arguments are those of :class:`Strategy`.

    Raises:
        ValueError: The name is taken, or nothing of that kind can be asked for.
    """
    unknown = set(needs) - NEEDS.keys()
    if unknown:
        raise ValueError(f"a strategy cannot need {', '.join(sorted(unknown))}; there are {', '.join(NEEDS)}")

    def enter(rank: Rank) -> Rank:
        STRATEGIES.add(name, Strategy(name, rank, help, needs, chooses_set, check))
        return rank

    return enter


def rank_candidates(name: str, candidates: Candidates, rng: np.random.Generator) -> Ranking:
    """Rank slices by a strategy.

    Args:
        name: A strategy of the registry.
        candidates: The slices.
        rng: The source of randomness.

    Raises:
        UsageError: There is no such strategy, or an output that it needs is missing or not finite.
        ValueError: An output has another shape, or the strategy gave no permutation.
    """
    strategy = STRATEGIES.get(name)
    if candidates.wanted is not None and candidates.wanted < 0:
        raise ValueError(f"{candidates.wanted} slices are wanted")
    for need in strategy.needs:
        _check_output(name, need, candidates)
    ranking = strategy.rank(candidates, rng)
    if not np.array_equal(np.sort(ranking.positions), np.arange(candidates.count)):
        raise ValueError(f"strategy '{name}' gave no permutation of {candidates.count} positions")
    return ranking


def _check_output(name: str, need: str, candidates: Candidates) -> None:
    axes = NEEDS[need]
    if need not in candidates.outputs:
        raise UsageError(f"strategy '{name}' needs '{need}'", expected=f"an array ({', '.join(axes)})")
    values = np.asarray(candidates.outputs[need])
    place = axes.index("slices") if "slices" in axes else 0
    if values.ndim != len(axes) or ("slices" in axes and values.shape[place] != candidates.count):
        raise ValueError(f"'{need}' has shape {values.shape}, expected ({', '.join(axes)}), {candidates.count} slices")
    require_finite(f"'{need}'", np.moveaxis(values, place, 0))


def highest_first(scores: FloatArray) -> Ranking:
    """Rank by scores, the highest first; equal ones by place.

    Raises:
        UsageError: A score is not finite.
    """
    require_finite("the score", scores)
    return Ranking(np.argsort(-scores, kind="stable"), scores)


@register_strategy("random", help="a seeded shuffle, the control")
def _random(candidates: Candidates, rng: np.random.Generator) -> Ranking:
    return Ranking(rng.permutation(candidates.count))


_BY_SCORE: tuple[tuple[str, str, Callable[[np.ndarray], FloatArray], str], ...] = (
    ("entropy", "probabilities", predictive_entropy, "the most unsure first, by predictive entropy (Lewis 1994)"),
    ("margin", "probabilities", margin_score, "the smallest lead of the likeliest class first (Scheffer 2001)"),
    ("least-confidence", "probabilities", least_confidence, "the least probable likeliest class first (Lewis 1994)"),
    ("bald", "dropout", bald_score, "the most disagreement among passes with dropout first (Houlsby 2011, Gal 2017)"),
    ("committee", "committee", committee_score, "the most entropy of members and divergence between them (Hao 2021)"),
)
"""Strategies that score each slice by one output: name, need, score and help."""


def _ranked_by(need: str, score: Callable[[np.ndarray], FloatArray]) -> Rank:
    return lambda candidates, rng: highest_first(score(candidates.outputs[need]))


for _name, _need, _score, _help in _BY_SCORE:
    register_strategy(_name, needs=(_need,), help=_help)(_ranked_by(_need, _score))


def _check_diversity(settings: Mapping[str, Any]) -> None:
    """Refuse patches of which one is left: it differs from nothing."""
    patches, kept = settings["patches"], settings["patch_fraction"]
    if settings["lambda_diversity"] and fraction_count(patches, kept) < 2:
        raise UsageError(
            f"of {patches} patches a fraction of {kept:g} leaves one, which has no diversity",
            expected="at least two patches after the majority selection",
            remedy="raise --patches or --patch-fraction, or use --acquisition aift-entropy",
        )


def _register_aift(name: str, help: str, **terms: float) -> None:
    """Enter AIFT with some of its terms left out."""

    def rank(candidates: Candidates, rng: np.random.Generator) -> Ranking:
        names = ("lambda_entropy", "lambda_diversity", "patch_fraction")
        given = {name: candidates.settings[name] for name in names if name in candidates.settings}
        return highest_first(aift_scores(candidates.outputs["patches"], **(given | terms)))

    check = None if "lambda_diversity" in terms else _check_diversity
    register_strategy(name, needs=("patches",), check=check, help=help)(rank)


_register_aift("aift", "the most entropy and diversity over an image's augmented patches first (Zhou 2017)")
_register_aift("aift-entropy", "as aift, by the entropy of the patches alone", lambda_diversity=0.0)
_register_aift("aift-diversity", "as aift, by the diversity of the patches alone", lambda_entropy=0.0)


@register_strategy(
    "core-set",
    needs=("features", "labelled_features"),
    chooses_set=True,
    help="always the image farthest from all labelled and chosen ones, by its features (Sener 2018)",
)
def _core_set(candidates: Candidates, rng: np.random.Generator) -> Ranking:
    """Greedy k-centre (Sener and Savarese 2018, Algorithm 1), from the labelled images on.

    Without any, the image nearest to the pool's mean comes first: the paper presumes some.
    """
    features, known = (np.asarray(candidates.outputs[name], np.float64) for name in ("features", "labelled_features"))
    if len(known) and known.shape[1] != features.shape[1]:
        raise ValueError(f"features of {features.shape[1]} numbers, and labelled ones of {known.shape[1]}")
    distances = np.full(candidates.count, np.inf)
    for labelled in known:
        np.minimum(distances, _squared_distances(features, labelled), out=distances)
    chosen: list[int] = []
    while len(chosen) < _wanted(candidates):
        if chosen or np.isfinite(distances).any():
            place = int(np.argmax(distances))
        else:
            place = int(np.argmin(_squared_distances(features, features.mean(axis=0))))
        chosen.append(place)
        np.minimum(distances, _squared_distances(features, features[place]), out=distances)
        distances[chosen] = -1.0  # no image twice, though others may lie on top of a chosen one
    return _rest_follows(chosen, candidates.count)


@register_strategy(
    "badge",
    needs=("gradients",),
    chooses_set=True,
    help="draws far apart by gradient embedding, which is long where the network is unsure (Ash 2020)",
)
def _badge(candidates: Candidates, rng: np.random.Generator) -> Ranking:
    """The seeding of k-means++ on gradient embeddings (Ash et al. 2020, Algorithm 1).

    The first image is drawn evenly (the authors' code takes the longest embedding), each further one in proportion to
    its squared distance from the nearest chosen one. Images on top of chosen ones are never drawn; once no others are
    left, they follow by place. Labelled images play no part. Written out here, since scikit-learn's ``kmeans_plusplus``
    takes no Generator, and by default tries several candidates a draw and keeps the best: another distribution.
    """
    features, count = np.asarray(candidates.outputs["gradients"], np.float64), candidates.count
    weights = np.ones(count)
    distances = np.full(count, np.inf)
    chosen: list[int] = []
    while len(chosen) < _wanted(candidates) and weights.any():
        place = int(rng.choice(count, p=weights / weights.sum()))
        chosen.append(place)
        np.minimum(distances, _squared_distances(features, features[place]), out=distances)
        largest = distances.max()
        weights = distances / largest if largest > 0 else np.zeros(count)
    return _rest_follows(chosen, count)


def _wanted(candidates: Candidates) -> int:
    return candidates.count if candidates.wanted is None else min(candidates.wanted, candidates.count)


def _rest_follows(chosen: list[int], count: int) -> Ranking:
    """A ranking that begins with the chosen places and goes on with the others, ascending."""
    first = np.array(chosen, dtype=np.int64)
    return Ranking(np.concatenate([first, np.setdiff1d(np.arange(count), first)]))


def _squared_distances(features: FloatArray, center: FloatArray) -> FloatArray:
    """Squared Euclidean distances of ``(n, d)`` from ``(d,)``, ``(n,)``; exactly 0 from an equal one."""
    difference = features - center
    squared: FloatArray = np.einsum("nd,nd->n", difference, difference)
    return squared
