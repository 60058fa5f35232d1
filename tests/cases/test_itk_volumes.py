from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseg.cases.volumes import ItkVolume, NiftiVolume, volume_from_file
from metaseg.errors import DataError

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")


def image_of(turn: tuple[float, float, float], order: tuple[int, ...], flips: tuple[int, ...]) -> sitk.Image:
    """An image of 4 x 5 x 3 voxels whose axes are exchanged, flipped and then turned (in degrees)."""
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 5, 4))
    euler = sitk.Euler3DTransform((0, 0, 0), *(float(np.deg2rad(angle)) for angle in turn))
    axes = np.array(euler.GetMatrix()).reshape(3, 3) @ np.eye(3)[:, list(order)] @ np.diag(flips)
    image.SetDirection(axes.ravel().tolist())
    image.SetSpacing((0.8, 1.5, 3.0))
    image.SetOrigin((-60.0, 12.5, 30.0))
    return image


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(deadline=None, max_examples=25)
@given(
    st.tuples(*[st.floats(-20, 20)] * 3),
    st.permutations(range(3)).map(tuple),
    st.tuples(*[st.sampled_from((1, -1))] * 3),
)
def test_voxels_lie_where_itk_says(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    turn: tuple[float, float, float],
    order: tuple[int, ...],
    flips: tuple[int, ...],
) -> None:
    folder = tmp_path_factory.mktemp("itk")
    image = image_of(turn, order, flips)
    sitk.WriteImage(image, str(folder / f"x{suffix}"))
    sitk.WriteImage(image, str(folder / "x.nii.gz"))
    volume, same = ItkVolume(folder / f"x{suffix}"), NiftiVolume(folder / "x.nii.gz")
    canonical, affine = volume.read(), volume.geometry().canonical_affine
    place = {canonical[index]: affine @ [*index[::-1], 1] for index in np.ndindex(canonical.shape)}
    for index in itertools.product(range(4), range(5), range(3)):
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(place[image[index]][:3], (-x, -y, z), atol=1e-4)
    np.testing.assert_array_equal(canonical, same.read())
    np.testing.assert_allclose(affine, same.geometry().canonical_affine, atol=1e-4)
    np.testing.assert_allclose(volume.geometry().spacing, same.geometry().spacing, rtol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_tell_where_the_voxels_are(tmp_path: Path, suffix: str) -> None:
    sitk.WriteImage(image_of((0, 0, 0), (0, 1, 2), (1, 1, 1)), str(tmp_path / f"x{suffix}"))
    volume = pickle.loads(pickle.dumps(volume_from_file(tmp_path / f"x{suffix}")))
    assert set(volume.files) == set(tmp_path.iterdir())
    if len(volume.files) == 2:
        volume.files[1].unlink()
        with pytest.raises(DataError, match="does not exist"):
            volume.read()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("harm", ["cut", "empty", "other", "missing"])
def test_damaged_files_are_named(tmp_path: Path, suffix: str, harm: str) -> None:
    file = tmp_path / f"x{suffix}"
    sitk.WriteImage(image_of((0, 0, 0), (0, 1, 2), (1, 1, 1)), str(file))
    harmed = max(ItkVolume(file).files, key=lambda path: path.stat().st_size) if harm == "cut" else file
    content = harmed.read_bytes()
    if harm == "missing":
        harmed.unlink()
    else:
        harmed.write_bytes({"cut": content[:-20], "empty": b"", "other": b"\x89PNG\r\n" * 50}[harm])
    with pytest.raises(DataError) as caught:
        ItkVolume(file).read()
    assert Path(str(caught.value.where)).parent == tmp_path
    assert "\n" not in caught.value.found
    assert "Sitk" not in caught.value.found


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        (b"DimSize = 4 5 3", b"DimSize = 32767 32767 32767", "claims"),
        (b"ElementDataFile = x.raw", b"ElementDataFile = ../x.raw", "another folder"),
        (b"ElementDataFile = x.raw", b"ElementDataFile = LIST\nx.raw", "does not exist"),
        (
            b"TransformMatrix = 1 0 0 0 1 0 0 0 1",
            b"TransformMatrix = 1 0 0 1 0 0 0 0 1",
            "usable orientation|cannot be read",
        ),
        (b"ElementSpacing = 0.8", b"ElementSpacing = nan", "usable orientation|cannot be read"),
    ],
)
def test_headers_that_lie(tmp_path: Path, old: bytes, new: bytes, hint: str) -> None:
    sitk.WriteImage(image_of((0, 0, 0), (0, 1, 2), (1, 1, 1)), str(tmp_path / "x.mhd"))
    (tmp_path.parent / "x.raw").write_bytes((tmp_path / "x.raw").read_bytes())
    text = (tmp_path / "x.mhd").read_bytes()
    assert old in text
    (tmp_path / "x.mhd").write_bytes(text.replace(old, new))
    with pytest.raises(DataError, match=hint):
        ItkVolume(tmp_path / "x.mhd").read()


@pytest.mark.parametrize("image", [sitk.Image(4, 5, sitk.sitkInt16), sitk.Image([4, 5, 3], sitk.sitkVectorUInt8, 3)])
def test_flat_and_coloured_images_are_refused(tmp_path: Path, image: sitk.Image) -> None:
    sitk.WriteImage(image, str(tmp_path / "x.nrrd"))
    with pytest.raises(DataError, match="voxels of"):
        ItkVolume(tmp_path / "x.nrrd").geometry()
