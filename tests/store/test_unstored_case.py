"""A case in memory is the stored case, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from metaseg.cases.phantoms.write import make_phantoms
from metaseg.cases.readers import read_cases
from metaseg.errors import DataError
from metaseg.store.prepare_case import PrepareOptions, prepare_case, read_unstored
from metaseg.store.stored_case import StoredCase


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    (folder,) = make_phantoms(tmp_path_factory.mktemp("phantoms"), cases=1)
    return replace(read_cases(folder)[0], label=None)


@pytest.mark.parametrize("image_size", [None, 40])
@pytest.mark.parametrize("threads", [1, 3])
def test_everything_is_as_stored(phantom, tmp_path, image_size, threads):
    options = PrepareOptions(("t2", "flair", "t1ce"), image_size)
    prepare_case(phantom, options, tmp_path / "case")
    stored, unstored = StoredCase(tmp_path / "case"), read_unstored(phantom, options, threads)
    assert unstored.info == stored.info
    assert unstored.raw_images.dtype == stored.raw_images.dtype
    np.testing.assert_array_equal(unstored.raw_images, stored.raw_images)
    chosen = np.arange(2, 7)
    np.testing.assert_array_equal(unstored.images(chosen, ("flair", "t2")), stored.images(chosen, ("flair", "t2")))
    assert unstored.num_slices == stored.num_slices
    assert unstored.native_slice(0) == stored.native_slice(0)


def test_a_label_is_refused_and_absent(phantom, tmp_path):
    with pytest.raises(ValueError, match="has a label"):
        read_unstored(replace(phantom, label=phantom.images["t1"]), PrepareOptions(("t1",)))
    with pytest.raises(DataError, match="has no label"):
        read_unstored(phantom, PrepareOptions(("t1",))).labels(slice(None))


def failure(case, threads: int) -> DataError:
    with pytest.raises(DataError) as found:
        case.read_images(("flair", "t1", "t1ce", "t2"), threads)
    return found.value


def damage(path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "shape":
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)
    else:
        image = nib.load(path)
        values = np.asarray(image.dataobj, dtype=np.float32)
        values[3, 3, 3] = np.nan
        nib.save(nib.Nifti1Image(values, image.affine), path)


@pytest.mark.parametrize("how", ["missing", "truncated", "shape", "not finite"])
def test_threads_raise_what_one_thread_raises(tmp_path, how):
    (folder,) = make_phantoms(tmp_path, cases=1)
    (case,) = read_cases(folder)
    # Two damaged files: the first in order is the one that is told of.
    for name in ("t1", "t2"):
        damage(case.images[name].files[0], how)
    alone, together = failure(case, 1), failure(case, 4)
    assert str(together) == str(alone)
    assert together.where == case.images["t1"].files[0]
    assert together.exit_code == alone.exit_code
