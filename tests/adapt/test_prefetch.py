from __future__ import annotations

import numpy as np
import pytest

from metaseg.adapt.metatune import Prefetch
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
    Prefetch(names).start(shot).result()
    assert len(cache) == 3
    assert cache.held == expected.nbytes
    shot.case._plain_images = None  # a read past the cache would fail
    np.testing.assert_array_equal(shot.case.images(shot.slices, names), expected)


def test_nothing_is_read_without_a_cache(shot):
    assert Prefetch(("t1",)).start(shot) is None


def test_errors_wait_for_the_reading_that_follows(shot):
    share_cache([shot.case], 1.0)
    future = Prefetch(("t9",)).start(shot)
    assert "lacks modality t9" in str(future.exception())
