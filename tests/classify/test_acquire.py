from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch.nn import functional as F

from metaseg.classify import acquire
from metaseg.classify.acquire import (
    PatchImages,
    check_strategy,
    choose,
    dropout_probabilities,
    embeddings,
    gradient_embeddings,
    patch_probabilities,
)
from metaseg.classify.fitting import new_classifier, slice_probabilities
from metaseg.errors import UsageError
from metaseg.sampling import aift_scores, bald_score, committee_score

RANKING = ("aift", "aift-entropy", "aift-diversity", "random", "entropy", "margin", "least-confidence", "bald")
SETS = ("core-set", "badge")


@pytest.fixture
def slices(open_set):
    return open_set()


@pytest.fixture
def model(slices, active_config):
    return new_classifier(active_config(), slices, 0).eval()


@pytest.fixture
def pick(slices, model):
    """Choose among the first twenty slices; the others are labelled."""

    def choose_some(config, count=5, seed=(0, 4, 1), committee=None):
        pool, labelled = slices.take(range(20)), slices.take(range(20, 28))
        images = PatchImages(config.patches, config.seed)
        return choose(config, lambda: model, pool, labelled, count, seed, committee, images)

    return choose_some


class TestScores:
    def test_entropy_is_scipys(self, pick, slices, model, active_config):
        choice = pick(active_config(acquisition="entropy"), count=20)
        expected = entropy(slice_probabilities(model, slices, range(20)), axis=1)
        assert np.allclose(choice.scores, expected[choice.positions], atol=1e-12)
        assert sorted(choice.positions.tolist()) == list(range(20))
        assert (np.diff(choice.scores) <= 0).all()

    def test_margin_and_least_confidence_by_hand(self, pick, slices, model, active_config):
        ordered = np.sort(slice_probabilities(model, slices, range(20)), axis=1)
        for strategy, score in (
            ("margin", 1 - (ordered[:, -1] - ordered[:, -2])),
            ("least-confidence", 1 - ordered[:, -1]),
        ):
            choice = pick(active_config(acquisition=strategy))
            assert choice.positions.tolist() == np.argsort(-score, kind="stable")[:5].tolist()
            assert np.allclose(choice.scores, score[choice.positions])

    @pytest.mark.parametrize("patch_fraction", [0.25, 1.0])
    @pytest.mark.parametrize(
        ("strategy", "weights"), [("aift", (2.0, 0.5)), ("aift-entropy", (2.0, 0.0)), ("aift-diversity", (0.0, 0.5))]
    )
    def test_the_six_variants_of_aift(self, pick, slices, model, active_config, strategy, weights, patch_fraction):
        config = active_config(
            acquisition=strategy, patch_fraction=patch_fraction, patches=4, lambda_entropy=2.0, lambda_diversity=0.5
        )
        patches = patch_probabilities(model, slices.take(range(20)), PatchImages(4, config.seed))
        expected = aift_scores(
            patches, lambda_entropy=weights[0], lambda_diversity=weights[1], patch_fraction=patch_fraction
        )
        choice = pick(config)
        assert choice.positions.tolist() == np.argsort(-expected, kind="stable")[:5].tolist()
        assert np.allclose(choice.scores, expected[choice.positions])

    def test_committee_is_that_of_the_members(self, pick, slices, active_config):
        members = [new_classifier(active_config(), slices, seed).eval() for seed in (1, 2, 3)]
        votes = np.stack([slice_probabilities(member, slices, range(20)) for member in members])
        choice = pick(active_config(acquisition="committee"), committee=lambda _: votes)
        expected = committee_score(votes)
        assert choice.positions.tolist() == np.argsort(-expected, kind="stable")[:5].tolist()

    def test_bald_is_that_of_the_passes(self, pick, slices, model, active_config):
        choice = pick(active_config(acquisition="bald", dropout_passes=4))
        expected = bald_score(dropout_probabilities(model, slices.take(range(20)), 4, (0, 4, 1)))
        assert choice.positions.tolist() == np.argsort(-expected, kind="stable")[:5].tolist()

    def test_sets_have_no_score_of_a_slice(self, pick, active_config):
        for strategy in (*SETS, "random"):
            assert np.isnan(pick(active_config(acquisition=strategy)).scores).all()


class TestChoose:
    @pytest.mark.parametrize("strategy", [*RANKING, *SETS])
    def test_is_a_function_of_the_seed(self, pick, active_config, strategy):
        config = active_config(acquisition=strategy, patches=3, dropout_passes=2)
        chosen = pick(config).positions.tolist()
        assert len(set(chosen)) == 5
        torch.rand(3)
        assert pick(config).positions.tolist() == chosen

    def test_random_depends_on_the_round(self, pick, active_config):
        config = active_config(acquisition="random")
        assert pick(config, seed=(0, 4, 1)).positions.tolist() != pick(config, seed=(0, 4, 2)).positions.tolist()

    def test_ends_are_dropped(self, pick, active_config):
        ranking = pick(active_config(acquisition="entropy"), count=20).positions.tolist()
        config = active_config(acquisition="entropy", drop_top=0.1, drop_bottom=0.2)
        assert pick(config, count=20).positions.tolist() == ranking[2:16]
        assert pick(config, count=3).positions.tolist() == ranking[2:5]

    def test_drawn_from_what_is_left_as_hao_does(self, pick, active_config):
        ranking = pick(active_config(acquisition="entropy"), count=20).positions.tolist()
        config = active_config(acquisition="entropy", drop_top=0.1, drop_bottom=0.2, draw="random")
        chosen = pick(config, count=6).positions.tolist()
        assert set(chosen) < set(ranking[2:16])
        assert chosen != ranking[2:8]
        assert len(set(chosen)) == 6

    def test_of_too_few_all_are_drawn(self, pick, active_config):
        config = active_config(acquisition="entropy", drop_top=0.4, drop_bottom=0.4, draw="random")
        assert len(pick(config, count=6).positions) == 4

    def test_core_set_is_greedy_by_distance(self, pick, slices, model, active_config):
        features = embeddings(model, slices)
        covered, expected = features[20:], []
        for _ in range(5):
            nearest = ((features[:20, None] - covered[None]) ** 2).sum(-1).min(1)
            expected.append(int(nearest.argmax()))
            covered = np.concatenate([covered, features[expected[-1]][None]])
        assert pick(active_config(acquisition="core-set")).positions.tolist() == expected


