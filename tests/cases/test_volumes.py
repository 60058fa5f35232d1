from __future__ import annotations

import bz2
import gzip
import pickle
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from metaseg.cases.volumes import ImageStack, MatStack, NiftiVolume, volume_from_file
from metaseg.errors import DataError

SHAPE = (5, 6, 7)


def ramp(shape: tuple[int, ...] = SHAPE, dtype: str = "int16") -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def affine_of(codes: str, spacing: tuple[float, float, float] = (1.0, 1.5, 3.0)) -> np.ndarray:
    """Voxel-to-world matrix whose columns point the way that ``codes`` say."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, code in enumerate(codes):
        row = next(row for row, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[row, column] = spacing[column] * (1 if code in "RAS" else -1)
    affine[:3, 3] = (11, -7, 5)
    return affine


def oblique_affine() -> np.ndarray:
    """An LPS grid, turned by 20 and 12 degrees and with voxels of three sizes."""
    a, b = np.deg2rad([20, 12])
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn_z @ turn_x @ np.diag([-0.9, -1.1, 4.0])
    affine[:3, 3] = (80, 90, -40)
    return affine


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> NiftiVolume:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return NiftiVolume(path)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "SAR", "PIL", "ARI"])
def test_reading_equals_nibabels_closest_canonical(tmp_path: Path, codes: str) -> None:
    volume = write_nifti(tmp_path / "x.nii.gz", ramp(), affine_of(codes))
    canonical = nib.as_closest_canonical(nib.load(volume.path))
    np.testing.assert_array_equal(volume.read(), np.asarray(canonical.dataobj).transpose(2, 1, 0))
    assert volume.geometry().axis_codes == codes
    np.testing.assert_allclose(volume.geometry().canonical_affine, canonical.affine)
    np.testing.assert_allclose(volume.geometry().spacing, canonical.header.get_zooms()[::-1])


@pytest.mark.parametrize("affine", [affine_of("RAS"), affine_of("LPS"), affine_of("SPL"), oblique_affine()])
def test_the_way_back_restores_the_files_grid(tmp_path: Path, affine: np.ndarray) -> None:
    volume = write_nifti(tmp_path / "x.nii.gz", ramp(), affine)
    geometry = volume.geometry()
    np.testing.assert_array_equal(geometry.from_canonical(volume.read()), ramp())
    np.testing.assert_allclose(np.asarray(geometry.affine), affine, atol=1e-5)
    assert volume.read().shape == geometry.canonical_shape


def test_a_voxel_keeps_its_place_in_the_world(tmp_path: Path) -> None:
    array = np.zeros(SHAPE, np.uint8)
    array[1, 4, 2] = 1
    volume = write_nifti(tmp_path / "x.nii", array, oblique_affine())
    (z,), (y,), (x,) = np.nonzero(volume.read())
    world = volume.geometry().canonical_affine @ (x, y, z, 1)
    np.testing.assert_allclose(world, oblique_affine() @ (1, 4, 2, 1), atol=1e-4)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "uint16", "float32"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_number_type_is_the_files(tmp_path: Path, dtype: str, suffix: str) -> None:
    volume = write_nifti(tmp_path / f"x{suffix}", ramp(dtype=dtype))
    assert volume.read().dtype == np.dtype(dtype)


def test_scaled_values_are_scaled(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "x.nii.gz")
    # nibabel's fdata is the reference for what the header's scaling means.
    expected = nib.load(tmp_path / "x.nii.gz").get_fdata().transpose(2, 1, 0)
    np.testing.assert_allclose(NiftiVolume(tmp_path / "x.nii.gz").read(), expected)


def test_big_endian_files_come_in_native_order(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nib.save(nib.Nifti1Image(ramp(), np.eye(4), header), tmp_path / "x.nii")
    array = NiftiVolume(tmp_path / "x.nii").read()
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, ramp().transpose(2, 1, 0))


def test_bzip2_nifti2_and_wrongly_named_files(tmp_path: Path) -> None:
    write_nifti(tmp_path / "x.nii", ramp())
    content = (tmp_path / "x.nii").read_bytes()
    (tmp_path / "x.nii.bz2").write_bytes(bz2.compress(content))
    (tmp_path / "packed.nii").write_bytes(gzip.compress(content))
    nib.save(nib.Nifti2Image(ramp(), np.eye(4)), tmp_path / "two.nii.gz")
    for name in ("x.nii.bz2", "packed.nii", "two.nii.gz"):
        volume = NiftiVolume(tmp_path / name)
        assert volume.geometry().shape == SHAPE
        np.testing.assert_array_equal(volume.read(), ramp().transpose(2, 1, 0))


def test_a_channel_of_a_4d_file(tmp_path: Path) -> None:
    array = ramp((*SHAPE, 4), "float32")
    write_nifti(tmp_path / "x.nii.gz", array)
    for channel in range(4):
        volume = NiftiVolume(tmp_path / "x.nii.gz", channel)
        assert volume.geometry().shape == SHAPE
        np.testing.assert_array_equal(volume.read(), array[..., channel].transpose(2, 1, 0))


def test_a_rewritten_4d_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.nii"
    write_nifti(path, np.zeros((*SHAPE, 2), np.uint8))
    assert NiftiVolume(path, 0).read().max() == 0
    write_nifti(path, np.ones((*SHAPE, 3), np.uint8))
    assert NiftiVolume(path, 0).read().max() == 1


def test_two_dimensions_and_a_single_channel_count_as_three(tmp_path: Path) -> None:
    assert write_nifti(tmp_path / "a.nii", ramp((5, 6))).read().shape == (1, 6, 5)
    assert write_nifti(tmp_path / "b.nii", ramp((5, 6, 7, 1))).read().shape == (7, 6, 5)


@pytest.mark.parametrize(
    ("shape", "channel", "hint"),
    [((5, 6, 7, 4), None, "3-D"), ((5, 6, 7, 2), 2, "3 volumes"), ((2, 2, 2, 2, 2), 0, "4-D")],
)
def test_wrong_dimensions(tmp_path: Path, shape: tuple[int, ...], channel: int | None, hint: str) -> None:
    write_nifti(tmp_path / "x.nii", ramp(shape))
    with pytest.raises(DataError, match=hint):
        NiftiVolume(tmp_path / "x.nii", channel).read()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nii.bz2"])
@pytest.mark.parametrize("keep", [0, 2, 100, 0.5, 0.98])
def test_truncated_files(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"x{suffix}"
    write_nifti(path, np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match="cannot be read") as caught:
        NiftiVolume(path).read()
    assert caught.value.where == path


def test_a_flipped_bit_in_a_gz_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.nii.gz"
    write_nifti(path, np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        NiftiVolume(path).read()


@pytest.mark.parametrize("content", [b"<html>not found</html>" * 40, b"\x00" * 1000, b"\x1f\x8b not gzip" * 60])
def test_other_content_in_a_nifti_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.nii.gz"
    path.write_bytes(content)
    for act in (NiftiVolume(path).geometry, NiftiVolume(path).read):
        with pytest.raises(DataError, match="cannot be read"):
            act()


def test_missing_file_and_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        NiftiVolume(tmp_path / "no.nii.gz").geometry()
    with pytest.raises(DataError, match="cannot be read"):
        NiftiVolume(tmp_path).read()
    with pytest.raises(DataError, match="does not exist"):
        ImageStack((tmp_path / "no.png",)).read()
    with pytest.raises(DataError, match="does not exist"):
        MatStack((tmp_path / "1.mat",), "image").read()


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_colours_and_complex_numbers_are_refused(tmp_path: Path, dtype: np.dtype) -> None:
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, dtype), np.eye(4)), tmp_path / "x.nii")
    with pytest.raises(DataError, match="one real number"):
        NiftiVolume(tmp_path / "x.nii").read()


@pytest.mark.parametrize("rows", [np.full((3, 4), np.nan), np.zeros((3, 4)), np.ones((3, 4))])
def test_unusable_orientation(tmp_path: Path, rows: np.ndarray) -> None:
    header = nib.Nifti1Image(ramp(), np.eye(4)).header
    header["sform_code"], header["vox_offset"], header["magic"] = 1, 352, b"n+1"
    for name, row in zip(("srow_x", "srow_y", "srow_z"), rows, strict=True):
        header[name] = row
    # Written by hand: the library would put the matrix right.
    (tmp_path / "x.nii").write_bytes(header.binaryblock + bytes(4) + ramp().tobytes())
    with pytest.raises(DataError, match="no usable orientation"):
        NiftiVolume(tmp_path / "x.nii").geometry()


def test_volumes_are_hashable_and_picklable(tmp_path: Path) -> None:
    for volume in (NiftiVolume(tmp_path, 1), ImageStack((tmp_path,), 0.5), MatStack((tmp_path,), "image")):
        assert pickle.loads(pickle.dumps(volume)) == volume
        assert len({volume, pickle.loads(pickle.dumps(volume))}) == 1


def test_image_stack_turns_rows_to_the_canonical_frame(tmp_path: Path) -> None:
    images = [ramp((4, 6), "uint8"), ramp((4, 6), "uint8") + 100]
    paths = tuple(tmp_path / f"{index}.png" for index in range(2))
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    stack = ImageStack(paths, pixel_mm=0.5)
    # The upper row of a picture is the front of the head; in the canonical frame rows run from back to front.
    np.testing.assert_array_equal(stack.read(), np.stack(images)[:, ::-1])
    geometry = stack.geometry()
    assert geometry.canonical_shape == stack.read().shape == (2, 4, 6)
    assert geometry.spacing[1:] == (0.5, 0.5)
    assert geometry.planar
    np.testing.assert_array_equal(geometry.from_canonical(stack.read()).transpose(2, 1, 0), np.stack(images))
    assert ImageStack(paths).geometry().unit == "pixel"


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "CMYK"])
def test_every_colour_mode_becomes_luminance(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(np.full((8, 8), 120, np.uint8))
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    grey.convert(mode).save(path)
    array = ImageStack((path,)).read()
    assert array.dtype == np.uint8
    assert array.shape == (1, 8, 8)
    np.testing.assert_allclose(array, 120, atol=1)


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((4, 4), 120, np.uint8)).convert("P")
    image.save(tmp_path / "x.png", transparency=bytes([0, 255, 10]))
    np.testing.assert_allclose(ImageStack((tmp_path / "x.png",)).read(), 120, atol=1)


def test_luminance_weights(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (200, 100, 50)).save(tmp_path / "x.png")
    # ITU-R 601.
    assert ImageStack((tmp_path / "x.png",)).read().flat[0] == int(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


def test_sixteen_bit_images_keep_their_values(tmp_path: Path) -> None:
    image = ramp((40, 50), "uint16") * 30
    Image.fromarray(image).save(tmp_path / "x.png")
    np.testing.assert_array_equal(ImageStack((tmp_path / "x.png",)).read()[0, ::-1], image)


@pytest.mark.parametrize("name", ["one-bit.png", "zero-one.png", "zero-255.png", "red.png", "mask.jpg"])
def test_masks_become_zero_and_one(tmp_path: Path, name: str) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 16:] = 1
    image = {
        "one-bit.png": Image.fromarray(mask.astype(bool)),
        "zero-one.png": Image.fromarray(mask),
        "zero-255.png": Image.fromarray(mask * 255),
        "red.png": Image.fromarray(np.stack([mask * 255, mask * 0, mask * 0], axis=-1)),
        "mask.jpg": Image.fromarray(mask * 255),
    }[name]
    image.save(tmp_path / name)
    array = ImageStack((tmp_path / name,), binary=True).read()
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array[0, ::-1], mask)


def test_a_mask_of_several_values_is_refused(tmp_path: Path) -> None:
    Image.fromarray(ramp((4, 4), "uint8")).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="16 different values"):
        ImageStack((tmp_path / "x.png",), binary=True).read()


def test_one_bit_images_as_grey_are_numbers(tmp_path: Path) -> None:
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "x.png")
    assert ImageStack((tmp_path / "x.png",)).read().dtype == np.uint8


def test_slices_of_another_shape_are_refused(tmp_path: Path) -> None:
    for name, size in (("a.png", (4, 4)), ("b.png", (4, 5))):
        Image.new("L", size).save(tmp_path / name)
    with pytest.raises(DataError, match="shape") as caught:
        ImageStack((tmp_path / "a.png", tmp_path / "b.png")).read()
    assert caught.value.where == tmp_path / "b.png"


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9])
def test_truncated_images(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(DataError, match="cannot be read"):
        ImageStack((path,)).read()


def write_mat(path: Path, image: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["cjdata/image"] = image.T


def test_mat_stack_is_transposed_and_turned(tmp_path: Path) -> None:
    image = ramp((4, 6))
    write_mat(tmp_path / "1.mat", image)
    write_mat(tmp_path / "2.mat", image + 1)
    stack = MatStack((tmp_path / "1.mat", tmp_path / "2.mat"), "image")
    np.testing.assert_array_equal(stack.read(), np.stack([image, image + 1])[:, ::-1])
    assert stack.geometry().canonical_shape == (2, 4, 6)
    assert stack.read().dtype == np.int16


def test_bad_mat_files(tmp_path: Path) -> None:
    write_mat(tmp_path / "1.mat", ramp((4, 6)))
    with pytest.raises(DataError, match="cannot be read"):
        MatStack((tmp_path / "1.mat",), "tumorMask").read()
    with h5py.File(tmp_path / "2.mat", "w") as file:
        file["other"] = 1
    with pytest.raises(DataError, match="cjdata"):
        MatStack((tmp_path / "2.mat",), "image").geometry()
    (tmp_path / "3.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(500))
    with pytest.raises(DataError, match=r"MATLAB v7\.3"):
        MatStack((tmp_path / "3.mat",), "image").read()
    write_mat(tmp_path / "4.mat", ramp((5, 6)))
    with pytest.raises(DataError, match="shape"):
        MatStack((tmp_path / "1.mat", tmp_path / "4.mat"), "image").read()


def test_volume_from_file_goes_by_suffix() -> None:
    assert volume_from_file(Path("a.nii.bz2"), 2) == NiftiVolume(Path("a.nii.bz2"), 2)
    assert volume_from_file(Path("a.PNG")) == ImageStack((Path("a.PNG"),))
    with pytest.raises(DataError, match=r"cannot read files named \.dcm"):
        volume_from_file(Path("a.dcm"))


@pytest.mark.parametrize("kind", ["nii", "nii.gz", "png", "jpg", "mat"])
def test_damaged_bytes_give_data_errors_only(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(7)
    image = rng.integers(0, 255, (24, 24)).astype(np.uint8)
    whole = tmp_path / f"whole.{kind}"
    if kind.startswith("nii"):
        write_nifti(whole, ramp())
    elif kind == "mat":
        write_mat(whole, image)
    else:
        Image.fromarray(image).save(whole)
    content = whole.read_bytes()
    damaged = tmp_path / f"damaged.{kind}"
    refused = 0
    for attempt in range(60):
        changed = bytearray(content)
        # Every other time in the header, where numbers steer the reading.
        end = min(400, len(changed)) if attempt % 2 else len(changed)
        for position in rng.integers(0, end, 3):
            changed[position] = rng.integers(0, 256)
        damaged.write_bytes(changed)
        volume = MatStack((damaged,), "image") if kind == "mat" else volume_from_file(damaged)
        try:
            assert volume.read().shape == volume.geometry().canonical_shape
        except DataError:
            refused += 1
    assert refused > 0
