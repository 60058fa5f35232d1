from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import metaseg
from metaseg.adapt.metatune import MetaTuning
from metaseg.adapt.scoring import ScoreCache, relative_change
from metaseg.runs.networks import load_network
from metaseg.runs.training_state import load_training_state, save_training_state
from metaseg.sampling import Pool

SEVERAL_VISITS = {"shots": 2, "slices": 6, "budget": 108, "marks": 3, "pictures": False, "outer_learning_rate": 1e-5}


def pool_of(*index):
    places = np.array(index)
    return Pool(index=places, dice=places / 10, entropy=places / 20, foreground=places * 3)


def never():
    raise AssertionError("scored although the scores are near enough")


class TestScoreCache:
    def test_zero_scores_always(self):
        cache, calls = ScoreCache(0.0), []
        for _ in range(3):
            cache.pool("a", np.array([1, 2]), lambda: calls.append(1) or pool_of(1, 2))
        assert len(calls) == 3
        assert cache.state_dict()["scored"] == {}

    def test_scores_are_used_until_the_network_has_moved_too_far(self):
        cache, model = ScoreCache(0.1), nn.Linear(3, 1, bias=False)
        nn.init.constant_(model.weight, 2.0)
        first = cache.pool("a", np.array([1, 2, 5]), lambda: pool_of(1, 2, 5))
        assert cache.pool("a", np.array([1, 2, 5]), never).score("dice").tolist() == first.score("dice").tolist()
        with cache.moving(model), torch.no_grad():
            model.weight *= 1.06
        assert cache.travelled == pytest.approx(0.06, rel=1e-5)
        cache.pool("a", np.array([1, 2, 5]), never)
        with cache.moving(model), torch.no_grad():
            model.weight /= 1.06
        # Back where it was: the path counts, so that the scores are made anew rather than kept.
        assert cache.travelled == pytest.approx(0.06 + 0.06 / 1.06, rel=1e-5)
        anew = cache.pool("a", np.array([1, 2, 5]), lambda: pool_of(1, 2, 5).take(np.array([2, 0, 1])))
        assert anew.index.tolist() == [5, 1, 2]
        assert cache.reused == 2

    def test_each_case_has_its_own_distance(self):
        cache = ScoreCache(0.1)
        cache.pool("a", np.array([1]), lambda: pool_of(1))
        cache.travelled += 0.08
        cache.pool("b", np.array([1]), lambda: pool_of(1))
        cache.travelled += 0.08
        cache.pool("b", np.array([1]), never)
        with pytest.raises(AssertionError):
            cache.pool("a", np.array([1]), never)

    def test_slices_that_are_left_are_taken_from_a_larger_pool_but_not_the_other_way(self):
        cache = ScoreCache(0.1)
        cache.pool("a", np.array([1, 2, 5]), lambda: pool_of(1, 2, 5))
        left = cache.pool("a", np.array([5, 1]), never)
        assert left.index.tolist() == [5, 1]
        assert left.score("dice").tolist() == [0.5, 0.1]
        assert left.score("foreground").tolist() == [15, 3]
        with pytest.raises(AssertionError):
            cache.pool("a", np.array([1, 4]), never)

    def test_state_survives_a_file(self, tmp_path):
        cache = ScoreCache(0.1)
        cache.travelled = 1 / 3
        cache.pool("a", np.array([1, 2, 5]), lambda: pool_of(1, 2, 5))
        save_training_state(tmp_path / "state", cache.state_dict())
        other = ScoreCache(0.1)
        other.load_state_dict(load_training_state(tmp_path / "state"))
        assert other.travelled == cache.travelled
        pool = other.pool("a", np.array([1, 2, 5]), never)
        for name in ("dice", "entropy", "foreground"):
            np.testing.assert_array_equal(pool.score(name), pool_of(1, 2, 5).score(name))

    def test_relative_change_is_that_of_the_flattened_parameters(self):
        rng = torch.Generator().manual_seed(1)
        before = [torch.randn(4, 3, generator=rng), torch.randn(5, generator=rng)]
        after = [torch.randn(4, 3, generator=rng), torch.randn(5, generator=rng)]
        old, new = (np.concatenate([part.numpy().ravel() for part in parts]) for parts in (before, after))
        expected = np.linalg.norm(new - old) / np.linalg.norm(old)
        assert relative_change(before, after) == pytest.approx(expected, rel=1e-6)


def weights(run):
    return torch.cat([parameter.flatten() for parameter in load_network(run).model.parameters()])


@pytest.fixture
def counted(monkeypatch):
    """Number of times that a case was scored."""
    calls = []
    real = metaseg.adapt.metatune.score_slices

    def score(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr("metaseg.adapt.metatune.score_slices", score)
    return calls


def test_tolerance_scores_less_often(pretrained, tmp_path, counted):
    metaseg.metatune(**pretrained, **SEVERAL_VISITS, out=tmp_path / "always")
    always = len(counted)
    metaseg.metatune(**pretrained, **SEVERAL_VISITS, out=tmp_path / "seldom", rescore_tolerance=10.0)
    assert len(counted) - always == 2 < always


def test_smallest_tolerance_changes_nothing(pretrained, tmp_path):
    runs = [
        metaseg.metatune(**pretrained, **SEVERAL_VISITS, out=tmp_path / name, rescore_tolerance=tolerance).run
        for name, tolerance in (("zero", 0.0), ("tiny", 1e-12))
    ]
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    assert (runs[0] / "selection.csv").read_text() == (runs[1] / "selection.csv").read_text()


@pytest.mark.parametrize("tolerance", [0.0005, 10.0])
def test_resumed_run_scores_as_the_uninterrupted_one(pretrained, tmp_path, monkeypatch, tolerance):
    settings = pretrained | SEVERAL_VISITS | {"rescore_tolerance": tolerance}
    visit, done = MetaTuning.visit, []

    def interrupted(self):
        if len(done) == 3:
            raise KeyboardInterrupt
        visit(self)
        done.append(1)

    with monkeypatch.context() as patched:
        patched.setattr(MetaTuning, "visit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            metaseg.metatune(**settings, out=tmp_path / "cut")
    metaseg.metatune(**settings, out=tmp_path / "cut", resume=True)
    metaseg.metatune(**settings, out=tmp_path / "whole")
    assert torch.equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    for name in ("marks.csv", "selection.csv", "metrics.csv"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()


@pytest.mark.parametrize("gigabytes", [0.0, 2e-5])
def test_cache_and_reading_ahead_change_no_bit(pretrained, tmp_path, gigabytes):
    # The smaller one holds a few slices only, so that the reading ahead drives out what is in use.
    runs = [
        metaseg.metatune(**pretrained, **SEVERAL_VISITS, out=tmp_path / name, cache_gb=size).run
        for name, size in (("default", 0.5), ("other", gigabytes))
    ]
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    assert (runs[0] / "marks.csv").read_text() == (runs[1] / "marks.csv").read_text()
