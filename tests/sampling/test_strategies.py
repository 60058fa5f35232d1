from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseg.errors import UsageError
from metaseg.sampling import (
    STRATEGIES,
    Candidates,
    Ranking,
    aift_scores,
    highest_first,
    rank_candidates,
    register_strategy,
)
from metaseg.sampling.strategies import NEEDS


def ranked(name: str, features: np.ndarray, labelled: np.ndarray | None = None, *, wanted=None, seed=0) -> list[int]:
    """A ranking by embeddings of whatever kind."""
    outputs = {"gradients": features, "features": features}
    outputs["labelled_features"] = np.empty((0, features.shape[1])) if labelled is None else labelled
    candidates = Candidates(len(features), outputs, wanted)
    return rank_candidates(name, candidates, np.random.default_rng(seed)).positions.tolist()


def clouds(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)) * rng.choice([0.1, 5.0], size=(n, 1))


def outputs_of(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """All that a strategy can ask for; few values, so that ties are common."""
    rng = np.random.default_rng(seed)

    def probabilities(*shape: int) -> np.ndarray:
        positive = rng.integers(1, 4, size=shape) / 4
        return np.stack([1 - positive, positive], axis=-1)

    return {
        "probabilities": probabilities(n),
        "patches": probabilities(n, 5),
        "dropout": probabilities(3, n),
        "committee": probabilities(2, n),
        "features": rng.integers(3, size=(n, 2)).astype(float),
        "labelled_features": rng.integers(3, size=(2, 2)).astype(float),
        "gradients": rng.integers(3, size=(n, 2)).astype(float),
    }


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 20), seed=st.integers(0, 2**32), wanted=st.sampled_from([None, 0, 3, 30]))
def test_a_strategy_ranks_all_by_what_it_needs_and_the_seed(name: str, n: int, seed: int, wanted: int | None):
    everything = outputs_of(n, seed)
    candidates = Candidates(n, {need: everything[need] for need in STRATEGIES.get(name).needs}, wanted)
    first, again = (rank_candidates(name, candidates, np.random.default_rng(seed)).positions for _ in range(2))
    assert np.sort(first).tolist() == list(range(n))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    "name", [name for name, one in STRATEGIES.entries().items() if one.needs and not one.chooses_set]
)
def test_strategies_by_a_score_begin_with_the_highest(name: str):
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    ranking = rank_candidates(name, Candidates(12, outputs_of(12)), rng)
    assert (np.diff(ranking.scores[ranking.positions]) <= 0).all()
    assert rng.bit_generator.state == before


def test_equal_scores_follow_their_place():
    assert highest_first(np.array([0.2, 0.9, 0.2, 0.5])).positions.tolist() == [1, 3, 0, 2]
    with pytest.raises(UsageError, match="the score is not finite for 1 of 2"):
        highest_first(np.array([0.2, np.nan]))


def test_settings_of_aift_reach_its_score():
    patches = np.random.default_rng(1).dirichlet([1, 1], size=(9, 6))
    chosen = {"lambda_entropy": 2.0, "lambda_diversity": 0.5, "patch_fraction": 0.5, "patches": 6}
    candidates = Candidates(9, {"patches": patches}, settings=chosen)
    for name, terms in {
        "aift": (2.0, 0.5),
        "aift-entropy": (2.0, 0.0),
        "aift-diversity": (0.0, 0.5),
    }.items():
        found = rank_candidates(name, candidates, np.random.default_rng(0)).scores
        np.testing.assert_array_equal(found, aift_scores(patches, *terms, 0.5))


@pytest.mark.parametrize("name", [name for name, strategy in STRATEGIES.entries().items() if strategy.needs])
def test_what_is_missing_or_of_another_shape_is_refused(name: str):
    rng, needs = np.random.default_rng(0), STRATEGIES.get(name).needs
    with pytest.raises(UsageError, match=f"'{name}' needs '{needs[0]}'"):
        rank_candidates(name, Candidates(3), rng)
    for need in needs:
        outputs = outputs_of(3)
        with pytest.raises(ValueError, match=f"'{need}' has shape"):
            rank_candidates(name, Candidates(3, outputs | {need: outputs[need][0]}), rng)
        spoilt = outputs[need].copy()
        spoilt[(0,) * spoilt.ndim] = np.nan
        with pytest.raises(UsageError, match=f"'{need}' is not finite for 1 of [23]"):
            rank_candidates(name, Candidates(3, outputs | {need: spoilt}), rng)
    with pytest.raises(ValueError, match=r"-1 slices are wanted"):
        rank_candidates(name, Candidates(3, outputs_of(3), -1), rng)
    if "slices" in NEEDS[needs[0]]:
        with pytest.raises(ValueError, match="has shape"):
            rank_candidates(name, Candidates(4, outputs_of(3)), rng)


