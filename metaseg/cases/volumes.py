"""Volumes on disk: NIfTI files, those of ITK (NRRD, MetaImage), stacks of 2-D image files, and Cheng's MATLAB files.

Each class implements :class:`metaseg.cases.case.Volume`. All are immutable, hashable and picklable; they hold paths,
never voxels, and turn whatever a file library raises into a :class:`~metaseg.errors.DataError` that names the file.
"""

from __future__ import annotations

import bz2
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import nibabel as nib
import numpy as np
from PIL import Image

from metaseg.cases.case import Volume
from metaseg.cases.file_checks import open_plain, read_plain, reading, require_memory, require_possible
from metaseg.cases.geometry import Geometry, require_axes
from metaseg.cases.pictures import LOSSY_FORMATS, PICTURE_SUFFIXES, upright_grey, upright_size
from metaseg.errors import DataError, warn_user

if TYPE_CHECKING:
    from SimpleITK import ImageFileReader

NIFTI_SUFFIXES = (".nii.gz", ".nii", ".nii.bz2")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
VOLUME_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES
IMAGE_SUFFIXES = PICTURE_SUFFIXES
_NIFTI_HEADER_BYTES = 540
"""The larger of the two NIfTI headers; enough for shape, number type and orientation."""
_SLACK_BYTES = 1 << 20
_ITK_HEADER_BYTES = 1 << 16
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_DATA_FILE = re.compile(
    rb"^(?:ElementDataFile\s*=|data ?file:)[ \t]*(?P<name>[^\r\n]*?)[ \t]*\r?$", re.MULTILINE | re.I
)


@dataclass(frozen=True)
class NiftiVolume:
    """A NIfTI-1 or NIfTI-2 file, plain or compressed with gzip or bzip2 (recognised by its content, not its name).

    Attributes:
        path: The file.
        channel: Which volume of a 4-D file, counted from 0; None for a 3-D file.
    """

    path: Path
    channel: int | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def geometry(self) -> Geometry:
        """The grid, from the first bytes of the file.

        Raises:
            DataError: The file is missing, no NIfTI file, without a usable orientation, or of the wrong dimensions.
        """
        header = self._header()
        shape, affine, slope = header.get_data_shape(), header.get_best_affine(), float(header["scl_slope"])
        if math.isnan(slope):
            warn_user("the NIfTI header scales intensities by NaN, which is taken as 1", where=self.path)
        if math.isinf(slope):
            raise DataError(
                "the NIfTI header scales intensities by infinity",
                where=self.path,
                expected="a finite scl_slope",
                remedy="write the file again with valid intensities",
            )
        require_axes(affine, self.path, "sform or qform")
        return Geometry.from_affine((*shape, 1)[:3], affine)

    def read(self) -> np.ndarray:
        """The voxels ``(slices, height, width)`` in the file's number type (``float64`` if the header scales them).

        Raises:
            DataError: The file is missing, truncated, damaged or holds colours or complex numbers.
        """
        geometry = self.geometry()
        with reading(self.path, "NIfTI file"):
            needed = _needed_bytes(self._header())
            require_memory(2 * needed, "the image", self.path)
            # Some files hold more than their header promises, such as a footer; a bomb holds much more.
            most = 2 * needed + _SLACK_BYTES
            if self.channel is None:
                content = read_plain(self.path, most)
            else:
                state = self.path.stat()
                content = _read_plain_cached(self.path, most, state.st_mtime_ns, state.st_size)
            image = _nifti_class(content).from_bytes(content)
            self._check_content(image.header, len(content))
            array = np.asanyarray(image.dataobj if self.channel is None else image.dataobj[..., self.channel])
        array = array.reshape(geometry.shape)
        return geometry.to_canonical(array.astype(array.dtype.newbyteorder("="), copy=False))

    def _header(self) -> nib.Nifti1Header:
        """The header, whose sizes can be true of this file."""
        with reading(self.path, "NIfTI file"):
            with open_plain(self.path) as stream:
                start, may_hold_any = stream.read(_NIFTI_HEADER_BYTES), isinstance(stream, bz2.BZ2File)
            kind = _nifti_class(start).header_class
            header = kind(start[: kind.sizeof_hdr])
            self._check_dimensions(header.get_data_shape())
            if not may_hold_any:
                require_possible(_needed_bytes(header), self.path.stat().st_size, self.path)
        return header

    def _check_dimensions(self, shape: tuple[int, ...]) -> None:
        channels = shape[3] if len(shape) == 4 else 1
        expected = None
        if len(shape) not in (2, 3, 4) or min(shape) < 1:
            expected = "a 3-D image, or a 4-D image with one volume per modality"
        elif self.channel is None and channels > 1:
            expected = "a 3-D image"
        elif self.channel is not None and not 0 <= self.channel < channels:
            expected = f"at least {self.channel + 1} volumes"
        if expected:
            raise DataError(
                f"the image has shape {tuple(shape)}",
                where=self.path,
                expected=expected,
                remedy="write one 3-D file per modality, or describe a 4-D file in a dataset.json",
            )

    def _check_content(self, header: nib.Nifti1Header, size: int) -> None:
        dtype = header.get_data_dtype()
        if dtype.names is not None or dtype.kind not in "biuf":
            raise DataError(
                f"the voxels are of type {dtype}",
                where=self.path,
                expected="one real number per voxel",
                remedy="write a grey-value image",
            )
        needed = _needed_bytes(header)
        if size < needed:
            raise EOFError(f"it holds {size} of {needed} bytes")


