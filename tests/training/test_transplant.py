from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from metaseg.training.augment import shifted, transplant


class AtPlace:
    """A generator that draws one place among the tissue's pixels: the one at ``row`` and ``column`` of 40 x 60."""

    def __init__(self, row: int, column: int) -> None:
        self.number = row * 60 + column

    def integers(self, count: int) -> int:
        return min(self.number, count - 1)


def still() -> Any:
    """Where the donor has its lesion; its centre is rounded to (20, 26)."""
    return AtPlace(20, 26)


@pytest.fixture
def slices() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A slice of tissue 1 with a lesion (class 3) of its own, a donor of tissue 2 with a lesion of 5 (class 1)."""
    image, donor = torch.ones(2, 40, 60), torch.full((2, 40, 60), 2.0)
    label, donor_label = torch.zeros(40, 60, dtype=torch.uint8), torch.zeros(40, 60, dtype=torch.uint8)
    label[4:8, 4:8] = 3
    donor_label[15:26, 20:33] = 1
    donor[:, 15:26, 20:33] = 5.0
    return image, label, donor, donor_label


class TestTransplant:
    def test_lesion_arrives_whole_and_the_own_one_stays(self, slices: tuple[Tensor, ...]) -> None:
        image, label, donor, donor_label = slices
        new_image, new_label = transplant(*slices, still())
        assert torch.equal(new_label == 1, donor_label == 1)
        assert torch.equal(new_label == 3, label == 3)
        # Blending takes a pixel or two: well inside the rim all is the donor's, far outside all is the slice's.
        inside = torch.from_numpy(ndimage.binary_erosion(donor_label.numpy() > 0, iterations=2))
        torch.testing.assert_close(new_image[:, inside], donor[:, inside], rtol=0, atol=1e-2)
        outside = torch.from_numpy(~ndimage.binary_dilation(donor_label.numpy() > 0, iterations=6))
        torch.testing.assert_close(new_image[:, outside], image[:, outside], rtol=0, atol=1e-2)

    def test_background_of_either_slice_receives_nothing(self, slices: tuple[Tensor, ...]) -> None:
        image, label, donor, donor_label = slices
        image[:, 23:] = 0
        donor[:, :, :22] = 0
        new_image, new_label = transplant(image, label, donor, donor_label, still())
        assert (new_image[:, 23:] == 0).all()
        expected = donor_label.clone()
        expected[23:] = 0
        expected[:, :22] = 0
        assert torch.equal(new_label == 1, expected == 1)

    def test_pasted_over_an_own_lesion_the_rim_is_background(self, slices: tuple[Tensor, ...]) -> None:
        image, label, donor, donor_label = slices
        label[10:30, 15:40] = 3
        _, new_label = transplant(image, label, donor, donor_label, still())
        rim = torch.from_numpy(ndimage.binary_dilation(donor_label.numpy() > 0)) & (donor_label == 0)
        assert (new_label[rim] == 0).all()
        assert (new_label == 1).sum() == (donor_label == 1).sum()

    @pytest.mark.parametrize("case", ["no lesion", "no tissue"])
    def test_without_anything_to_paste_the_slice_is_as_it_was(self, slices: tuple[Tensor, ...], case: str) -> None:
        image, label, donor, donor_label = slices
        if case == "no lesion":
            donor_label.zero_()
        else:
            image.zero_()
        new_image, new_label = transplant(image, label, donor, donor_label, still())
        assert torch.equal(new_image, image)
        assert torch.equal(new_label, label)

    def test_lesions_land_centred_on_any_tissue(self, slices: tuple[Tensor, ...]) -> None:
        image, label, donor, donor_label = slices
        image[:, :, 30:] = 0
        centres = [
            ndimage.center_of_mass((transplant(image, label, donor, donor_label, rng)[1] == 1).numpy())
            for rng in map(np.random.default_rng, range(60))
        ]
        columns = np.array(centres)[:, 1]
        assert columns.max() < 30
        assert np.ptp(centres, axis=0).min() > 20
        image.fill_(1)
        down, right = ndimage.center_of_mass((transplant(*slices, AtPlace(12, 9))[1] == 1).numpy())
        assert (down, right) == (12, 9)


@pytest.mark.parametrize("shift", [(0, 0), (2, -3), (-4, 5), (50, 0), (0, -99)])
def test_shifted_equals_scipy(shift: tuple[int, int]) -> None:
    array = torch.rand(3, 9, 11)
    expected = ndimage.shift(array.numpy(), (0, *shift), order=0, mode="constant", cval=0.0)
    np.testing.assert_array_equal(shifted(array, shift).numpy(), expected)
