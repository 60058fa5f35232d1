import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from metaseg.cases.labels import SUBREGIONS, region_mask
from metaseg.metrics.overlap import (
    class_counts,
    counts_from_histogram,
    dice_from_counts,
    joint_histogram,
    region_counts,
)


@pytest.fixture
def maps():
    generator = np.random.default_rng(3)
    return generator.integers(0, 4, (6, 9, 7), dtype=np.uint8), generator.integers(0, 4, (6, 9, 7), dtype=np.uint8)


def test_counts_equal_masks_counted_one_by_one(maps):
    label, prediction = maps
    counts = class_counts(label, prediction, 4)
    for value in range(4):
        assert counts.intersection[value] == np.sum((label == value) & (prediction == value))
        assert counts.label[value] == np.sum(label == value)
        assert counts.predicted[value] == np.sum(prediction == value)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("num_classes", [2, 4, 16, 17])
@pytest.mark.parametrize("shape", [(5,), (3, 9, 7), (1, 300, 301), (0, 4, 4)])
@pytest.mark.parametrize("busy", [0.0, 0.02, 1.0])
def test_histogram_counts_every_pair(dtype, num_classes, shape, busy):
    # Blocks, words of eight voxels and what is left over: all sizes meet the plain definition.
    rng = np.random.default_rng(5)
    label, prediction = (
        np.where(rng.random(shape) < busy, rng.integers(0, num_classes, shape), 0).astype(dtype) for _ in range(2)
    )
    expected = np.zeros((num_classes, num_classes), int)
    np.add.at(expected, (label.ravel(), prediction.ravel()), 1)
    found = joint_histogram(label, prediction, num_classes)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int64


def test_histogram_of_maps_that_are_not_contiguous(maps):
    turned = [array.transpose(2, 0, 1)[::-1, ::2] for array in maps]
    expected = joint_histogram(*(np.ascontiguousarray(array) for array in turned), 4, per_slice=True)
    np.testing.assert_array_equal(joint_histogram(*turned, 4, per_slice=True), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_value_that_is_no_class_is_refused(maps, dtype):
    label, prediction = (array.astype(dtype) for array in maps)
    prediction[0, 0, 0] = 4
    with pytest.raises(ValueError, match=r"prediction holds values outside 0 \.\. 3"):
        joint_histogram(label, prediction, 4)


def test_counts_add_up_over_slices(maps):
    slices = class_counts(*maps, 4, per_slice=True)
    whole = class_counts(*maps, 4)
    assert slices.label.shape == (6, 4)
    for per_slice, total in zip(slices, whole, strict=True):
        np.testing.assert_array_equal(per_slice.sum(0), total)
    one = class_counts(maps[0][2], maps[1][2], 4)
    np.testing.assert_array_equal(slices.intersection[2], one.intersection)


def test_dice_equals_monai(maps):
    import torch
    from monai.metrics import compute_dice

    one_hot = [torch.from_numpy(np.stack([array == value for value in range(4)])[None]) for array in maps]
    expected = compute_dice(one_hot[1], one_hot[0]).numpy()[0]
    np.testing.assert_allclose(class_counts(*maps, 4).dice(), expected, rtol=1e-6)


def test_torch_histogram_equals_numpy(maps):
    import torch

    from metaseg.inference.logits import batch_class_counts, batch_histogram

    tensors = [torch.from_numpy(array) for array in maps]
    np.testing.assert_array_equal(batch_histogram(*tensors, 4).numpy(), joint_histogram(*maps, 4, per_slice=True))
    for tensor, array in zip(batch_class_counts(*tensors, 4), class_counts(*maps, 4, per_slice=True), strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("region", SUBREGIONS.regions)
def test_region_counts_equal_region_masks(maps, region):
    label, prediction = (region_mask(array, SUBREGIONS, region) for array in maps)
    counts = region_counts(joint_histogram(*maps, 4), SUBREGIONS.regions[region])
    assert tuple(int(value) for value in counts) == ((label & prediction).sum(), label.sum(), prediction.sum())
    per_slice = region_counts(joint_histogram(*maps, 4, per_slice=True), SUBREGIONS.regions[region])
    np.testing.assert_array_equal(per_slice.label, label.sum((1, 2)))


def test_dice_of_empty_classes():
    dice = dice_from_counts(np.array([0, 0, 0, 3]), np.array([0, 5, 0, 3]), np.array([0, 0, 5, 3]))
    np.testing.assert_array_equal(dice, [np.nan, 0.0, 0.0, 1.0])


def test_values_that_are_no_class_are_refused(maps):
    with pytest.raises(ValueError, match=r"prediction holds values outside 0 \.\. 2"):
        class_counts(np.minimum(maps[0], 2), maps[1], 3)
    with pytest.raises(ValueError, match="label holds values outside"):
        class_counts(maps[0].astype(np.int16) - 1, maps[1], 4)


def test_shapes_must_agree(maps):
    with pytest.raises(ValueError, match="differ in shape"):
        class_counts(maps[0][:3], maps[1], 4)


def test_histogram_diagonal_is_the_intersection():
    counts = counts_from_histogram(np.array([[5, 1], [2, 3]]))
    assert counts.intersection.tolist() == [5, 3]
    assert counts.label.tolist() == [6, 5]
    assert counts.predicted.tolist() == [7, 4]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.5))
def test_removing_a_right_component_never_raises_dice(seed, density):
    generator = np.random.default_rng(seed)
    label, prediction = (generator.random((2, 5, 8, 8)) < density).astype(np.uint8)
    components, number = ndimage.label(prediction)
    before = class_counts(label, prediction, 2).dice()[1]
    for component in range(1, number + 1):
        inside = label[components == component].mean()
        # Only a component that is at least half right is a find; less is a false positive that touches the lesion.
        if inside >= 0.5:
            without = np.where(components == component, 0, prediction)
            after = class_counts(label, without, 2).dice()[1]
            assert after <= before