@dataclass(frozen=True)
class ItkVolume:
    """A NRRD or MetaImage file, with the file of its voxels where that lies apart.

    Attributes:
        path: The file, or the header of a pair.
    """

    path: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, and the file of its voxels where that lies apart."""
        if self.path.suffix.lower() not in (".mhd", ".nhdr"):
            return (self.path,)
        try:
            with self.path.open("rb") as stream:
                named = _DATA_FILE.search(stream.read(_ITK_HEADER_BYTES))
        except OSError:
            named = None
        name = named["name"].decode(errors="replace") if named else ""
        return (self.path, self.path.parent / name) if name and name.upper() != "LOCAL" else (self.path,)

    def geometry(self) -> Geometry:
        """The grid, from the header.

        Raises:
            DataError: The file is missing, of another kind, of the wrong dimensions, or without a usable orientation.
        """
        reader = self._open()
        axes = np.array(reader.GetDirection()).reshape(3, 3) * np.array(reader.GetSpacing())
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = axes, reader.GetOrigin()
        affine = _LPS_TO_RAS @ affine
        require_axes(affine, self.path, "set of directions and spacing")
        return Geometry.from_affine(reader.GetSize(), affine)

    def read(self) -> np.ndarray:
        """The voxels ``(slices, height, width)`` in the file's number type.

        Raises:
            DataError: As :meth:`geometry`; or the file is truncated or damaged.
        """
        from SimpleITK import GetArrayFromImage

        geometry = self.geometry()
        require_memory(2 * math.prod(geometry.shape), "the image", self.path)
        with reading(self.path, "image file"):
            array: np.ndarray = GetArrayFromImage(self._open().Execute())
        return geometry.to_canonical(array.transpose(2, 1, 0))

    def _open(self) -> ImageFileReader:
        """A reader that has read the header of a 3-D image of one number per voxel."""
        # SimpleITK takes a third of a second to load, and few data sets need it.
        from SimpleITK import ImageFileReader, ProcessObject

        ProcessObject.SetGlobalWarningDisplay(False)
        for file in self.files:
            if not file.is_file():
                raise DataError("the image file does not exist", where=file, remedy="check the path, or get it again")
            if file.parent != self.path.parent:
                raise DataError(
                    "the voxels lie in another folder",
                    where=file,
                    expected=f"one file beside {self.path.name}",
                    remedy="write the image as one file: .nrrd or .mha",
                )
        reader = ImageFileReader()
        with reading(self.path, "image file"):
            reader.SetFileName(str(self.path))
            reader.ReadImageInformation()
        claimed, held = int(np.prod(reader.GetSize(), dtype=float)), sum(file.stat().st_size for file in self.files)
        require_possible(claimed, held, self.path)
        if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1 or 0 in reader.GetSize():
            sizes = " x ".join(map(str, reader.GetSize()))
            raise DataError(
                f"the image has {sizes} voxels of {reader.GetNumberOfComponents()} numbers",
                where=self.path,
                expected="a 3-D image of one number per voxel",
                remedy="write one 3-D file per modality",
            )
        return reader


@dataclass(frozen=True)
class _Stack:
    """2-D files of one shape, each a slice, in slice order."""

    paths: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in slice order."""
        return self.paths

    def _read_slices(self, read_slice: Callable[[Path], np.ndarray]) -> np.ndarray:
        """Read slices ``(height, width)`` of one shape and bring their stack to the canonical frame."""
        slices: list[np.ndarray] = []
        for path in self.paths:
            array = read_slice(path)
            if slices and array.shape != slices[0].shape:
                raise DataError(
                    f"the slice has shape {array.shape} (height, width)",
                    where=path,
                    expected=f"{slices[0].shape}, as the slices before it",
                    remedy="put slices of another shape into a case of their own",
                )
            slices.append(array)
        return Geometry.from_stack(len(slices), *slices[0].shape).to_canonical(np.stack(slices).transpose(2, 1, 0))


