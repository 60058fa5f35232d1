import numpy as np

from metaseg.metrics.overlap import bounding_box, grown, united


def test_box_holds_the_mask_and_no_more():
    mask = np.zeros((6, 7, 8), dtype=bool)
    mask[1, 2, 3] = mask[3, 5, 3] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 6), slice(3, 4))


def test_margin_stops_at_the_border():
    mask = np.zeros((6, 7, 8), dtype=bool)
    mask[0, 6, 3] = True
    assert bounding_box(mask, margin=2) == (slice(0, 3), slice(4, 7), slice(1, 6))


def test_empty_mask_has_no_box():
    assert bounding_box(np.zeros((3, 3), dtype=bool)) is None


def test_grown_and_united():
    assert grown((slice(1, 3),), 5, (6,)) == (slice(0, 6),)
    assert united([(slice(1, 3), slice(4, 5)), (slice(2, 9), slice(0, 1))]) == (slice(1, 9), slice(0, 5))
