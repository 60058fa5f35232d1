"""Pictures that were saved again are found; pictures of other heads are not."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter

from metaseg.cases.pictures import MOST_DIFFERENT, _close_pairs, near_copy_groups, perceptual_hash
from metaseg.errors import DataWarning


def head(seed: int, size: tuple[int, int] = (200, 160)) -> Image.Image:
    """Smooth blobs, different for every seed."""
    noise = np.random.default_rng(seed).normal(size=(24, 20))
    smooth = gaussian_filter(noise, 1.5)
    grey = ((smooth - smooth.min()) / np.ptp(smooth) * 200 + 20).astype(np.uint8)
    return Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)


COPIES = {
    "coded again.jpg": lambda image: image,
    "colour.png": lambda image: image.convert("RGB"),
    "palette.gif": lambda image: image.convert("P"),
    "alpha.png": lambda image: image.convert("LA"),
    "smaller.png": lambda image: image.resize((100, 80)),
    "larger.jpg": lambda image: image.resize((500, 400)),
    "brighter.png": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "darker.jpg": lambda image: image.point(lambda value: value - 15),
    "deeper.png": lambda image: Image.fromarray(np.asarray(image).astype(np.uint16) * 12),
    "moved.png": lambda image: image.transform(image.size, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0)),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_picture_saved_again_is_a_near_copy(tmp_path: Path, name: str) -> None:
    first, copy, other = tmp_path / "0.png", tmp_path / name, tmp_path / "x.png"
    head(1).save(first)
    COPIES[name](head(1)).save(copy)
    head(2).save(other)
    assert near_copy_groups([first, other, copy]) == {first: first, other: other, copy: first}


def test_a_turned_file_is_a_copy_of_its_upright_picture(tmp_path: Path) -> None:
    head(1).save(tmp_path / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    head(1).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "1.jpg", exif=exif)
    files = [tmp_path / "0.png", tmp_path / "1.jpg"]
    assert set(near_copy_groups(files).values()) == {files[0]}


def test_damaged_and_flat_files_are_alone(tmp_path: Path) -> None:
    whole = tmp_path / "0.jpg"
    head(1).save(whole)
    content = whole.read_bytes()
    (tmp_path / "1.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "2.jpg").write_bytes(b"")
    (tmp_path / "3.png").write_text("no picture")
    for number in (4, 5):
        Image.new("L", (50, 50), 7).save(tmp_path / f"{number}.png")
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(tmp_path / "6.tif")
    files = [*sorted(tmp_path.iterdir()), tmp_path / "absent.png"]
    assert near_copy_groups(files) == {file: file for file in files}
    assert near_copy_groups([]) == {}


def test_groups_are_chains_and_independent_of_threads(tmp_path: Path) -> None:
    files = []
    for number in range(12):
        files.append(tmp_path / f"{number:02}.jpg")
        head(number % 4).save(files[-1], quality=95 - 5 * (number // 4))
    groups = near_copy_groups(files, threads=1)
    assert groups == near_copy_groups(files, threads=4)
    assert groups == {file: files[number % 4] for number, file in enumerate(files)}


def test_pairs_agree_with_counting_signs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2, (1100, 256)).astype(bool)
    for number in range(0, 1000, 2):
        hashes[number + 1] = hashes[number]
        hashes[number + 1, rng.permutation(256)[: number % 64]] ^= True
    rows, columns = _close_pairs(hashes)
    expected = Counter(
        (row, column)
        for row in range(len(hashes))
        for column in row + 1 + np.flatnonzero((hashes[row + 1 :] != hashes[row]).sum(1) <= MOST_DIFFERENT)
    )
    assert Counter(zip(rows.tolist(), columns.tolist(), strict=True)) == expected


def test_hash_has_256_signs(tmp_path: Path) -> None:
    head(1).save(tmp_path / "0.png")
    bits = perceptual_hash(tmp_path / "0.png")
    assert bits is not None
    assert (bits.shape, bits.dtype) == ((256,), np.dtype(bool))


def test_pictures_that_cannot_be_compared_are_named(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.warns(DataWarning, match=r"cut\.png"):
        assert perceptual_hash(tmp_path / "cut.png") is None
    with pytest.warns(DataWarning, match="a pipe"):
        assert perceptual_hash(tmp_path / "pipe.png") is None