@dataclass(frozen=True)
class ImageStack(_Stack):
    """2-D image files of one shape, each a slice.

    Colour and palette images become grey (luminance); transparency is ignored. Images are turned as their EXIF header
    says, as viewers do.

    Attributes:
        paths: The files, in slice order.
        pixel_mm: Edge of a pixel in mm, or None if unknown.
        binary: True for masks: the result is 0 or 1 whatever the files use for "inside".
    """

    pixel_mm: float | None = None
    binary: bool = False

    def geometry(self) -> Geometry:
        """The grid, from the first file's header.

        Raises:
            DataError: The file is missing or no image.
        """
        width, height = image_size(self.paths[0])
        return Geometry.from_stack(len(self.paths), height, width, self.pixel_mm)

    def read(self) -> np.ndarray:
        """The pixels ``(slices, height, width)``; masks as ``uint8`` 0 and 1.

        Raises:
            DataError: A file is missing, damaged, of another shape, or a mask of more than two values.
        """
        return self._read_slices(self._read_slice)

    def _read_slice(self, path: Path) -> np.ndarray:
        with reading(path, "image"), Image.open(path) as image:
            lossy = image.format in LOSSY_FORMATS
            array = np.asarray(upright_grey(image))
        if self.binary:
            return _as_mask(array, path, lossy)
        return array.astype(np.uint8 if array.dtype == bool else array.dtype.newbyteorder("="), copy=False)


@dataclass(frozen=True)
class MatStack(_Stack):
    """One field of Cheng's MATLAB v7.3 files (figshare 1512427), each a slice.

    Attributes:
        paths: The ``.mat`` files, in slice order.
        field: Name inside the structure ``cjdata``: ``"image"`` or ``"tumorMask"``.
    """

    field: str

    def geometry(self) -> Geometry:
        """The grid, from the first file. The files hold no pixel size.

        Raises:
            DataError: The file is missing or not of this kind.
        """
        with open_cheng_mat(self.paths[0]) as record:
            width, height = cheng_numbers(record, self.field, 2).shape
        return Geometry.from_stack(len(self.paths), height, width)

    def read(self) -> np.ndarray:
        """The pixels ``(slices, height, width)`` in the files' number type.

        Raises:
            DataError: A file is missing, damaged, not of this kind or of another shape.
        """
        return self._read_slices(self._read_slice)

    def _read_slice(self, path: Path) -> np.ndarray:
        with open_cheng_mat(path) as record:
            # MATLAB stores columns first, so that HDF5 shows the transpose.
            pixels = cheng_numbers(record, self.field, 2)
            require_memory(pixels.nbytes, "the image", path)
            array: np.ndarray = pixels[()].T
        return array


