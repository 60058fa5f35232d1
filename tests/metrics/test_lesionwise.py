import itertools
import math
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseg.errors import UsageError
from metaseg.metrics.lesionwise import LESIONWISE_PRESETS, LesionwiseConfig, lesionwise

ONE_MM = (1.0, 1.0, 1.0)
SIDE = 20
DIAGONAL = math.sqrt(3) * SIDE
METS, GLI, MIST = "brats2023-mets", "brats2023-gli", "mist"


def volume(*boxes):
    """A 20³ mask with boxes given as (slices, rows, columns) of (first, last) or single numbers."""
    mask = np.zeros((SIDE, SIDE, SIDE), dtype=bool)
    for box in boxes:
        mask[tuple(slice(part, part + 1) if isinstance(part, int) else slice(part[0], part[1] + 1) for part in box)] = 1
    return mask


# 3 x 3 x 3 voxels, far from everything below.
CUBE = ((14, 16), (14, 16), (14, 16))


def check(label, prediction, preset, *, dice, hd95, f1, n, tp, fp, fn):
    result = lesionwise(label, prediction, ONE_MM, preset)
    assert (result.n_lesions, result.tp, result.fp, result.fn) == (n, tp, fp, fn)
    assert result.dice == pytest.approx(dice)
    assert result.hd95 == pytest.approx(hd95)
    assert result.f1 == pytest.approx(f1)


def test_lesion_of_exactly_two_voxels():
    label, prediction = volume(CUBE, (3, 3, (3, 4))), volume(CUBE)
    # BraTS keeps volumes > 2 mm³: the pair of voxels is dropped, and that it was missed costs nothing.
    check(label, prediction, METS, dice=1, hd95=0, f1=1, n=1, tp=1, fp=0, fn=0)
    # MIST drops volumes < 2 mm³: the pair is kept and missed. Dice (1 + 0) / 2, HD95 (0 + diagonal) / 2.
    check(label, prediction, MIST, dice=0.5, hd95=DIAGONAL / 2, f1=2 / 3, n=2, tp=1, fp=0, fn=1)


def test_prediction_on_a_lesion_below_the_threshold():
    label = prediction = volume(CUBE, (3, 3, 3))
    # BraTS: the single voxel is dropped only after it was matched, so the prediction on it is no false positive.
    check(label, prediction, METS, dice=1, hd95=0, f1=1, n=1, tp=1, fp=0, fn=0)
    # MIST: it is dropped before, so the prediction on it is one. Dice 1 / (1 + 1), HD95 (0 + diagonal) / 2.
    check(label, prediction, MIST, dice=0.5, hd95=DIAGONAL / 2, f1=2 / 3, n=1, tp=1, fp=1, fn=0)


def test_two_lesions_two_voxels_apart():
    # Columns 2-4 and 7-9: dilated once they reach 5 and 6 and touch.
    first, second = ((3, 5), (3, 5), (2, 4)), ((3, 5), (3, 5), (7, 9))
    label, prediction = volume(first, second), volume(first)
    # BraTS merges them into one lesion of 54 voxels, of which 27 are found: Dice 2 * 27 / (54 + 27). The far face of
    # the second cube is a twelfth of the label's surface, more than 5 %, and lies 5 mm from the first cube.
    check(label, prediction, METS, dice=2 / 3, hd95=5, f1=1, n=1, tp=1, fp=0, fn=0)
    # MIST merges nothing: one lesion is perfect, the other missed.
    check(label, prediction, MIST, dice=0.5, hd95=DIAGONAL / 2, f1=2 / 3, n=2, tp=1, fp=0, fn=1)


def test_two_lesions_three_voxels_apart_are_not_merged():
    # Columns 2-4 and 8-10: dilated to 5 and 7 they do not touch.
    first, second = ((3, 5), (3, 5), (2, 4)), ((3, 5), (3, 5), (8, 10))
    check(volume(first, second), volume(first), METS, dice=0.5, hd95=374 / 2, f1=2 / 3, n=2, tp=1, fp=0, fn=1)


def test_glioma_preset_merges_farther():
    # 5 x 5 x 3 = 75 voxels each, six voxels apart: three dilations close the gap, one does not.
    first, second = ((3, 7), (3, 7), (2, 4)), ((3, 7), (3, 7), (11, 13))
    label = volume(first, second)
    assert lesionwise(label, label, ONE_MM, GLI).n_lesions == 1
    assert lesionwise(label, label, ONE_MM, METS).n_lesions == 2
    apart = volume(first, ((3, 7), (3, 7), (12, 14)))
    assert lesionwise(apart, apart, ONE_MM, GLI).n_lesions == 2


