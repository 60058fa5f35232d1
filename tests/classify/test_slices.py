from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from metaseg.classify.slices import choose_slices, head_slices, square_images
from metaseg.errors import DataError


def fake_case(
    images: np.ndarray | None = None,
    raw: np.ndarray | None = None,
    areas: list[int] | None = None,
    id: str = "case",
    labelled: bool = True,
    planar: bool = False,
) -> SimpleNamespace:
    count = len(areas) if areas is not None else len(raw) if raw is not None else 1
    return SimpleNamespace(
        id=id,
        folder=None,
        num_slices=count,
        raw_images=raw,
        info=SimpleNamespace(labelled=labelled, background=0.0, geometry=SimpleNamespace(planar=planar)),
        areas=lambda: np.stack([np.zeros(count, int), np.array(areas)], axis=1),
        images=lambda slices, modalities: images[slices],
    )


class TestSquareImages:
    @pytest.mark.parametrize(("height", "width"), [(20, 12), (12, 20), (15, 15), (9, 16)])
    @pytest.mark.parametrize("size", [10, 16, 40])
    def test_is_padding_and_torchvisions_resize(self, height, width, size):
        image = np.random.default_rng(0).normal(size=(2, 1, height, width)).astype(np.float32)
        side = max(height, width)
        padded = np.zeros((2, 1, side, side), np.float32)
        top, left = (side - height) // 2, (side - width) // 2
        padded[:, :, top : top + height, left : left + width] = image
        expected = TF.resize(torch.from_numpy(padded), [size, size], antialias=size < side)
        result = square_images(fake_case(images=image), [0, 1], ("t1",), size)
        assert torch.allclose(result, expected, atol=1e-5)

    def test_a_circle_stays_a_circle(self):
        down, across = np.indices((60, 30))
        image = ((down - 30) ** 2 + (across - 15) ** 2 < 100).astype(np.float32)[None, None]
        inside = square_images(fake_case(images=image), [0], ("t1",), 32)[0, 0] > 0.5
        assert inside.any(0).sum() == inside.any(1).sum()


class TestHeadSlices:
    def test_keeps_those_of_half_the_largest_cut(self):
        raw = np.zeros((5, 2, 10, 10), np.float32)
        for place, rows in enumerate((1, 4, 5, 10, 6)):
            raw[place, 0, :rows] = 1
        assert head_slices(fake_case(raw=raw)).tolist() == [2, 3, 4]

    def test_takes_all_of_separate_images(self):
        assert head_slices(fake_case(raw=np.zeros((4, 1, 5, 5)), planar=True)).tolist() == [0, 1, 2, 3]


AREAS = [0, 3, 0, 5, 6, 7, 1, 2, 0, 4]
BEARING = [1, 3, 4, 5, 6, 7, 9]


class TestChooseSlices:
    @pytest.mark.parametrize("method", ["even", "random"])
    def test_without_a_number_takes_all_with_tumour(self, method):
        assert choose_slices(fake_case(areas=AREAS), None, method, 0).tolist() == BEARING

    def test_even_takes_the_middles_of_equal_runs(self):
        chosen = choose_slices(fake_case(areas=[1] * 30), 3, "even", 0)
        assert chosen.tolist() == [5, 15, 25]

    def test_even_has_no_chance_in_it(self):
        chosen = [choose_slices(fake_case(areas=AREAS), 3, "even", seed).tolist() for seed in range(4)]
        assert chosen == [chosen[0]] * 4

    def test_random_depends_on_the_seed_and_the_case_alone(self):
        one, other = fake_case(areas=[1] * 40, id="a"), fake_case(areas=[1] * 40, id="b")
        alone = choose_slices(other, 5, "random", 1).tolist()
        choose_slices(one, 5, "random", 1)
        assert choose_slices(other, 5, "random", 1).tolist() == alone
        assert choose_slices(one, 5, "random", 1).tolist() != alone
        assert choose_slices(other, 5, "random", 2).tolist() != alone

    def test_takes_no_more_than_there_are(self):
        assert len(choose_slices(fake_case(areas=AREAS), 100, "random", 0)) == len(BEARING)

    def test_refuses_a_volume_without_outline(self):
        with pytest.raises(DataError, match="has no outline"):
            choose_slices(fake_case(areas=AREAS, labelled=False), 3, "even", 0)

    def test_refuses_a_case_without_tumour(self):
        with pytest.raises(DataError, match="shows no tumour"):
            choose_slices(fake_case(areas=[0, 0, 0]), 3, "even", 0)

    def test_takes_separate_images_without_outline(self):
        assert len(choose_slices(fake_case(areas=AREAS, labelled=False, planar=True), None, "even", 0)) == len(AREAS)


class TestClassifiedSlices:
    def test_knows_each_slices_case_patient_and_name(self, open_set, patients):
        slices = open_set(data=patients)
        assert len(slices) == 2 * 8 * 3
        assert slices.counts() == {"left": 24, "right": 24}
        assert len(set(slices.ids)) == len(slices)
        assert all(name.startswith(case) for name, case in zip(slices.ids, slices.case_ids, strict=True))
        assert all(
            case.startswith(slices.classes[label]) for case, label in zip(slices.case_ids, slices.labels, strict=True)
        )

    def test_one_hot_is_scikit_learns(self, open_set, images):
        from sklearn.preprocessing import label_binarize

        slices = open_set(data=images, classes="right,left")
        assert slices.classes == ("right", "left")
        assert slices.one_hot[:, 1:].tolist() == label_binarize(slices.labels, classes=[0, 1]).tolist()

    def test_a_subset_shows_the_same_images(self, open_set, images):
        slices = open_set(data=images)
        whole = slices.images(np.arange(len(slices)))
        assert torch.equal(slices.take([7, 3]).images([1, 0]), whole[[3, 7]])
        assert whole.shape == (len(slices), 1, 16, 16)

    def test_an_image_is_read_once(self, open_set, images, monkeypatch):
        slices = open_set(data=images)
        first = slices.images([2])
        monkeypatch.setattr("metaseg.classify.slices.square_images", None)
        assert torch.equal(slices.take([2]).images([0]), first)


class TestSlicesPerCase:
    def test_by_class(self, open_set, patients):
        slices = open_set(data=patients, slices_per_case="left=1,right=2")
        assert slices.counts() == {"left": 8, "right": 16}

    def test_a_number(self, open_set, patients):
        assert open_set(data=patients, slices_per_case="2").counts() == {"left": 16, "right": 16}
