from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from metaseg.classify.fitting import new_classifier, slice_probabilities, watched_score
from metaseg.classify.slices import SliceBatches, augmented_images
from metaseg.training.augment import Augmentation


@pytest.fixture
def slices(open_set):
    return open_set()


def batches_of(slices, size=8, balance=False, strength="none", seed=0):
    return SliceBatches(slices, size, balance, Augmentation(strength), seed)


def drawn(slices, batches, steps):
    """Which slices came in each of some steps, found by their pixels."""
    known = {image.numpy().tobytes(): place for place, image in enumerate(slices.images(np.arange(len(slices))))}
    assert len(known) == len(slices)
    return [[known[image.numpy().tobytes()] for image in batches.draw(step)[0]] for step in steps]


class TestSliceBatches:
    @pytest.mark.parametrize("size", [1, 3, 8, 28, 100])
    def test_every_slice_comes_once_an_epoch(self, slices, size):
        batches = batches_of(slices, size)
        for epoch in range(2):
            steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
            chosen = [place for batch in drawn(slices, batches, steps) for place in batch]
            assert sorted(chosen[: len(slices)]) == list(range(len(slices)))
            assert chosen[len(slices) :] == chosen[: len(chosen) - len(slices)]

    def test_epochs_differ(self, slices):
        batches = batches_of(slices, 28)
        one, other = drawn(slices, batches, [0, 1])
        assert one != other

    @pytest.mark.parametrize("strength", ["none", "light", "full"])
    def test_a_batch_is_a_function_of_the_step(self, slices, strength):
        forwards = [batches_of(slices, strength=strength).draw(step) for step in range(5)]
        batches = batches_of(slices, strength=strength)
        for step in (4, 0, 3, 1, 2, 0):
            for one, other in zip(batches.draw(step), forwards[step], strict=True):
                assert torch.equal(one, other)

    def test_another_seed_draws_otherwise(self, slices):
        assert drawn(slices, batches_of(slices, seed=1), [0]) != drawn(slices, batches_of(slices, seed=2), [0])

    def test_classes_are_those_of_the_images(self, slices):
        batches = batches_of(slices)
        for step, chosen in enumerate(drawn(slices, batches, range(8))):
            assert batches.draw(step)[1].tolist() == slices.labels[chosen].tolist()

    def test_balance_draws_classes_equally_often(self, slices):
        few = slices.take([*np.flatnonzero(slices.labels == 0)[:2], *np.flatnonzero(slices.labels == 1)])
        batches = batches_of(few, 4, balance=True)
        labels = torch.cat([batches.draw(step)[1] for step in range(batches.steps_per_epoch)])
        counts = Counter(labels.tolist())
        assert abs(counts[0] - counts[1]) <= 1

    def test_balance_repeats_no_class_before_it_is_used_up(self, slices):
        few = slices.take([*np.flatnonzero(slices.labels == 0)[:3], *np.flatnonzero(slices.labels == 1)])
        chosen = [place for batch in drawn(few, batches_of(few, 6, balance=True), [0, 1]) for place in batch]
        for start in (0, 6):
            assert sorted(place for place in chosen[start : start + 6] if few.labels[place] == 0) == [0, 1, 2]

    def test_balance_does_with_the_classes_there_are(self, slices):
        few = slices.take(np.flatnonzero(slices.labels == 1))
        assert len(drawn(few, batches_of(few, balance=True), [0])[0]) == 8

    def test_a_single_slice_comes_twice(self, slices):
        images, labels = batches_of(slices.take([5])).draw(0)
        assert images.shape[0] == 2
        assert labels.tolist() == slices.labels[[5, 5]].tolist()


class TestAugmented:
    def test_none_changes_nothing(self, slices):
        images = slices.images([0, 1])
        assert torch.equal(augmented_images(images, np.array([1, 2]), Augmentation("none")), images)

    def test_light_only_flips(self, slices):
        image = slices.images([0])[0]
        flips = [image, image.flip(1), image.flip(2), image.flip(1, 2)]
        for seed in range(12):
            changed = augmented_images(image[None], np.array([seed]), Augmentation("light"))[0]
            assert any(torch.equal(changed, flipped) for flipped in flips)

    def test_leaves_the_read_images_as_they_were(self, slices):
        before = slices.images(np.arange(4))
        batches_of(slices, strength="full").draw(0)
        augmented_images(slices.images(np.arange(4)), np.arange(4), Augmentation("full"))
        assert torch.equal(slices.images(np.arange(4)), before)


class TestMeasure:
    @pytest.fixture
    def model(self, train_config, slices):
        return new_classifier(train_config(), slices, 0)

    def test_probabilities_are_torchs_softmax_in_evaluation_mode(self, model, slices):
        result = slice_probabilities(model.train(), slices)
        assert model.training
        with torch.no_grad():
            expected = torch.softmax(model.eval()(slices.images(np.arange(len(slices)))), dim=1)
        assert np.allclose(result, expected, atol=1e-6)
        assert np.allclose(result.sum(axis=1), 1, atol=1e-12)

    def test_nothing_is_augmented(self, model, slices, monkeypatch):
        expected = slice_probabilities(model, slices)
        monkeypatch.setattr(Augmentation, "__call__", None)
        assert np.array_equal(slice_probabilities(model, slices), expected)
        assert np.array_equal(
            slice_probabilities(model, slices, [6, 2]), slice_probabilities(model, slices.take([6, 2]))
        )

    def test_of_no_slices_there_are_none(self, model, slices):
        assert slice_probabilities(model, slices.take([])).shape == (0, 2)

    def test_of_equal_scores_the_other_metrics_decide(self):
        metrics = {"auc/val": 1.0, "accuracy/val": 0.5}
        assert watched_score(metrics | {"accuracy/val": 0.9}, "auc") > watched_score(metrics, "auc")
        assert watched_score({"auc/val": 0.99, "accuracy/val": 1.0}, "auc") < watched_score(metrics, "auc")
        assert watched_score({"auc/val": float("nan")}, "auc") == watched_score({}, "auc") == 0.0


@pytest.mark.parametrize("strength", ["light", "full"])
def test_a_fit_augments_images_of_the_training_part_alone(train_config, parts_of, monkeypatch, strength):
    from metaseg.classify.train import run_classify_train

    seen = []
    real = Augmentation.__call__

    def spy(self, image, label, seed):
        seen.append(image.tobytes())
        return real(self, image, label, seed)

    monkeypatch.setattr(Augmentation, "__call__", spy)
    run_classify_train(train_config(augment=strength, epochs=1))
    parts = parts_of()
    known = {image.numpy().tobytes() for image in parts.train.images(np.arange(len(parts.train)))}
    others = [
        image.numpy().tobytes() for part in (parts.val, parts.test) for image in part.images(np.arange(len(part)))
    ]
    assert set(seen) == known
    assert not known & set(others)
