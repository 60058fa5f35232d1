"""The background: the same head whatever lies outside it, and zero backgrounds left as they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from metaseg.cases.intensities import find_background, zero_outside

SHAPE = (26, 44, 40)
RNG = np.random.default_rng(0)
GRID = [
    (axis - (size - 1) / 2) / (0.4 * size) for axis, size in zip(np.indices(SHAPE).astype(float), SHAPE, strict=True)
]
HEAD = sum(axis**2 for axis in GRID) < 1
IMAGE = np.where(HEAD, np.rint(800 + 900 * ndimage.gaussian_filter(RNG.standard_normal(SHAPE), 2)), 0).clip(min=0)
IMAGE = np.where(HEAD, IMAGE.clip(min=120), 0).astype(np.int16)
NOISE = RNG.standard_normal((2, *SHAPE))
RICIAN = np.hypot(*(25 * NOISE))


def outside(values: float | np.ndarray) -> np.ndarray:
    return np.where(HEAD, IMAGE, values).astype(np.float32)


BACKGROUNDS = {
    "zero": IMAGE,
    "zero, floats": outside(0),
    "zero, holes": np.where(np.abs(GRID[1]) < 0.1, 0, IMAGE),
    "noise of 1e-4": outside(1e-4 * NOISE[0]),
    "-1024": outside(-1024),
    "-1024 as whole numbers": outside(-1024).astype(np.int16),
    "all less 1024": (IMAGE - 1024).astype(np.int16),
    "1": outside(1).astype(np.int16),
    "air": outside(RICIAN),
    "air as whole numbers": np.rint(outside(RICIAN)).astype(np.int16),
    "air cut off at 0": outside(np.clip(25 * NOISE[0] - 8, 0, None)),
    "air of 0, 1 and 2": np.rint(outside(RICIAN / 50)).astype(np.int16),
    "z-scores": ((IMAGE - IMAGE.mean()) / IMAGE.std()).astype(np.float32),
    "z-scores of the head": ((IMAGE - IMAGE[HEAD].mean()) / IMAGE[HEAD].std()).astype(np.float32),
    "-32768": outside(-32768).astype(np.int16),
    "white": np.where(HEAD, IMAGE // 8, 255).astype(np.uint8),
    "inverted": np.where(HEAD, 255 - IMAGE // 8, 255).astype(np.uint8),
}


class TestFindBackground:
    @pytest.mark.parametrize("name", BACKGROUNDS)
    def test_head_is_the_same(self, name):
        found = find_background(BACKGROUNDS[name])
        expected = HEAD & (BACKGROUNDS[name] != 0) if "holes" in name else HEAD
        assert np.count_nonzero(found.inside ^ expected) <= 0.003 * np.count_nonzero(HEAD)
        assert (found.description is None) == (found.kind == "zero") == name.startswith("zero")

    @pytest.mark.parametrize("name", BACKGROUNDS)
    def test_same_head_in_a_tight_box_and_cut_through(self, name):
        for box in (np.s_[2:-2, 4:-4, 4:-4], np.s_[:, : SHAPE[1] // 2], np.s_[8:18]):
            image, head = BACKGROUNDS[name][box], HEAD[box]
            expected = head & (image != 0) if "holes" in name else head
            assert np.count_nonzero(find_background(image).inside ^ expected) <= 0.01 * np.count_nonzero(head)

    @pytest.mark.parametrize("name", ["air", "z-scores", "-1024"])
    @pytest.mark.parametrize("padding", [0, -2000])
    def test_padding_around_another_background(self, name, padding):
        found = find_background(np.pad(BACKGROUNDS[name].astype(np.float32), 10, constant_values=padding))
        assert np.count_nonzero(found.inside ^ np.pad(HEAD, 10)) <= 0.003 * np.count_nonzero(HEAD)

    @pytest.mark.parametrize("whole", [False, True])
    def test_ringing_of_a_spline_is_no_tissue(self, whole):
        moved = ndimage.shift(outside(0), (0.4, 0.3, 0.2), order=3)
        found = find_background(np.rint(moved).astype(np.int16) if whole else moved)
        head = ndimage.shift(HEAD.astype(float), (0.4, 0.3, 0.2), order=1) > 0.5
        assert np.count_nonzero(found.inside ^ head) < 0.1 * np.count_nonzero(head)
        assert np.count_nonzero(moved) > 2 * np.count_nonzero(head)

    def test_mixture_of_tissue_and_a_far_level_is_no_tissue(self):
        moved = ndimage.shift(BACKGROUNDS["-32768"].astype(np.float32), (0.4, 0.3, 0.2), order=1, cval=-32768)
        assert moved[find_background(moved).inside].min() > -1500

    def test_tissue_up_to_every_side(self):
        found = find_background(IMAGE[9:17, 16:28, 14:26] + np.float32(0.5))
        assert (found.kind, found.inside.all()) == ("none", True)

    def test_head_in_a_corner_of_noise_is_not_guessed(self):
        wide = np.pad(outside(0), ((0, 40), (0, 60), (0, 60)))
        noise = np.hypot(wide + RNG.normal(0, 20, wide.shape), RNG.normal(0, 20, wide.shape))
        assert find_background(noise).kind == "unclear"

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.sampled_from([5, 30, 200, 3000]), st.booleans(), st.floats(0.0, 0.7))
    def test_zero_backgrounds_stay_as_they_are(self, seed, most, negative, holes):
        rng = np.random.default_rng(seed)
        shape = tuple(rng.integers(6, 24, 3))
        image = np.zeros(shape, np.float32 if negative else np.int16)
        image[1:-1, 1:-2, 2:-1] = rng.integers(-most if negative else 1, most + 1, image[1:-1, 1:-2, 2:-1].shape)
        image[rng.random(shape) < holes] = 0
        found = find_background(image)
        np.testing.assert_array_equal(found.inside, image != 0)
        assert zero_outside(image, found) is image

    def test_head_of_one_value_is_a_head(self):
        np.testing.assert_array_equal(find_background(HEAD.astype(np.uint8)).inside, HEAD)


class TestZeroOutside:
    @pytest.mark.parametrize("name", BACKGROUNDS)
    def test_zero_stands_outside_and_there_alone(self, name):
        image = BACKGROUNDS[name]
        found = find_background(image)
        cleaned = zero_outside(image, found)
        assert cleaned.dtype == image.dtype
        np.testing.assert_array_equal(cleaned != 0, found.inside)
        kept = found.inside & (image != 0)
        np.testing.assert_array_equal(cleaned[kept], image[kept])
