"""Volumes in the formats of ITK: NRRD (``.nrrd``, ``.nhdr``) and MetaImage (``.mha``, ``.mhd``)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metaseg.cases.file_errors import reading
from metaseg.cases.geometry import Geometry, has_usable_axes
from metaseg.cases.limits import require_memory, require_possible
from metaseg.errors import DataError

if TYPE_CHECKING:
    from SimpleITK import ImageFileReader

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_DATA_FILE = re.compile(
    rb"^(?:ElementDataFile\s*=|data ?file:)[ \t]*(?P<name>[^\r\n]*?)[ \t]*\r?$", re.MULTILINE | re.I
)
_HEADER_BYTES = 1 << 16


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
                named = _DATA_FILE.search(stream.read(_HEADER_BYTES))
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
        if not has_usable_axes(affine):
            raise DataError(
                "the header holds no usable orientation",
                where=self.path,
                expected="a finite, invertible voxel-to-world matrix",
                remedy="write the file again with valid directions and spacing",
            )
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
