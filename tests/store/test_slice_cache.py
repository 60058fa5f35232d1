from __future__ import annotations

import threading

import numpy as np
import pytest

from metaseg.cases.readers import read_cases
from metaseg.store.prepare import build_store
from metaseg.store.prepare_case import PrepareOptions
from metaseg.store.stored_case import SliceCache, StoredCase, foreground, normalise_slice, share_cache

FOUR = ("flair", "t1", "t1ce", "t2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_cases):
    root = tmp_path_factory.mktemp("store")
    build_store(read_cases(write_cases(count=2)), root, PrepareOptions(FOUR), jobs=1)
    return root


@pytest.fixture
def cases(folder):
    return [StoredCase(path) for path in sorted((folder / "cases").iterdir())]


def textbook(raw, mean, sd, background):
    """The definition, one whole pass after the other."""
    scores = raw.astype(np.float32)
    scores -= np.asarray(mean, np.float32)[:, None, None]
    scores /= np.asarray(sd, np.float32)[:, None, None]
    scores[~foreground(raw, background)] = 0.0
    return scores


def same_bits(one, other):
    return one.dtype == other.dtype == np.float32 and np.array_equal(one.view(np.int32), other.view(np.int32))


class TestNormalise:
    @pytest.mark.parametrize("background", [0.0, 2.5, 5.0])
    @pytest.mark.parametrize("dtype", [np.int16, np.float32])
    def test_same_bits_as_the_definition(self, dtype, background):
        rng = np.random.default_rng(3)
        raw = rng.integers(-40, 60, (3, 17, 13)).astype(dtype)
        raw[rng.random(raw.shape) < 0.4] = 0
        raw[0, 0, :4] = [-32768, 32767, 5, 0]
        if dtype == np.float32:
            raw[1, :5] += rng.normal(0, 1e-3, (5, 13)).astype(np.float32)
            raw[2, 0, 0] = -0.0
        mean, sd = (31.7, -2.3, 0.0), (13.1, 1.0, 0.37)
        out = np.full(raw.shape, np.nan, np.float32)
        columns = [np.asarray(values, np.float32)[:, None, None] for values in (mean, sd)]
        normalise_slice(raw, *columns, background, out)
        assert same_bits(out, textbook(raw, mean, sd, background))

    def test_threshold_between_whole_numbers_is_not_rounded(self):
        raw, out = np.array([[[3]]], np.int16), np.empty((1, 1, 1), np.float32)
        one = np.ones((1, 1, 1), np.float32)
        normalise_slice(raw, one, one, 2.9999999999, out)
        assert out.item() == 2.0


class TestImages:
    @pytest.mark.parametrize("gigabytes", [0.0, 1.0])
    @pytest.mark.parametrize("modalities", [None, FOUR, ("t2", "flair"), ("t1ce",)])
    @pytest.mark.parametrize("chosen", [[3, 0, 3], np.array([1, -1]), slice(2, 9, 3), slice(None), []])
    def test_same_bits_with_and_without_cache(self, cases, gigabytes, modalities, chosen):
        case = cases[0]
        share_cache(cases, gigabytes)
        rows = [FOUR.index(name) for name in modalities or FOUR]
        raw = np.asarray(case.raw_images)[chosen][:, rows]
        mean, sd = ([values[row] for row in rows] for values in (case.info.mean, case.info.sd))
        expected = (
            np.stack([textbook(one, mean, sd, 0.0) for one in raw]) if len(raw) else np.empty(raw.shape, np.float32)
        )
        for _ in range(2):
            assert same_bits(case.images(chosen, modalities), expected)

    def test_what_the_caller_writes_does_not_reach_the_cache(self, cases):
        share_cache(cases, 1.0)
        first = cases[0].images([4])
        expected = first.copy()
        first[...] = -1.0
        again = cases[0].images([4])
        again[...] = -2.0
        assert same_bits(cases[0].images([4]), expected)

    def test_modalities_and_cases_are_told_apart(self, cases):
        cache = share_cache(cases, 1.0)
        seen = [case.images([4], names) for case in cases for names in (("t1",), ("t2",))]
        assert len(cache) == 4
        assert len({one.tobytes() for one in seen}) == 4

    def test_a_pass_through_whole_cases_leaves_nothing(self, cases):
        cache = share_cache(cases, 1.0)
        cases[0].images(slice(None), keep=False)
        assert cache.held == 0

    def test_index_beyond_the_case_fails(self, cases):
        with pytest.raises(IndexError):
            cases[0].images([cases[0].num_slices])


class TestSliceCache:
    def test_never_holds_more_than_its_limit(self, cases):
        size = cases[0].images([0]).nbytes
        cache = SliceCache(3 * size + size // 2)
        cases[0].cache = cache
        for index in np.random.default_rng(0).integers(cases[0].num_slices, size=40):
            cases[0].images([index])
            assert cache.held <= cache.limit
            assert cache.held == sum(array.nbytes for array in cache._arrays.values())
        assert len(cache) == 3

    def test_lets_go_of_what_was_not_used_for_longest(self):
        cache, array = SliceCache(3 * 8), np.zeros(1)
        for key in "abc":
            cache.put(key, array)
        cache.get("a")
        cache.put("d", array)
        assert [key for key in "abcd" if cache.get(key) is not None] == ["a", "c", "d"]

    def test_put_again_is_not_counted_twice(self):
        cache = SliceCache(100)
        for size in (4, 2, 8):
            cache.put("a", np.zeros(size))
        assert (len(cache), cache.held) == (1, 64)

    def test_array_beyond_the_limit_is_not_kept(self):
        cache = SliceCache(8)
        cache.put("small", np.zeros(1))
        cache.put("large", np.zeros(2))
        assert (len(cache), cache.held) == (1, 8)

    def test_zero_keeps_none(self, cases):
        assert share_cache(cases, 0.0) is None
        assert cases[0].cache is None

    def test_threads_get_the_right_slices(self, cases):
        case = cases[0]
        expected = case.images(slice(None))
        case.cache = SliceCache(5 * expected[0].nbytes)
        wrong = []

        def read(seed):
            for index in np.random.default_rng(seed).integers(case.num_slices, size=150):
                if not same_bits(case.images([index])[0], expected[index]):
                    wrong.append(index)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert case.cache.held == 5 * expected[0].nbytes
