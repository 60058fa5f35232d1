"""Predictions as files on the grid of their input: NIfTI with affine and units, PNG masks for separate 2-D images."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image
from zlib_ng import gzip_ng

from metaseg.cases.geometry import Geometry
from metaseg.cases.labels import WHOLE_LESION, LabelScheme
from metaseg.cases.volumes import ItkVolume, NiftiVolume
from metaseg.files import replacing
from metaseg.pictures.overlay import write_picture
from metaseg.version import __version__

INSIDE = 255
"""Grey value of the lesion in a mask of the whole lesion, so that the mask can be seen."""
_DESCRIPTION_BYTES = 79
_LABEL_INTENT = "label"
# Of zlib-ng: at level 1 files are half as large again as at level 2, or more; up to level 6 they shrink by a tenth.
_LABEL_LEVEL, _PROBABILITY_LEVEL = 4, 2
_OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open}


def read_header(volume: NiftiVolume | ItkVolume) -> nib.Nifti1Header:
    """Header of a NIfTI file without its extensions, or one that says where the voxels of another file lie."""
    if isinstance(volume, ItkVolume):
        geometry = volume.geometry()
        header = nib.Nifti1Image(np.empty(geometry.shape, np.uint8), np.asarray(geometry.affine)).header
        header.set_xyzt_units("mm")
        return header
    path = volume.path
    with path.open("rb") as stream:
        opener = _OPENERS.get(stream.read(2), open)
    with opener(path, "rb") as stream:
        start = stream.read(nib.Nifti2Header.sizeof_hdr)
    # NIfTI-2 first: a NIfTI-1 header is shorter, and its class takes the beginning of both.
    for kind in (nib.Nifti2Header, nib.Nifti1Header):
        if kind.may_contain_header(start):
            return kind(start[: kind.sizeof_hdr])
    raise ValueError(f"{path} does not begin with a NIfTI header")


def description(network: str, synthetic: bool) -> str:
    """Text of the header field ``descrip``, at most 79 ASCII characters; the mark of phantoms is never cut off."""
    mark = " synthetic" if synthetic else ""
    text = f"metaseg {__version__} {network}".encode("ascii", "replace").decode()
    return text[: _DESCRIPTION_BYTES - len(mark)] + mark


def write_label(
    path: Path, values: np.ndarray, geometry: Geometry, header: nib.Nifti1Header, text: str, largest: int
) -> None:
    """Write a label map on the grid of the input.

    Args:
        path: The file, named ``.nii.gz``.
        values: Label values ``(slices, height, width)``, ``uint8``, in the canonical frame.
        geometry: Grid of the input.
        header: Header of the input.
        text: Content of ``descrip``, see :func:`description`.
        largest: Largest value that the label convention knows, for viewers.
    """
    array = geometry.from_canonical(values.astype(np.uint8, copy=False))
    # A flat image has no third axis in its header.
    shape = header.get_data_shape()[:3]
    own = _own_header(header, np.uint8, text)
    own["cal_max"] = largest
    own.set_intent(_LABEL_INTENT)
    _write(path, array.reshape(shape), own, _LABEL_LEVEL)


def write_probabilities(
    path: Path, maps: Iterable[np.ndarray], classes: int, geometry: Geometry, header: nib.Nifti1Header, text: str
) -> None:
    """Write class probabilities as a 4-D image whose last axis is the class.

    Args:
        path: The file, named ``.nii.gz``.
        maps: ``(slices, height, width)`` of one class after the other in the canonical frame, ``float32``.
        classes: How many.
        geometry: Grid of the input.
        header: Header of the input.
        text: Content of ``descrip``.
    """
    # Laid out as in the file, class by class, so that writing needs no second copy.
    array = np.empty((*geometry.shape, classes), dtype=np.float32, order="F")
    for number, values in zip(range(classes), maps, strict=True):
        array[..., number] = geometry.from_canonical(values)
    own = _own_header(header, np.float32, text)
    own["cal_max"] = 1.0
    _write(path, array, own, _PROBABILITY_LEVEL)


def _own_header(header: nib.Nifti1Header, dtype: type, text: str) -> nib.Nifti1Header:
    """Copy of the input's header that keeps where voxels lie and says anew what they hold."""
    own = header.copy()
    own.set_data_dtype(dtype)
    own.set_data_offset(0)
    own["scl_slope"], own["scl_inter"] = 1.0, 0.0
    own["cal_min"] = 0.0
    own["descrip"] = text.encode("ascii")
    own["aux_file"] = b""
    own.set_intent("none")
    return own


def _write(path: Path, array: np.ndarray, header: nib.Nifti1Header, level: int) -> None:
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    # The header's own affine, so that nibabel leaves sform, qform and their codes untouched.
    image = kind(array, header.get_best_affine(), header)
    with (
        replacing(path) as stream,
        gzip_ng.GzipNGFile(filename="", fileobj=stream, mode="wb", compresslevel=level, mtime=0) as packed,
    ):
        image.to_stream(packed)


def mask_values(scheme: LabelScheme) -> dict[str, int]:
    """Grey value of every class in a PNG mask: 255 for the whole lesion, else the convention's own values."""
    if scheme.space == WHOLE_LESION:
        return {"background": 0, "lesion": INSIDE}
    values = scheme.encode(np.arange(scheme.space.num_classes))
    return {name: int(value) for name, value in zip(scheme.space.classes, values, strict=True)}


def mask_names(images: Sequence[Path]) -> list[str]:
    """File names of the masks of a stack: those of the images, with a number in front where two are alike."""
    stems = [image.stem for image in images]
    if len(set(stems)) < len(stems):
        stems = [f"{number:04}_{stem}" for number, stem in enumerate(stems, start=1)]
    return [f"{stem}.png" for stem in stems]


def write_masks(files: Sequence[Path], classes: np.ndarray, geometry: Geometry, scheme: LabelScheme) -> None:
    """Write one mask for each image of a stack.

    Args:
        files: The masks' files, in slice order.
        classes: Class values ``(slices, height, width)`` in the canonical frame.
        geometry: Grid of the stack.
        scheme: Decides the grey values, see :func:`mask_values`.
    """
    table = np.array(list(mask_values(scheme).values()), dtype=np.uint8)
    # (width, height, slices) to (slices, height, width), rows from the top as in the files.
    pictures = table[geometry.from_canonical(classes)].transpose(2, 1, 0)
    for file, picture in zip(files, pictures, strict=True):
        write_picture(file, Image.fromarray(np.ascontiguousarray(picture)))
