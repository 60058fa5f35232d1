from __future__ import annotations

import bz2
import gzip
import os
import resource
import struct
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from metaseg.cases.case import Case
from metaseg.cases.file_checks import free_memory
from metaseg.cases.labels import label_scheme
from metaseg.cases.volumes import NiftiVolume
from metaseg.errors import DataError

VOXELS = np.arange(256, dtype=np.int16).reshape(8, 8, 4)
PLAIN = nib.Nifti1Image(VOXELS, np.eye(4)).to_bytes()


def claiming(*dimensions: int) -> bytes:
    """A file whose header claims other dimensions than the 8 x 8 x 4 that it holds."""
    content = bytearray(PLAIN)
    struct.pack_into("<8h", content, 40, *dimensions, *[1] * (8 - len(dimensions)))
    return bytes(content)


def claiming_nifti2(*dimensions: int) -> bytes:
    content = bytearray(nib.Nifti2Image(VOXELS, np.eye(4)).to_bytes())
    struct.pack_into("<8q", content, 16, *dimensions, *[1] * (8 - len(dimensions)))
    return bytes(content)


HUGE = claiming(3, 32767, 32767, 32767)
BAD = {
    "huge.nii": (HUGE, "claims"),
    "huge.nii.gz": (gzip.compress(HUGE), "claims"),
    "huge.nii.bz2": (bz2.compress(HUGE), "GiB of memory"),
    "huge2.nii": (claiming_nifti2(3, 2**40, 2**40, 2**40), "claims"),
    "negative.nii.gz": (gzip.compress(claiming(3, -8, 8, 4)), "shape"),
    "empty.nii.gz": (gzip.compress(claiming(3, 0, 8, 4)), "shape"),
    "channels.nii.gz": (gzip.compress(claiming(4, 8, 8, 4, 32767)), "shape|claims"),
    "seven.nii.gz": (gzip.compress(claiming(7, 2, 2, 2, 2, 2, 2, 4)), "shape"),
    "bomb.nii.gz": (gzip.compress(PLAIN + bytes(100_000_000), 1), "unpacks to more"),
    "bomb.nii.bz2": (bz2.compress(PLAIN + bytes(10_000_000), 1), "unpacks to more"),
    "bombs.nii.gz": (gzip.compress(PLAIN) + 20 * gzip.compress(bytes(1_000_000), 1), "unpacks to more"),
    "cut.nii.gz": (gzip.compress(PLAIN)[:-20], "cannot be read"),
    "checksum.nii.gz": (gzip.compress(PLAIN)[:-6] + b"abcdef", "cannot be read"),
}


@pytest.mark.parametrize(("name", "content", "words"), [(name, *bad) for name, bad in BAD.items()], ids=list(BAD))
def test_what_a_file_claims_is_not_believed(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=words) as told:
        NiftiVolume(tmp_path / name).read()
    assert told.value.where == tmp_path / name
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kB


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(PLAIN + b"a footer"),
        gzip.compress(PLAIN[:500]) + gzip.compress(PLAIN[500:]),
        gzip.compress(PLAIN) + bytes(100),
        bz2.compress(PLAIN[:500]) + bz2.compress(PLAIN[500:]),
    ],
    ids=["footer", "two gzip members", "padding", "two bzip2 streams"],
)
def test_files_that_are_only_unusual_are_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.nii.gz").write_bytes(content)
    assert np.array_equal(NiftiVolume(tmp_path / "a.nii.gz").read().transpose(2, 1, 0), VOXELS)


@pytest.mark.parametrize("what", ["pipe", "device", "folder", "circle"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.nii.gz"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to(path)
    begun = time.monotonic()
    with pytest.raises(DataError):
        NiftiVolume(path).read()
    assert time.monotonic() - begun < 5


def test_a_case_that_does_not_fit_into_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.nii").write_bytes(PLAIN)
    case = Case("P7", "P7", "X", {"t1": NiftiVolume(tmp_path / "a.nii")}, None, label_scheme("brats"))
    monkeypatch.setattr("metaseg.cases.file_checks.free_memory", lambda: 100)
    with pytest.raises(DataError, match="case P7 needs"):
        case.read_images(("t1",))


def test_free_memory_is_told_on_linux() -> None:
    free = free_memory()
    assert free is None or 0 < free < 1 << 50
