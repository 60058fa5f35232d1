"""Grid checks against nibabel's own coordinates and closed forms."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine

from metaseg.cases.check.inspect import implausible_spacing, tilt_degrees
from metaseg.cases.geometry import Geometry, corner_distance


def turn(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    matrix = np.eye(4)
    matrix[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


@pytest.mark.parametrize("seed", range(4))
def test_corner_distance_is_the_largest_over_all_voxels(seed):
    rng = np.random.default_rng(seed)
    first = turn(4) @ np.diag([1.0, 2.0, 3.0, 1.0])
    second = first + rng.normal(0, 0.01, (4, 4)) * [[1], [1], [1], [0]]
    shape = (4, 5, 6)
    voxels = np.argwhere(np.ones(shape))
    expected = np.linalg.norm(apply_affine(first, voxels) - apply_affine(second, voxels), axis=1).max()
    found = corner_distance(Geometry.from_affine(shape, first), Geometry.from_affine(shape, second))
    assert found == pytest.approx(expected, rel=1e-9)


def test_corner_distance_ignores_the_storage_order():
    image = nib.Nifti1Image(np.zeros((4, 5, 6)), np.diag([-1.0, -2.0, 3.0, 1.0]))
    turned = image.as_reoriented([[2, -1], [0, 1], [1, -1]])
    first, second = (Geometry.from_affine(each.shape, each.affine) for each in (image, turned))
    assert first.shape != second.shape
    assert corner_distance(first, second) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("degrees", [0.0, 0.5, 30.0, 44.0])
def test_tilt_is_the_angle_of_a_rotation(degrees):
    geometry = Geometry.from_affine((4, 4, 4), turn(degrees) @ np.diag([-1.0, 2.0, 5.0, 1.0]))
    assert tilt_degrees(geometry) == pytest.approx(degrees, abs=1e-5)


def test_sheared_axes_are_tilted():
    affine = np.eye(4)
    affine[0, 1] = np.tan(np.radians(3))
    assert tilt_degrees(Geometry.from_affine((4, 4, 4), affine)) == pytest.approx(3)


@pytest.mark.parametrize(("size", "expected"), [(0.04, True), (0.05, False), (20.0, False), (20.1, True)])
def test_spacing_limits(size, expected):
    assert implausible_spacing(Geometry.from_affine((4, 4, 4), np.diag([1, size, 1, 1.0]))) is expected


def test_pixels_without_size_are_not_judged():
    assert not implausible_spacing(Geometry.from_stack(3, 10, 10))
