from __future__ import annotations

import numpy as np
import pytest
import torch

from metaseg.cases.labels import SUBREGIONS
from metaseg.store.prepare import open_data
from metaseg.training.augment import Augmentation, RandScannerd, bend, quadratic
from metaseg.training.slices import TrainingSlices, default_window, fit_window

FOUR = ("flair", "t1", "t1ce", "t2")


@pytest.fixture(scope="module")
def store(write_cases, tmp_path_factory):
    return open_data([write_cases(count=3)], cache=tmp_path_factory.mktemp("cache"))


def slices(store, strength="full", seed=0, **changes):
    settings = {"batch_size": 4, "slices_per_epoch": 10, "foreground_fraction": 1.0} | changes
    return TrainingSlices(store, FOUR, SUBREGIONS, (16, 32), augmentation=Augmentation(strength), seed=seed, **settings)


class TestFitWindow:
    def test_crop_then_pad_keeps_the_middle(self):
        array = np.arange(6 * 3).reshape(1, 6, 3)
        out = fit_window(array, (4, 5), (0.5, 0.5))
        np.testing.assert_array_equal(out[0, :, 1:4], array[0, 1:5])
        assert out[0, :, 0].sum() == out[0, :, 4].sum() == 0

    def test_corner_moves_the_window_from_end_to_end(self):
        array = np.arange(8)[None, None].repeat(4, axis=1)
        np.testing.assert_array_equal(fit_window(array, (4, 5), (0, 0.0))[0, 0], [0, 1, 2, 3, 4])
        np.testing.assert_array_equal(fit_window(array, (4, 5), (0, 1.0))[0, 0], [3, 4, 5, 6, 7])


class TestTrainingSlices:
    def test_batch_is_a_function_of_seed_and_step(self, store):
        first, second = slices(store).draw(5), slices(store).draw(5)
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        assert not torch.equal(slices(store, seed=1).draw(5)[0], first[0])
        assert not torch.equal(slices(store).draw(6)[0], first[0])

    def test_without_augmentation_slices_are_the_stores(self, store):
        drawn = slices(store, "none")
        images, labels = drawn.draw(0)
        assert images.shape == (4, 4, 16, 32)
        assert labels.shape == (4, 16, 32)
        every = [
            fit_window(case.images(slice(None)), (16, 32), (corner, 0.5))
            for case in store
            for corner in np.linspace(0, 1, 21)
        ]
        known = np.concatenate([block.reshape(len(block), -1).sum(axis=1) for block in every])
        for image in images.numpy():
            assert np.abs(known - image.sum()).min() < 1e-2

    def test_foreground_fraction_one_draws_tumour_only(self, store):
        labels = torch.cat([slices(store, "none").draw(step)[1] for step in range(6)])
        assert (labels.flatten(1).max(dim=1).values > 0).all()

    def test_window_is_the_median_rounded_up(self, store):
        heights = [case.info.shape[1] for case in store]
        assert default_window(store)[0] == -(-int(np.median(heights)) // 16) * 16


class TestAugmentation:
    def test_background_stays_zero_and_label_stays_whole(self, store):
        case = store.cases[0]
        index = [int(np.argmax(case.areas()[:, 3]))]
        image, label = case.images(index)[0], case.labels(index)[0]
        image[:, :3] = 0
        augmentation = Augmentation("full")
        augmentation.chains.spatial.chain.transforms = ()
        for seed in range(20):
            changed, classes = augmentation(image, label, seed)
            np.testing.assert_array_equal(changed.numpy() == 0, image == 0)
            np.testing.assert_array_equal(classes, label)
            changed, classes = Augmentation("full")(image, label, seed)
            assert changed.shape == image.shape
            assert set(classes.unique().tolist()) <= set(np.unique(label).tolist()) | {0}
            assert torch.isfinite(changed).all()

    def test_flips_are_the_only_change_of_light(self, store):
        image, label = store.cases[0].images([4])[0], store.cases[0].labels([4])[0]
        seen = {tuple(Augmentation("light")(image, label, seed)[0].flatten()[:40].tolist()) for seed in range(40)}
        expected = {tuple(np.flip(image, axes).copy().flatten()[:40].tolist()) for axes in ((), (1,), (2,), (1, 2))}
        assert seen == expected

    def test_image_and_label_move_together(self):
        image = np.zeros((1, 32, 32), np.float32)
        image[:, 8:20, 10:26] = 1.0
        label = (image[0] > 0).astype(np.uint8)
        augmentation = Augmentation("full")
        augmentation.chains.intensity.chain.transforms = ()
        overlaps = []
        for seed in range(25):
            moved, classes = augmentation(image, label, seed)
            there = moved[0] > 0.5
            overlaps.append(2 * (there & (classes > 0)).sum() / (there.sum() + (classes > 0).sum()))
        assert min(overlaps) > 0.9


class TestScanner:
    def test_bend_keeps_value_and_slope_at_zero(self):
        x = torch.tensor([0.0, 1e-4], dtype=torch.float64)
        for gamma in (0.6, 1.0, 1.6):
            y = bend(x, gamma)
            assert y[0].item() == pytest.approx(0.0, abs=1e-12)
            assert (y[1] / x[1]).item() == pytest.approx(1.0, abs=1e-3)

    def test_gamma_one_changes_nothing_in_range(self):
        x = torch.linspace(-2.9, 5.9, 50, dtype=torch.float64)
        torch.testing.assert_close(bend(x, 1.0), x)

    def test_drift_has_no_mean(self):
        field = quadratic(201, 151, np.array([0.3, -0.2, 0.1, 0.3, 0.2]))
        assert field.mean().abs().item() < 0.01

    def test_modalities_change_on_their_own(self):
        scanner = RandScannerd("image", (0.7, 1.4), (0.6, 1.6), 0.4, 0.3, 1.0, 0.0, 0.0, 0.0)
        scanner.set_random_state(seed=3)
        image = torch.ones(4, 5, 5)
        gains = scanner({"image": image})["image"].mean(dim=(1, 2))
        assert len(gains.unique()) == 4
        assert ((gains >= 0.7) & (gains <= 1.4)).all()
