from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metaseg.sampling import Exp3S, Pool, order_slices
from metaseg.sampling.scheduler import band_chances, difficulty_bands, rescale_reward, slice_preferences


def play(bandit: Exp3S, means: list[float], rounds: int, rng: np.random.Generator) -> None:
    """Draw arms from the bandit's own probabilities and give it noisy rewards."""
    for _ in range(rounds):
        arm = int(rng.choice(bandit.arms, p=bandit.probabilities()))
        bandit.update(arm, means[arm] + 0.3 * rng.normal())


class TestExp3S:
    def test_all_arms_are_alike_before_any_reward(self):
        assert Exp3S(4).probabilities().tolist() == [0.25] * 4

    def test_an_update_by_hand(self):
        bandit = Exp3S(2, exploration=0.2, rate=0.1, mixing=0.1)
        bandit.load_state_dict({"weights": [0.0, 0.0], "history": [0.0, 1.0]})
        # Above the upper quantile: reward 1, drawn with 1/2, so 0.1 * 2 = 0.2 is added to arm 0. With e^0.2 = 1.2214:
        # 0.9 * 1.2214 + 0.1 = 1.19926 and 0.9 + 0.1 * 1.2214 = 1.02214, whose share is 0.53987 and 0.46013.
        assert bandit.update(0, 5.0) == 1.0
        np.testing.assert_allclose(bandit.probabilities(), [0.8 * 0.539869 + 0.1, 0.8 * 0.460131 + 0.1], atol=1e-5)

    def test_three_arms_without_mixing_are_plain_exp3(self):
        bandit = Exp3S(3, exploration=0.3, mixing=0.0)
        bandit.load_state_dict({"weights": [math.log(2), 0.0, 0.0], "history": [0.0, 1.0]})
        np.testing.assert_allclose(bandit.probabilities(), [0.7 * 0.5 + 0.1, 0.7 * 0.25 + 0.1, 0.7 * 0.25 + 0.1])
        # Rate 0.3 / 3 by default; reward -1 over the probability 0.275 of arm 1.
        assert bandit.update(1, -3.0) == -1.0
        weights = np.array([2.0, math.exp(-0.1 / 0.275), 1.0])
        np.testing.assert_allclose(bandit.probabilities(), 0.7 * weights / weights.sum() + 0.1)

    def test_the_chance_of_the_draw_replaces_the_probability_of_now(self):
        def after(chance: float) -> float:
            bandit = Exp3S(4)
            bandit.load_state_dict({"weights": [0.0] * 4, "history": [0.0, 1.0]})
            bandit.update(2, 9.0, chance)
            return float(bandit.probabilities()[2])

        assert after(0.25) > after(1.0) > 0.25
        assert after(0.05) == after(1e-9)

    @pytest.mark.parametrize("seed", range(5))
    def test_the_best_arm_is_liked_most_and_the_bandit_follows_when_rewards_switch(self, seed: int):
        bandit, rng = Exp3S(4), np.random.default_rng(seed)
        play(bandit, [0.0, 0.2, 0.5, 1.0], 300, rng)
        assert bandit.probabilities().argmax() == 3
        assert bandit.probabilities()[3] > 0.45
        play(bandit, [1.0, 0.5, 0.2, 0.0], 400, rng)
        assert bandit.probabilities().argmax() == 0
        assert bandit.probabilities()[0] > 0.45

    def test_without_a_better_arm_it_stays_near_uniform(self):
        bandit, rng = Exp3S(4), np.random.default_rng(0)
        seen = []
        for _ in range(20):
            play(bandit, [0.3] * 4, 50, rng)
            seen.append(bandit.probabilities())
        np.testing.assert_allclose(np.mean(seen, axis=0), 0.25, atol=0.12)

    @settings(max_examples=60, deadline=None)
    @given(
        rewards=st.lists(st.tuples(st.integers(0, 2), st.floats(-1e6, 1e6), st.floats(1e-3, 1)), max_size=60),
        exploration=st.floats(0.05, 1),
        mixing=st.floats(0, 0.5),
    )
    def test_probabilities_keep_their_floor_and_the_state_goes_through_json(self, rewards, exploration, mixing):
        bandit = Exp3S(3, exploration, mixing=mixing, window=7)
        for arm, reward, chance in rewards:
            assert -1 <= bandit.update(arm, reward, chance) <= 1
        assert bandit.probabilities().sum() == pytest.approx(1)
        assert bandit.probabilities().min() >= exploration / 3 * (1 - 1e-12)
        state = bandit.state_dict()
        assert len(state["history"]) == min(7, len(rewards))
        other = Exp3S(3, exploration, mixing=mixing, window=7)
        other.load_state_dict(json.loads(json.dumps(state)))
        assert [bandit.update(1, 0.5), *bandit.probabilities()] == [other.update(1, 0.5), *other.probabilities()]

    def test_what_is_out_of_range_is_refused(self):
        for options in ({"arms": 1}, {"exploration": 0}, {"mixing": 1}, {"rate": 0}, {"rate": math.inf}, {"window": 0}):
            with pytest.raises(ValueError, match=r"out of range|rate"):
                Exp3S(**({"arms": 3} | options))
        bandit = Exp3S(3)
        for arm, reward, chance in ((3, 0, 1), (-1, 0, 1), (0, math.nan, 1), (0, 0, 0), (0, 0, 1.5)):
            with pytest.raises(ValueError, match="arm"):
                bandit.update(arm, reward, chance)
        assert bandit.state_dict()["history"] == []
        with pytest.raises(ValueError, match="2 arms for 3"):
            bandit.load_state_dict({"weights": [0.0, 0.0], "history": []})