def volume_from_file(path: Path, channel: int | None = None) -> Volume:
    """The volume of one file by its suffix: NIfTI, a format of ITK, or a 2-D image as a single slice.

    Raises:
        DataError: The suffix is of no such kind.
    """
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        return NiftiVolume(path, channel)
    if path.suffix.lower() in IMAGE_SUFFIXES and channel is None:
        return ImageStack((path,))
    if path.suffix.lower() in ITK_SUFFIXES and channel is None:
        return ItkVolume(path)
    raise DataError(
        f"cannot read files named {path.suffix or path.name}",
        where=path,
        expected=", ".join(VOLUME_SUFFIXES + IMAGE_SUFFIXES),
        remedy="convert the file to .nii.gz",
    )


def split_name(name: str) -> tuple[str, str]:
    """A file's name without its ending, and the ending: that of a volume, such as ``.nii.gz``, or the last suffix."""
    endings = [suffix for suffix in VOLUME_SUFFIXES if name.lower().endswith(suffix)] or [Path(name).suffix]
    before = len(name) - max(map(len, endings))
    return name[:before], name[before:]


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of a 2-D image file in pixels, turned as its EXIF header says; the pixels are not read.

    Raises:
        DataError: The file is missing or no image.
    """
    with reading(path, "image"), Image.open(path) as image:
        return upright_size(image)


@contextmanager
def open_cheng_mat(path: Path) -> Iterator[h5py.Group]:
    """Open the structure ``cjdata`` of one of Cheng's MATLAB files.

    Raises:
        DataError: The file is missing, damaged or not of this kind, also while it is being read in the ``with`` body.
    """
    with reading(path, "MATLAB v7.3 file"), h5py.File(path, "r") as file:
        if "cjdata" not in file:
            raise KeyError("it has no structure 'cjdata'")
        yield file["cjdata"]


def cheng_numbers(record: h5py.Group, name: str, axes: int | None = None) -> h5py.Dataset:
    """A field of real numbers of an opened structure, not read yet.

    Args:
        record: As :func:`open_cheng_mat` gives it.
        name: The field.
        axes: Its number of axes, where that matters.

    Raises:
        ValueError: It is missing, empty, a group or of something else.
    """
    field = record.get(name) if isinstance(record, h5py.Group) else None
    if not isinstance(field, h5py.Dataset) or field.dtype.kind not in "biuf" or not field.size:
        raise ValueError(f"its '{name}' is no array of numbers")
    if axes is not None and field.ndim != axes:
        raise ValueError(f"its '{name}' has {field.ndim} axes where {axes} are expected")
    return field


def _as_mask(array: np.ndarray, path: Path, lossy: bool) -> np.ndarray:
    """Bring a mask image to 0 and 1 (``uint8``)."""
    if lossy:
        # JPEG smears the two values of a mask; half way between them is the outline.
        return (array > 127).astype(np.uint8)
    inside = np.unique(array[array != 0])
    if inside.size > 1:
        raise DataError(
            f"the mask holds {inside.size + 1} different values",
            where=path,
            expected="two: 0 outside, and one other value inside",
            remedy="write the mask as a 1-bit or 0/255 image",
        )
    return (array != 0).astype(np.uint8)


def _nifti_class(start: bytes) -> type[nib.Nifti1Image]:
    """NIfTI-1 or NIfTI-2 by the header's own size field, in either byte order."""
    if len(start) < 352:
        raise EOFError(f"it holds only {len(start)} bytes")
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        if kind.header_class.may_contain_header(start):
            return kind
    raise ValueError("it does not begin with a NIfTI header")


def _needed_bytes(header: nib.Nifti1Header) -> int:
    """Size of a plain file with this header."""
    sizes = (int(side) for side in header.get_data_shape())
    return int(header.get_data_offset()) + math.prod(sizes) * int(header.get_data_dtype().itemsize)


@lru_cache(maxsize=1)
def _read_plain_cached(path: Path, most: int, modified: int, size: int) -> bytes:
    """The last 4-D file read: its modalities are read one after the other."""
    return read_plain(path, most)
