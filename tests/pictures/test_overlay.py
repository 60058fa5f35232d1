import numpy as np
import pytest

from metaseg.cases.geometry import Geometry
from metaseg.cases.labels import SUBREGIONS, WHOLE_LESION
from metaseg.pictures.overlay import (
    CLASS_COLOURS,
    class_palette,
    contrast_limits,
    error_codes,
    for_display,
    grey_slice,
    outlines,
    paint,
    visible_part,
)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS"])
def test_display_is_radiological(codes):
    # A voxel at the patient's right front of any file must come out at the upper left.
    signs = [1 if axis in "RAS" else -1 for axis in codes]
    geometry = Geometry.from_affine((10, 12, 3), np.diag([*signs, 1]))
    array = np.zeros((10, 12, 3))
    array[9 if signs[0] > 0 else 0, 11 if signs[1] > 0 else 0, 1] = 1
    shown = for_display(geometry.to_canonical(array)[1])
    assert shown[0, 0] == 1


def test_photographed_slices_look_as_in_their_files():
    geometry = Geometry.from_stack(1, 4, 5)
    photograph = np.arange(20).reshape(4, 5)
    canonical = geometry.to_canonical(photograph.T[:, :, None])
    np.testing.assert_array_equal(for_display(canonical[0], mirror=False), photograph)


def test_palette_follows_the_paper():
    palette = class_palette(SUBREGIONS)
    assert palette.shape == (4, 3)
    red, green, blue = palette.T.astype(int)
    necrosis, edema, enhancing = 1, 2, 3
    assert green[necrosis] > max(red[necrosis], blue[necrosis])
    assert min(red[edema], green[edema]) > 2 * blue[edema]
    assert red[enhancing] > green[enhancing] > blue[enhancing]
    assert tuple(class_palette(WHOLE_LESION)[1]) == CLASS_COLOURS["ET"]


def test_overlay_colours_only_the_classes():
    image = np.linspace(0, 100, 400).reshape(20, 20)
    classes = np.zeros((20, 20), dtype=np.uint8)
    classes[5:15, 5:15] = 2
    picture = paint(grey_slice(image), classes, class_palette(SUBREGIONS), alpha=0.5)
    assert picture.dtype == np.uint8
    assert picture.shape == (20, 20, 3)
    outside = picture[classes == 0]
    assert np.all(outside == outside[:, :1])
    grey = grey_slice(image)
    expected = 0.5 * grey[10, 10] + 0.5 * np.array(CLASS_COLOURS["ED"])
    np.testing.assert_allclose(picture[10, 10], expected, atol=1)
    np.testing.assert_array_equal(paint(grey, np.zeros_like(classes), class_palette(SUBREGIONS))[..., 0], grey)


def test_outlines_lie_inside_the_classes():
    codes = np.zeros((9, 9), dtype=np.uint8)
    codes[2:7, 2:7] = 1
    border = outlines(codes)
    assert border.sum() == 16
    assert not border[3:6, 3:6].any()


def test_contrast_ignores_background_and_outliers():
    image = np.zeros(1000)
    image[:500] = np.linspace(100, 200, 500)
    image[499] = 1e6
    low, high = contrast_limits(image)
    assert 100 <= low < 105
    assert 195 < high <= 200
    assert grey_slice(np.full((3, 3), 7.0)).tolist() == [[0] * 3] * 3


def test_error_codes():
    label, prediction = np.array([0, 0, 1, 1, 3]), np.array([0, 2, 0, 1, 1])
    assert error_codes(label, prediction).tolist() == [0, 1, 2, 0, 3]


def test_visible_part_holds_the_tissue_with_room_at_the_sides():
    image = np.zeros((3, 100, 120))
    image[1, 30:60, 40:90] = 5
    rows, columns = visible_part(image)
    assert (rows.start, rows.stop) == (26, 64)
    assert columns.start < 40
    assert columns.stop > 90
    assert visible_part(np.zeros((2, 5, 6))) == (slice(0, 5), slice(0, 6))