def test_rewards_are_rescaled_by_the_quantiles_of_those_before():
    history = [float(value) for value in range(11)]  # quantiles 0.2 and 0.8: 2 and 8
    expected = {-9.0: -1.0, 2.0: -1.0, 3.5: -0.5, 5.0: 0.0, 8.0: 1.0, 99.0: 1.0}
    for reward, scaled in expected.items():
        assert rescale_reward(reward, history) == pytest.approx(scaled)
        assert rescale_reward(1e-7 * reward, [1e-7 * value for value in history]) == pytest.approx(scaled)
    assert rescale_reward(4.0, []) == 0
    assert [rescale_reward(value, [2.0, 2.0]) for value in (1.0, 2.0, 3.0)] == [-1, 0, 1]


class TestBands:
    def test_edges_by_hand(self):
        dice = np.array([0.0, 0.2499, 0.25, 0.5, 0.75, 0.99, 1.0])
        assert difficulty_bands(dice).tolist() == [0, 0, 1, 2, 3, 3, 3]
        assert difficulty_bands(dice, 1).tolist() == [0] * 7
        for wrong in (np.array([1.1]), np.array([-0.1]), np.array([np.nan])):
            with pytest.raises(ValueError, match="within 0"):
                difficulty_bands(wrong)

    def test_slices_share_the_probability_of_their_band(self):
        preferences = slice_preferences(np.array([0.1, 0.2, 0.3, 0.4]), np.array([3, 0, 3, 2]))
        np.testing.assert_allclose(preferences, [0.2, 0.1, 0.2, 0.3])

    def test_chances_by_hand(self):
        # Left before each draw: 1 of 2 in band 0, then 0.75 of 1, then all in band 1, and again.
        weights, bands = np.array([1.0, 0.25, 0.5, 0.25]), np.array([0, 1, 1, 1])
        np.testing.assert_allclose(band_chances(weights, bands), [0.5, 1, 1, 1])
        np.testing.assert_allclose(band_chances(weights, np.array([0, 1, 0, 1])), [0.75, 0.5, 2 / 3, 1])
        assert band_chances(np.empty(0), np.empty(0, dtype=int)).shape == (0,)

    @settings(max_examples=60, deadline=None)
    @given(
        bands=arrays(np.int64, st.integers(1, 12), elements=st.integers(0, 3)),
        probabilities=st.lists(st.floats(0.05, 1), min_size=4, max_size=4),
        seed=st.integers(0, 99),
    )
    def test_a_chance_is_a_probability_and_certain_once_one_band_is_left(self, bands, probabilities, seed):
        weights = slice_preferences(np.array(probabilities), bands)
        sequence = np.random.default_rng(seed).permutation(len(bands))
        chances = band_chances(weights[sequence], bands[sequence])
        assert np.all((chances > 0) & (chances <= 1))
        drawn = bands[sequence]
        for place in range(len(drawn)):
            if np.unique(drawn[place:]).size == 1:
                assert chances[place] == pytest.approx(1)

    def test_the_first_draw_takes_a_band_with_the_bandits_probability(self):
        probabilities, bands = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0, 0, 0, 0, 1, 2, 2, 3])
        pool = Pool(index=np.arange(8), scores={"preference": slice_preferences(probabilities, bands)})
        rng = np.random.default_rng(0)
        draws = np.array([order_slices("adaptive", pool, rng) for _ in range(8000)])
        first = bands[draws[:, 0]]
        np.testing.assert_allclose(np.bincount(first) / 8000, probabilities, atol=0.02)
        # Weighted by one over its chance, every band counts 1 at each draw at which all are still there.
        preference = pool.score("preference")
        chances = np.array([band_chances(preference[draw], bands[draw])[:2] for draw in draws])
        open_ = ~np.isin(first, [1, 3])
        assert [(first == band).mean() for band in range(4)] == pytest.approx(
            [chances[first == band, 0].mean() for band in range(4)], abs=0.02
        )
        second = bands[draws[:, 1]]
        counts = [np.sum((second == band) / chances[:, 1], where=open_) / open_.sum() for band in range(4)]
        np.testing.assert_allclose(counts, 1, atol=0.15)
