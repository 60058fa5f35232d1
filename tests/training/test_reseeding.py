"""Seeding anew against MONAI's own ``set_random_state``, generator by generator and slice by slice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import Compose
from monai.transforms.transform import Randomizable

from metaseg.training.augment import Augmentation, SeededChain, _intensity, _spatial

SEEDS = (0, 1, 0x5EED, 2**31 - 1, 2**32 - 1, 2**33 + 5)


def generators(value: object) -> list[tuple]:
    """States of all generators at or below a transform."""
    if isinstance(value, Compose):
        return [value.R.get_state(), *(state for one in value.transforms for state in generators(one))]
    if not isinstance(value, Randomizable):
        return []
    return [value.R.get_state(), *(state for part in vars(value).values() for state in generators(part))]


@pytest.mark.parametrize("make", [_spatial, _intensity])
@pytest.mark.parametrize("strength", ["full", "light", "none"])
def test_every_generator_has_the_state_that_monai_gives_it(make, strength):
    seeded, plain = SeededChain(Compose(make(strength))), Compose(make(strength))
    for seed in SEEDS:
        seeded.seed(seed)
        found, expected = generators(seeded.chain), generators(plain.set_random_state(seed=seed))
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_equal(one, other)
        for _ in range(3):  # used between two seedings
            seeded.chain.R.random()


def test_slices_are_augmented_as_by_monais_own_seeding():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, 24, 20)).astype(np.float32)
    label = rng.integers(0, 4, (24, 20)).astype(np.uint8)
    augmentation, spatial, intensity = Augmentation("full"), Compose(_spatial("full")), Compose(_intensity("full"))
    for seed in range(40):
        found, classes = augmentation(image, label, seed)
        spatial.set_random_state(seed=seed)
        intensity.set_random_state(seed=seed ^ 0x5EED)
        sample = spatial({"image": torch.from_numpy(image), "label": torch.from_numpy(label.astype(np.float32))[None]})
        background = sample["image"] == 0
        expected = intensity(sample)["image"].masked_fill(background, 0.0)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert torch.equal(classes, sample["label"][0].to(torch.uint8))
