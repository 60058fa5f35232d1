"""Pictures of every mode, turned and in several pages, as volumes read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaseg.cases.pictures import eight_bit
from metaseg.cases.volumes import ImageStack, image_size
from metaseg.errors import DataError


def ramp(dtype: type = np.uint8) -> np.ndarray:
    """Smooth, so that JPEG keeps it; no symmetry, so that every turn shows."""
    rows, columns = np.mgrid[:24, :32]
    return (3 * rows + 5 * columns).astype(dtype)


def read(path: Path) -> np.ndarray:
    """The pixels as viewers show them: the canonical frame counts rows from below."""
    array = ImageStack((path,)).read()[0, ::-1]
    assert image_size(path) == array.shape[::-1]
    return array


@pytest.mark.parametrize("name", ["L.png", "RGB.png", "RGBA.png", "LA.png", "P.png", "P.gif", "L.bmp", "RGB.tif"])
def test_grey_values_survive_every_mode(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(ramp()).convert(path.stem).save(path)
    np.testing.assert_array_equal(read(path), ramp())


@pytest.mark.parametrize("name", ["L.jpg", "RGB.jpg", "CMYK.jpg", "CMYK.tif", "YCbCr.jpg"])
def test_lossy_modes_are_close(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(ramp()).convert(path.stem).save(path)
    np.testing.assert_allclose(read(path).astype(int), ramp(), atol=4)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_are_kept(tmp_path: Path, name: str) -> None:
    Image.fromarray(ramp(np.uint16) * 200).save(tmp_path / name)
    array = read(tmp_path / name)
    np.testing.assert_array_equal(array, ramp(np.uint16) * 200)
    assert array.max() > 30_000


def test_a_colour_palette_with_transparency_makes_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    image = Image.fromarray(ramp()).convert("RGB").quantize(16)
    image.save(tmp_path / "x.png", transparency=3)
    assert read(tmp_path / "x.png").shape == (24, 32)
    assert not recwarn.list


TURNS = {
    1: lambda array: array,
    2: lambda array: array[:, ::-1],
    3: lambda array: array[::-1, ::-1],
    4: lambda array: array[::-1],
    5: lambda array: array.T,
    6: lambda array: np.rot90(array, 1),
    7: lambda array: array[::-1, ::-1].T,
    8: lambda array: np.rot90(array, -1),
}
"""EXIF orientation to how a camera held that way would have stored the upright picture."""


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", TURNS)
def test_pictures_are_turned_as_viewers_turn_them(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.ascontiguousarray(TURNS[orientation](ramp()))).save(path, exif=exif)
    np.testing.assert_allclose(read(path).astype(int), ramp(), atol=4)


@pytest.mark.parametrize(("orientation", "refused"), [(3, False), (6, True)])
def test_tiff_on_its_side_is_refused(tmp_path: Path, orientation: int, refused: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(TURNS[orientation](ramp()))).save(tmp_path / "x.tif", exif=exif)
    if refused:
        with pytest.raises(DataError, match="save it upright"):
            read(tmp_path / "x.tif")
    else:
        np.testing.assert_array_equal(read(tmp_path / "x.tif"), ramp())


@pytest.mark.parametrize("suffix", ["gif", "tif"])
def test_several_pictures_in_a_file_are_refused(tmp_path: Path, suffix: str) -> None:
    pages = [Image.fromarray(ramp() + number) for number in range(3)]
    path = tmp_path / f"x.{suffix}"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match="it holds 3 pictures where one is expected") as caught:
        ImageStack((path,)).read()
    assert caught.value.where == path


def test_eight_bits_of_deeper_pictures_span_dark_to_bright() -> None:
    grey = np.asarray(eight_bit(Image.fromarray(ramp(np.uint16) * 100 + 5)))
    assert (grey.min(), grey.max(), grey.dtype) == (0, 255, np.uint8)
