"""Orders for slice classifiers: which images of a pool are worth a label first (active learning).

The first five put a score in order that the caller has computed; ``core-set`` and ``badge`` choose one image after
another by how far its embedding lies from those that were chosen before. They stop at
:attr:`Pool.wanted <metaseg.sampling.pool.Pool>`, and the other images follow by index. None looks at a label.
"""

from __future__ import annotations

import numpy as np

from metaseg.sampling.orders import ascending, register_order
from metaseg.sampling.pool import Pool
from metaseg.sampling.scores import FloatArray, IntArray


@register_order(
    "margin",
    needs=("margin",),
    task="classification",
    help="the smallest lead of the likeliest class over the next first (Scheffer 2001)",
)
def _margin(pool: Pool, rng: np.random.Generator) -> IntArray:
    return ascending(pool, -pool.score("margin"))


@register_order(
    "least-confidence",
    needs=("least-confidence",),
    task="classification",
    help="the least probable likeliest class first (Lewis 1994)",
)
def _least_confidence(pool: Pool, rng: np.random.Generator) -> IntArray:
    return ascending(pool, -pool.score("least-confidence"))


@register_order(
    "bald",
    needs=("bald",),
    task="classification",
    help="the most disagreement among passes with dropout, or members of an ensemble, first (Houlsby 2011, Gal 2017)",
)
def _bald(pool: Pool, rng: np.random.Generator) -> IntArray:
    return ascending(pool, -pool.score("bald"))


@register_order(
    "aift",
    needs=("aift",),
    task="classification",
    help="the most entropy and diversity over an image's augmented patches first (Zhou 2017)",
)
def _aift(pool: Pool, rng: np.random.Generator) -> IntArray:
    return ascending(pool, -pool.score("aift"))


@register_order(
    "committee",
    needs=("committee",),
    task="classification",
    help="the most entropy of a committee's members and divergence between them first (Hao 2021)",
)
def _committee(pool: Pool, rng: np.random.Generator) -> IntArray:
    return ascending(pool, -pool.score("committee"))


@register_order(
    "core-set",
    needs=("embedding",),
    task="classification",
    help="always the image farthest from all labelled and chosen ones, by embedding (Sener 2018)",
)
def _core_set(pool: Pool, rng: np.random.Generator) -> IntArray:
    """Greedy k-centre (Sener and Savarese 2018, Algorithm 1), from the labelled images on.

    Without any, the image nearest to the pool's mean comes first: the paper presumes some.
    """
    by_index = pool.by_index()
    features = pool.features()[by_index]
    distances = np.full(len(pool), np.inf)
    for labelled in np.asarray(pool.labelled_embedding if pool.labelled_embedding is not None else [], np.float64):
        np.minimum(distances, _squared_distances(features, labelled), out=distances)
    chosen: list[int] = []
    while len(chosen) < _wanted(pool):
        if chosen or np.isfinite(distances).any():
            place = int(np.argmax(distances))
        else:
            place = int(np.argmin(_squared_distances(features, features.mean(axis=0))))
        chosen.append(place)
        np.minimum(distances, _squared_distances(features, features[place]), out=distances)
        distances[chosen] = -1.0  # no image twice, though others may lie on top of a chosen one
    return by_index[_rest_follows(chosen, len(pool))]


@register_order(
    "badge",
    needs=("embedding",),
    task="classification",
    help="draws far apart by gradient embedding, which is long where the network is unsure (Ash 2020)",
)
def _badge(pool: Pool, rng: np.random.Generator) -> IntArray:
    """The seeding of k-means++ on gradient embeddings (Ash et al. 2020, Algorithm 1).

    The first image is drawn evenly (the authors' code takes the longest embedding), each further one in proportion to
    its squared distance from the nearest chosen one. Images on top of chosen ones are never drawn; once no others are
    left, they follow by index. Labelled images play no part. Written out here, since scikit-learn's ``kmeans_plusplus``
    takes no Generator, and by default tries several candidates a draw and keeps the best: another distribution.
    """
    by_index = pool.by_index()
    features = pool.features()[by_index]
    weights = np.ones(len(pool))
    distances = np.full(len(pool), np.inf)
    chosen: list[int] = []
    while len(chosen) < _wanted(pool) and weights.any():
        place = int(rng.choice(len(pool), p=weights / weights.sum()))
        chosen.append(place)
        np.minimum(distances, _squared_distances(features, features[place]), out=distances)
        largest = distances.max()
        weights = distances / largest if largest > 0 else np.zeros(len(pool))
    return by_index[_rest_follows(chosen, len(pool))]


def _wanted(pool: Pool) -> int:
    return len(pool) if pool.wanted is None else min(pool.wanted, len(pool))


def _rest_follows(chosen: list[int], size: int) -> IntArray:
    """A permutation of ``size`` places that begins with the chosen ones and goes on with the others, ascending."""
    first = np.array(chosen, dtype=np.int64)
    return np.concatenate([first, np.setdiff1d(np.arange(size), first)])


def _squared_distances(features: FloatArray, center: FloatArray) -> FloatArray:
    """Squared Euclidean distances of ``(n, d)`` from ``(d,)``, ``(n,)``; exactly 0 from an equal one."""
    difference = features - center
    squared: FloatArray = np.einsum("nd,nd->n", difference, difference)
    return squared