@pytest.mark.parametrize("preset", [METS, MIST])
def test_one_prediction_over_two_lesions(preset):
    # Two cubes of 27 voxels, columns 2-4 and 12-14, under one bar of 3 x 3 x 13 = 117 voxels. Each lesion is compared
    # with the whole bar: Dice 2 * 27 / (27 + 117) = 0.375, and no component is left to be a false positive.
    rows = (3, 5), (3, 5)
    label, prediction = volume((*rows, (2, 4)), (*rows, (12, 14))), volume((*rows, (2, 14)))
    # The bar's far end lies 10 mm from either cube and is 9 of 2 * 9 + 4 * 39 = 174 faces, just over 5 %.
    check(label, prediction, preset, dice=0.375, hd95=10, f1=1, n=2, tp=2, fp=0, fn=0)


def test_two_predictions_on_one_lesion():
    # 3 x 3 x 9 = 81 voxels, of which two components of 27 are found: Dice 2 * 54 / (81 + 54).
    rows = (3, 5), (3, 5)
    label, prediction = volume((*rows, (2, 10))), volume((*rows, (2, 4)), (*rows, (8, 10)))
    result = lesionwise(label, prediction, ONE_MM, METS)
    assert result.dice == pytest.approx(0.8)
    assert (result.n_lesions, result.tp, result.fp, result.fn) == (1, 1, 0, 0)
    assert len(result.lesions[0].matched) == 2


def test_one_voxel_false_positive():
    label, prediction = volume(CUBE), volume(CUBE, (3, 3, 3))
    # It costs as much as a large one: 1 / (1 + 1), and the penalty once.
    check(label, prediction, METS, dice=0.5, hd95=374 / 2, f1=2 / 3, n=1, tp=1, fp=1, fn=0)
    check(label, prediction, MIST, dice=0.5, hd95=DIAGONAL / 2, f1=2 / 3, n=1, tp=1, fp=1, fn=0)


def test_a_near_miss_is_found_with_dice_zero():
    # A voxel beside a face of the cube lies within its dilation: matched, though nothing overlaps.
    result = lesionwise(volume(CUBE), volume((15, 15, 17)), ONE_MM, METS)
    assert (result.tp, result.fp, result.fn, result.dice) == (1, 0, 0, 0.0)
    assert 0 < result.hd95 < 374
    # One beyond the cube's corner does not: the dilation has no corners (18-neighbourhood).
    result = lesionwise(volume(CUBE), volume((17, 17, 17)), ONE_MM, METS)
    assert (result.tp, result.fp, result.fn) == (0, 1, 1)


def test_voxels_that_touch_at_a_corner():
    # One component of two under 26 neighbours, two components under 18.
    prediction = volume((3, 3, 3), (4, 4, 4))
    assert lesionwise(volume(CUBE), prediction, ONE_MM, METS).fp == 1
    assert lesionwise(volume(CUBE), prediction, ONE_MM, MIST).fp == 2


def test_glioma_threshold_is_strict():
    fifty, more = ((3, 7), (3, 7), (3, 4)), (2, 5, 3)
    # 50 voxels are dropped, which leaves neither lesion nor false positive; 51 are kept.
    check(volume(fifty), volume(), GLI, dice=1, hd95=0, f1=1, n=0, tp=0, fp=0, fn=0)
    check(volume(fifty, more), volume(), GLI, dice=0, hd95=374, f1=0, n=1, tp=0, fp=0, fn=1)


def test_threshold_is_a_volume_not_a_number_of_voxels():
    three = volume((3, 3, (3, 5)))
    assert lesionwise(three, three, ONE_MM, METS).n_lesions == 1
    assert lesionwise(three, three, (0.5, 1.0, 1.0), METS).n_lesions == 0


@pytest.mark.parametrize("preset", LESIONWISE_PRESETS)
def test_nothing_anywhere(preset):
    check(volume(), volume(), preset, dice=1, hd95=0, f1=1, n=0, tp=0, fp=0, fn=0)


def test_only_false_positives():
    check(volume(), volume(CUBE), METS, dice=0, hd95=374, f1=0, n=0, tp=0, fp=1, fn=0)