class TestCheckStrategy:
    @pytest.mark.parametrize("strategy", SETS)
    @pytest.mark.parametrize("changes", [{"drop_top": 0.1}, {"drop_bottom": 0.1}, {"draw": "random"}])
    def test_sets_are_not_trimmed(self, model, active_config, strategy, changes):
        with pytest.raises(UsageError, match="chooses a set, not a ranking"):
            check_strategy(active_config(acquisition=strategy, **changes), model, 4)

    def test_a_committee_needs_labels(self, model, active_config):
        with pytest.raises(UsageError, match="there are none before the first round"):
            check_strategy(active_config(acquisition="committee"), model, 0)
        check_strategy(active_config(acquisition="committee"), model, 1)

    def test_bald_needs_dropout(self, active_config):
        with pytest.raises(UsageError, match="has no dropout"):
            check_strategy(active_config(acquisition="bald"), torch.nn.Linear(2, 2), 4)

    @pytest.mark.parametrize("strategy", ["aift", "aift-diversity"])
    def test_diversity_needs_two_patches(self, model, active_config, strategy):
        with pytest.raises(UsageError, match="leaves one, which has no diversity"):
            check_strategy(active_config(acquisition=strategy, patches=5, patch_fraction=0.25), model, 4)
        check_strategy(active_config(acquisition=strategy, patches=6, patch_fraction=0.25), model, 4)
        check_strategy(active_config(acquisition="aift-entropy", patches=5, patch_fraction=0.25), model, 4)


class TestPatches:
    def test_the_first_is_the_slice_itself(self, slices, model):
        patches = patch_probabilities(model, slices, PatchImages(3, 0))
        assert np.allclose(patches[:, 0], slice_probabilities(model, slices), atol=1e-6)
        assert np.allclose(patches.sum(axis=2), 1)
        assert (np.abs(patches[:, 1] - patches[:, 0]).max(axis=1) > 0).all()

    def test_are_the_same_whatever_is_left_of_the_pool(self, slices, model):
        whole = patch_probabilities(model, slices, PatchImages(3, 0))
        some = patch_probabilities(model, slices.take([9, 2]), PatchImages(3, 0))
        assert np.array_equal(some, whole[[9, 2]])
        assert not np.array_equal(patch_probabilities(model, slices.take([9, 2]), PatchImages(3, 1)), some)

    def test_as_many_as_fit_are_kept_and_the_others_made_again(self, slices, monkeypatch):
        made, real = [], acquire.augmented_images
        monkeypatch.setattr(acquire, "augmented_images", lambda *given: made.append(1) or real(*given))
        one = PatchImages(3, 0)
        size = one.of(slices, 0).nbytes
        patches = PatchImages(3, 0, memory=2 * size)
        first = [patches.of(slices, place) for place in (0, 1, 2)]
        made.clear()
        assert all(torch.equal(patches.of(slices, place), first[place]) for place in (0, 1, 2))
        assert len(made) == 1


class TestDropout:
    def test_passes_differ_and_the_global_generator_stays(self, slices, model):
        torch.manual_seed(7)
        before = torch.random.get_rng_state()
        passes = dropout_probabilities(model, slices, 3, (1, 2))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert passes.shape == (3, len(slices), 2)
        assert not np.array_equal(passes[0], passes[1])
        torch.manual_seed(8)
        assert np.array_equal(dropout_probabilities(model, slices, 3, (1, 2)), passes)
        assert not model.training

    def test_batch_norm_stays_as_it_is(self, slices, model):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        dropout_probabilities(model, slices, 2, (0,))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class TestEmbeddings:
    @pytest.mark.parametrize("head", ["linear", "dense"])
    def test_the_last_layer_makes_logits_of_them(self, slices, active_config, head):
        model = new_classifier(active_config(head=head), slices, 0).eval()
        features = torch.from_numpy(embeddings(model, slices)).float()
        logits = features @ model.last_linear.weight.T + model.last_linear.bias
        assert torch.allclose(logits, model(slices.images(np.arange(len(slices)))), atol=1e-5)

    @pytest.mark.parametrize("head", ["linear", "dense"])
    def test_gradients_are_autograds(self, slices, active_config, head):
        model = new_classifier(active_config(head=head), slices, 0).eval()
        expected = []
        for place in range(6):
            logits = model(slices.images([place]))
            loss = F.cross_entropy(logits, logits.argmax(dim=1))
            (slope,) = torch.autograd.grad(loss, model.last_linear.weight)
            expected.append(slope.flatten().numpy())
        result = gradient_embeddings(model, slices.take(range(6)))
        assert np.allclose(result, np.stack(expected), atol=1e-6)
