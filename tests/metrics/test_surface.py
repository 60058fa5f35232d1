import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseg.errors import UsageError
from metaseg.metrics.empties import image_diagonal
from metaseg.metrics.surface import hd95, weighted_percentile


def blob(generator, shape=(12, 14, 13)):
    """A random smooth-edged mask that is not empty."""
    centre = generator.uniform(4, 8, 3)
    radius = generator.uniform(2, 4)
    grid = np.indices(shape)
    mask = sum((axis - middle) ** 2 for axis, middle in zip(grid, centre, strict=True)) < radius**2
    return mask ^ (mask & (generator.random(shape) < 0.1))


@pytest.mark.parametrize(("axis", "expected"), [(0, 7.5), (1, 3.0), (2, 6.0)])
def test_two_shifted_cubes(axis, expected):
    # Cubes of edge 8 shifted by 3 voxels: the leading face, a sixth of the surface and so more than 5 %, lies 3 voxels
    # off; nothing lies farther. Spacing 2.5, 1 and 2 mm.
    label = np.zeros((20, 20, 20), dtype=bool)
    label[4:12, 4:12, 4:12] = True
    assert hd95(label, np.roll(label, 3, axis), (2.5, 1.0, 2.0)) == pytest.approx(expected)


def test_equal_masks_have_distance_zero():
    mask = blob(np.random.default_rng(0))
    assert hd95(mask, mask, (1.0, 1.0, 1.0)) == 0.0


def test_a_far_voxel_below_five_percent_does_not_count():
    label = np.zeros((30, 30, 30), dtype=bool)
    label[5:15, 5:15, 5:15] = True
    prediction = label.copy()
    prediction[28, 28, 28] = True
    assert hd95(label, prediction, (1.0, 1.0, 1.0)) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_equals_surface_distance_on_the_uncropped_volume(seed):
    import surface_distance

    generator = np.random.default_rng(seed)
    label, prediction, spacing = blob(generator), blob(generator), (3.0, 0.9, 1.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        elements = surface_distance.compute_surface_distances(label, prediction, spacing)
    expected = surface_distance.compute_robust_hausdorff(elements, 95)
    far_away = [np.pad(mask, ((3, 9), (8, 2), (1, 11))) for mask in (label, prediction)]
    assert hd95(label, prediction, spacing) == expected
    assert hd95(*far_away, spacing) == expected


@pytest.mark.parametrize("seed", range(3))
def test_equals_monai_where_the_definitions_agree(seed):
    # MONAI's surface elements are the same; its own HD95 does not weight them, so the percentile is taken here.
    import torch
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    generator = np.random.default_rng(seed)
    label, prediction, spacing = blob(generator), blob(generator), (2.0, 1.0, 1.5)
    found, wanted, found_areas, wanted_areas = get_mask_edges(
        torch.from_numpy(prediction), torch.from_numpy(label), spacing=spacing
    )
    directions = [
        (get_surface_distance(wanted, found, spacing=spacing), wanted_areas[wanted]),
        (get_surface_distance(found, wanted, spacing=spacing), found_areas[found]),
    ]
    expected = max(weighted_percentile(*(part.numpy() for part in direction)) for direction in directions)
    assert hd95(label, prediction, spacing) == pytest.approx(expected, rel=1e-5)


def test_monai_hausdorff_agrees_on_cubes():
    import torch
    from monai.metrics import compute_hausdorff_distance

    label = np.zeros((1, 1, 20, 20, 20))
    label[..., 4:12, 4:12, 4:12] = 1
    moved = np.roll(label, 3, 2)
    spacing = (2.0, 1.0, 1.0)
    theirs = compute_hausdorff_distance(
        torch.tensor(moved), torch.tensor(label), include_background=True, percentile=95, spacing=spacing
    )
    assert hd95(label[0, 0] > 0, moved[0, 0] > 0, spacing) == pytest.approx(float(theirs))


def test_is_symmetric():
    generator = np.random.default_rng(4)
    label, prediction = blob(generator), blob(generator)
    assert hd95(label, prediction, (1, 2, 3)) == hd95(prediction, label, (1, 2, 3))


def test_empty_masks_follow_the_policy():
    mask, nothing = blob(np.random.default_rng(1)), np.zeros((12, 14, 13), dtype=bool)
    diagonal = math.sqrt(12**2 + 14**2 + 13**2)
    assert hd95(mask, nothing, (1.0, 1.0, 1.0)) == pytest.approx(diagonal)
    assert hd95(nothing, mask, (1.0, 1.0, 1.0)) == pytest.approx(diagonal)
    assert math.isnan(hd95(nothing, nothing, (1.0, 1.0, 1.0)))
    assert hd95(mask, nothing, (1.0, 1.0, 1.0), policy="brats") == 374.0
    assert hd95(nothing, nothing, (1.0, 1.0, 1.0), policy="brats") == 0.0
    with pytest.raises(UsageError):
        hd95(mask, nothing, (1.0, 1.0, 1.0), policy="none")


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        hd95(np.ones((2, 3, 3), dtype=bool), np.ones((3, 3, 3), dtype=bool), (1, 1, 1))


def test_planar_stack_keeps_slices_apart():
    # The prediction is right but for one slice: in space that is near, in separate images it is a miss.
    label = np.zeros((4, 20, 20), dtype=bool)
    label[:3, 5:12, 5:12] = True
    prediction = label.copy()
    prediction[2] = False
    assert hd95(label, prediction, (1.0, 2.0, 2.0)) == pytest.approx(1.0)
    # A third of the label's contour lies in the missed slice: it counts with the diagonal of a slice.
    assert hd95(label, prediction, (1.0, 2.0, 2.0), planar=True) == pytest.approx(math.hypot(40, 40))


def test_planar_stack_of_one_slice_equals_two_dimensions():
    import surface_distance

    generator = np.random.default_rng(7)
    label, prediction = blob(generator)[6], blob(generator)[6]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        elements = surface_distance.compute_surface_distances(label, prediction, (0.7, 1.1))
    expected = surface_distance.compute_robust_hausdorff(elements, 95)
    assert hd95(label[None], prediction[None], (9.0, 0.7, 1.1), planar=True) == expected


def test_weighted_percentile_counts_weight_not_elements():
    distances, weights = np.array([3.0, 1.0, 2.0]), np.array([4.0, 92.0, 4.0])
    assert weighted_percentile(distances, weights) == 2.0
    assert weighted_percentile(distances, np.ones(3)) == 3.0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_missing_everything_is_never_better(seed, planar):
    generator = np.random.default_rng(seed)
    label, prediction = generator.random((2, 4, 7, 7)) < generator.uniform(0.02, 0.6)
    label[1, 2, 2] = prediction[3, 6, 6] = True
    spacing = tuple(generator.uniform(0.3, 5.0, 3))
    missed = hd95(label, np.zeros_like(label), spacing, planar=planar)
    assert missed == pytest.approx(image_diagonal(label.shape, spacing, planar))
    assert hd95(label, prediction, spacing, planar=planar) <= missed