def test_without_surface():
    result = lesionwise(volume(CUBE), volume(CUBE), ONE_MM, METS, with_surface=False)
    assert result.dice == 1.0
    assert math.isnan(result.hd95)


@pytest.mark.parametrize("preset", [METS, MIST])
def test_components_equal_cc3d(preset):
    import cc3d

    prediction = np.random.default_rng(0).random((15, 15, 15)) < 0.1
    expected = cc3d.connected_components(prediction, connectivity=LESIONWISE_PRESETS[preset].connectivity).max()
    assert lesionwise(np.zeros_like(prediction), prediction, ONE_MM, preset).fp == expected


def neighbours(connectivity):
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    return [step for step in itertools.product((-1, 0, 1), repeat=3) if 0 < sum(map(abs, step)) <= reach]


def add(voxel, step):
    return voxel[0] + step[0], voxel[1] + step[1], voxel[2] + step[2]


def flood(voxels, connectivity):
    left, found, steps = set(voxels), [], neighbours(connectivity)
    while left:
        front = [left.pop()]
        part = set(front)
        while front:
            voxel = front.pop()
            for step in steps:
                other = add(voxel, step)
                if other in left:
                    left.remove(other)
                    part.add(other)
                    front.append(other)
        found.append(part)
    return found


def dilated(voxels, times):
    steps = neighbours(18)
    for _ in range(times):
        voxels = voxels | {(z + dz, y + dy, x + dx) for z, y, x in voxels for dz, dy, dx in steps}
    return voxels


def as_mask(voxels, shape):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(np.array(sorted(voxels)).T)] = True
    return mask


def robust_distance(lesion, found, shape, spacing):
    import surface_distance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        elements = surface_distance.compute_surface_distances(as_mask(lesion, shape), as_mask(found, shape), spacing)
        return surface_distance.compute_robust_hausdorff(elements, 95)


def brute_force(label, prediction, spacing, rules):
    """The same rules with sets of voxels, one after another; dilations may leave the volume."""
    shape = label.shape
    wanted, components = (set(map(tuple, np.argwhere(mask).tolist())) for mask in (label, prediction))
    components = flood(components, rules.connectivity)
    groups = flood(dilated(wanted, rules.merge_dilation), rules.connectivity)
    lesions = [group & wanted for group in groups]
    penalty = rules.empties.hd95_penalty
    if penalty is None:
        penalty = math.sqrt(sum((size * step) ** 2 for size, step in zip(shape, spacing, strict=True)))
    dice, distances, tp, excused = [], [], 0, set()
    for lesion in lesions:
        matched = {at for at, part in enumerate(components) if part & dilated(lesion, rules.dilation)}
        size = len(lesion) * math.prod(spacing)
        kept = size >= rules.min_volume if rules.keep_at_threshold else size > rules.min_volume
        if kept or rules.match_dropped:
            excused |= matched
        if not kept:
            continue
        found = set().union(*(components[at] for at in matched))
        tp += bool(matched)
        dice.append(2 * len(lesion & found) / (len(lesion) + len(found)))
        distances.append(robust_distance(lesion, found, shape, spacing) if found else penalty)
    fp, n = len(components) - len(excused), len(dice)
    if n + fp == 0:
        return 1.0, 0.0, 1.0, 0, 0, 0, 0
    fn = n - tp
    return (
        sum(dice) / (n + fp),
        (sum(distances) + fp * penalty) / (n + fp),
        2 * tp / (2 * tp + fp + fn),
        n,
        tp,
        fp,
        fn,
    )


@pytest.mark.parametrize("preset", LESIONWISE_PRESETS)
@pytest.mark.parametrize("seed", range(3))
def test_equals_brute_force(preset, seed):
    generator = np.random.default_rng(seed)
    shape = (11, 14, 12)
    # Lesions of all sizes: random voxels, grown where chance has put a seed of a larger one.
    label, prediction = np.zeros((2, *shape), dtype=bool)
    for mask in (label, prediction):
        mask |= generator.random(shape) < 0.008
        for corner in generator.integers(0, (8, 10, 9), (2, 3)):
            mask[tuple(slice(int(start), int(start + generator.integers(1, 5))) for start in corner)] = True
    prediction |= np.roll(label, 1, 2) & (generator.random(shape) < 0.5)
    spacing = (1.0, 1.25, 0.75)
    result = lesionwise(label, prediction, spacing, preset)
    found = (result.dice, result.hd95, result.f1, result.n_lesions, result.tp, result.fp, result.fn)
    assert found == pytest.approx(brute_force(label, prediction, spacing, LESIONWISE_PRESETS[preset]))


