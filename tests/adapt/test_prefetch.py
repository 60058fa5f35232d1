from __future__ import annotations

import numpy as np
import pytest

from metaseg.adapt.metatune import read_into_cache
from metaseg.adapt.setup import Shot
from metaseg.store.prepare import open_data
from metaseg.store.stored_case import share_cache


@pytest.fixture
def shot(pretrained):
    case = open_data([pretrained["data"]], cache=pretrained["cache"]).cases[0]
    return Shot(case, np.array([2, 5, 3]))


def test_slices_wait_in_the_cache(shot):
    names = ("t1", "t2")
    expected = shot.case.images(shot.slices, names)
    cache = share_cache([shot.case], 1.0)
    read_into_cache(shot, names)
    assert len(cache) == 3
    assert cache.held == expected.nbytes
    shot.case._plain_images = None  # a read past the cache would fail
    np.testing.assert_array_equal(shot.case.images(shot.slices, names), expected)


def test_nothing_is_read_without_a_cache(shot):
    shot.case._plain_images = None  # a read would fail
    read_into_cache(shot, ("t1",))