def test_labelled_features_are_of_the_same_kind():
    with pytest.raises(ValueError, match="features of 3 numbers, and labelled ones of 1"):
        ranked("core-set", np.eye(3), np.zeros((1, 1)))


def test_a_strategy_of_ones_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(STRATEGIES, "_entries", dict(STRATEGIES._entries))

    @register_strategy("longest", needs=("features",), help="the longest features first")
    def _longest(candidates: Candidates, rng: np.random.Generator) -> Ranking:
        return highest_first(np.linalg.norm(candidates.outputs["features"], axis=1))

    assert ranked("longest", np.array([[1.0], [3.0], [2.0]])) == [1, 2, 0]
    register_strategy("lossy", help="")(lambda candidates, rng: Ranking(np.zeros(candidates.count, dtype=int)))
    with pytest.raises(ValueError, match="gave no permutation of 3"):
        ranked("lossy", np.eye(3))
    with pytest.raises(ValueError, match="cannot need moods; there are probabilities"):
        register_strategy("moody", needs=("moods",), help="")
    with pytest.raises(UsageError, match=r"(?s)unknown strategy 'bagde'.*did you mean 'badge'"):
        ranked("bagde", np.eye(3))
    assert all(strategy.help for name, strategy in STRATEGIES.entries().items() if name != "lossy")


def test_core_set_by_hand():
    line = np.array([1.0, 4.0, 9.0, 2.0, 0.0])[:, None]
    # The mean is 3.2: 4 comes first, then 9 (5 away), 0 (4), 2 (2), 1.
    assert ranked("core-set", line) == [1, 2, 4, 3, 0]
    # With 0 labelled: 9, then 4 (4 away; 5 from 9), 2 (2), 1, and 0 itself last.
    labelled = np.array([[0.0]])
    assert ranked("core-set", line, labelled) == [2, 1, 3, 0, 4]
    # Two are wanted, so the others follow by place.
    assert ranked("core-set", line, labelled, wanted=2) == [2, 1, 0, 3, 4]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.integers(1, 25), st.integers(1, 5))
def test_core_set_covers_within_twice_the_best_radius(seed: int, n: int, wanted: int):
    features = clouds(seed, n)
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    order = ranked("core-set", features, wanted=wanted)
    chosen = order[:wanted]
    assert order[wanted:] == sorted(order[wanted:])
    radius = distances[:, chosen].min(axis=1).max()
    # wanted + 1 points, each at least `radius` from the others: any wanted centres leave one at radius / 2 or more.
    spread = distances[np.ix_(chosen, chosen)][np.triu_indices(len(chosen), 1)]
    assert np.all(spread >= radius - 1e-9)


def test_core_set_takes_every_copy_once_and_ties_go_by_index():
    assert ranked("core-set", np.ones((4, 2))) == [0, 1, 2, 3]


def test_badge_draws_by_squared_distance():
    line = np.array([0.0, 1.0, 3.0])[:, None]
    candidates = Candidates(3, {"gradients": line})
    rng = np.random.default_rng(0)
    drawn = np.array([rank_candidates("badge", candidates, rng).positions for _ in range(9000)])
    np.testing.assert_allclose(np.bincount(drawn[:, 0]) / 9000, 1 / 3, atol=0.02)
    # From 0 the squared distances are 1 and 9, from 1 they are 1 and 4, from 3 they are 9 and 4.
    for first, second, share in ((0, 2, 0.9), (1, 2, 0.8), (2, 0, 9 / 13)):
        assert abs(np.mean(drawn[drawn[:, 0] == first, 1] == second) - share) < 0.02


def test_badge_draws_no_copy_before_the_others_are_used_up():
    features = np.repeat(np.array([[0.0], [1.0], [5.0]]), 4, axis=0)
    for seed in range(20):
        order = ranked("badge", features, seed=seed)
        assert sorted(place // 4 for place in order[:3]) == [0, 1, 2]
        assert order[3:] == sorted(order[3:])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.integers(1, 25), st.integers(0, 30))
def test_badge_begins_alike_however_many_are_wanted(seed: int, n: int, wanted: int):
    whole = ranked("badge", clouds(seed, n), seed=seed)
    some = ranked("badge", clouds(seed, n), wanted=wanted, seed=seed)
    assert some[:wanted] == whole[:wanted]
    assert some[wanted:] == sorted(some[wanted:])


def test_badge_needs_no_scale():
    features = clouds(3, 15)
    for scale in (1e-90, 1e90):
        assert ranked("badge", features * scale) == ranked("badge", features)