@pytest.mark.parametrize("preset", [METS, MIST])
def test_planar_stack_equals_its_slices(preset):
    generator = np.random.default_rng(5)
    label, prediction = generator.random((2, 6, 15, 15)) < 0.12
    spacing = (4.0, 1.0, 1.5)
    stack = lesionwise(label, prediction, spacing, preset, planar=True)
    slices = [lesionwise(label[at : at + 1], prediction[at : at + 1], spacing, preset, planar=True) for at in range(6)]
    assert stack.tp == sum(part.tp for part in slices)
    assert stack.fp == sum(part.fp for part in slices)
    assert stack.fn == sum(part.fn for part in slices)
    weights = [part.n_lesions + part.fp for part in slices]
    assert stack.dice == pytest.approx(np.average([part.dice for part in slices], weights=weights))
    assert stack.hd95 == pytest.approx(np.average([part.hd95 for part in slices], weights=weights))


def test_planar_lesions_are_measured_by_area():
    # Three pixels of 1 x 0.6 mm are 1.8 mm², below 2; a slice distance of 5 mm does not enter.
    label = volume((3, 3, (3, 5)))
    assert lesionwise(label, label, (5.0, 1.0, 0.6), METS, planar=True).n_lesions == 0
    assert lesionwise(label, label, (5.0, 1.0, 0.6), METS).n_lesions == 1


def test_planar_lesions_of_neighbouring_slices_are_two():
    label = volume(((3, 4), (3, 6), (3, 6)))
    assert lesionwise(label, label, ONE_MM, METS, planar=True).n_lesions == 2
    assert lesionwise(label, label, ONE_MM, METS).n_lesions == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([METS, MIST]))
def test_missing_a_lesion_never_improves_a_metric(seed, preset):
    # Lesions in cells of 9 voxels that nothing joins; each prediction is a box that touches its own lesion only.
    generator = np.random.default_rng(seed)
    label, prediction = np.zeros((2, 9, 18, 27), dtype=bool)
    finds = []
    for row, column in itertools.product((0, 9), (0, 9, 18)):
        start, size = generator.integers(2, 4, 3), generator.integers(1, 4, 3)
        corner = start + np.array([0, row, column])
        label[tuple(slice(at, at + step) for at, step in zip(corner, size, strict=True))] = True
        if generator.random() < 0.8:
            moved = corner + generator.integers(0, size)
            box = tuple(slice(at, at + int(generator.integers(1, 3))) for at in moved)
            prediction[box] = True
            # Whether a lesion below the threshold is found is not scored.
            if math.prod(size) > 2:
                finds.append(box)
    before = lesionwise(label, prediction, ONE_MM, preset)
    for box in finds:
        without = prediction.copy()
        without[box] = False
        after = lesionwise(label, without, ONE_MM, preset)
        assert after.dice <= before.dice
        assert after.hd95 >= before.hd95
        assert after.f1 < before.f1


def test_large_volume_is_fast():
    generator = np.random.default_rng(0)
    label = np.zeros((155, 240, 240), dtype=bool)
    for position in range(12):
        corner = (20 + 10 * position, 30 + 40 * (position % 4), 30 + 60 * (position % 3))
        label[tuple(slice(at, at + 12) for at in corner)] = True
    prediction = np.roll(label, (1, 2, 0), (0, 1, 2)) & (generator.random(label.shape) < 0.95)
    start = time.process_time()
    result = lesionwise(label, prediction, ONE_MM, METS)
    assert time.process_time() - start < 3.0
    assert (result.n_lesions, result.tp) == (12, 12)


def test_presets_can_be_overridden():
    rules = LesionwiseConfig.preset(METS, min_volume=30.0)
    assert rules.connectivity == 26
    assert lesionwise(volume(CUBE), volume(CUBE), ONE_MM, rules).n_lesions == 0
    with pytest.raises(UsageError, match="brats2023-mets"):
        lesionwise(volume(), volume(), ONE_MM, "brats")
    with pytest.raises(UsageError, match="6, 18 or 26"):
        LesionwiseConfig.preset(METS, connectivity=8)
    with pytest.raises(UsageError, match="negative"):
        LesionwiseConfig.preset(METS, dilation=-1)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        lesionwise(volume(), volume()[:5], ONE_MM)
