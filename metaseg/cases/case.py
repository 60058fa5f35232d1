"""The case: one patient's images, label and geometry, read only when asked for.

A case that fails while others continue becomes a :class:`FailedCase`: each is named, and the verb ends with an error.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from metaseg.cases.file_checks import require_memory
from metaseg.cases.geometry import Geometry, corner_distance
from metaseg.cases.intensities import intensity_problem, spoiled_file
from metaseg.cases.labels import IGNORED, LabelScheme
from metaseg.errors import DataError, MetasegError, is_out_of_memory
from metaseg.files import write_json
from metaseg.threads import ordered_map

MODALITIES = ("flair", "t1", "t1ce", "t2")
"""The four sequences of BraTS, in the order in which networks take them (Han et al. 2018)."""
PLACE_TOLERANCE_MM = 0.1
"""How far corners of a case's volumes may lie apart: rounding in headers, not another position."""
FAILED_NAME = "metaseg-failed.json"
_SHOWN = 20


def printable(name: str) -> str:
    r"""A file's name as text that can be written: bytes that are no UTF-8 as ``\xe9``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class Volume(Protocol):
    """One image or label of a case: a NIfTI file, a channel of one, or a stack of 2-D slice files."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold it."""
        ...

    def geometry(self) -> Geometry:
        """The grid, from the header alone."""
        ...

    def read(self) -> np.ndarray:
        """The values in the canonical frame, ``(slices, height, width)``, in the file's own number type.

        Raises:
            DataError: A file is missing, truncated or not of its kind.
        """
        ...


@dataclass(frozen=True)
class Case:
    """One patient's scan.

    Attributes:
        id: Unique in its data set; names folders and table rows.
        patient: The patient. Several cases may share one; splits keep a patient's cases together.
        cohort: Where it comes from, such as ``"HGG"``, ``"MET"`` or ``"meningioma"``.
        images: Modality name to its volume, in the order of the files' convention.
        label: The outline, or None.
        scheme: What the label's numbers mean.
        grade: Grade or class where known, such as ``"HGG"`` or ``"glioma"``.
        site: Centre or scanner where the name says so, such as ``"CBICA"``.
        synthetic: True for phantoms; everything made from them says so.
        format: Name of the reader that found it.
        extra: What else its reader knows, such as ``session`` and ``split`` of a table.
        doubled: Files that stand for an image, a label or a case that is there already, and are not read.
        outlined: The slices that are outlined, as the file counts them; None where the label alone tells. See
            :mod:`metaseg.cases.outlined`.
    """

    id: str
    patient: str
    cohort: str
    images: Mapping[str, Volume]
    label: Volume | None
    scheme: LabelScheme
    grade: str | None = None
    site: str | None = None
    synthetic: bool = False
    format: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)
    doubled: tuple[Path, ...] = ()
    outlined: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("id", "patient", "cohort", "grade", "site"):
            if (text := getattr(self, name)) is not None:
                object.__setattr__(self, name, printable(text))

    @property
    def identity(self) -> dict[str, Any]:
        """Who it is of: id, patient, cohort, grade, site, and whether it is synthetic."""
        return {name: getattr(self, name) for name in ("id", "patient", "cohort", "grade", "site", "synthetic")}

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities present."""
        return tuple(self.images)

    @property
    def labelled(self) -> bool:
        """Whether there is a label."""
        return self.label is not None

    @property
    def geometry(self) -> Geometry:
        """The grid of the first image.

        Raises:
            DataError: The case has no image.
        """
        if not self.images:
            raise DataError(f"case {self.id} has no image", remedy="run 'metaseg data check' on the data set")
        return next(iter(self.images.values())).geometry()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the case: images, then label."""
        volumes = [*self.images.values(), *([self.label] if self.label else [])]
        return tuple(dict.fromkeys(path for volume in volumes for path in volume.files))

    def read_images(self, modalities: Sequence[str], threads: int = 1, *, whole: bool = False) -> np.ndarray:
        """Read modalities in the canonical frame.

        Args:
            modalities: Names, in the order wanted.
            threads: Files to read at a time. Of several damaged ones, the first in order is reported in any case.
            whole: Keep whole numbers as ``int16`` where every file's number type fits: half the memory to pass over.

        Returns:
            Array ``(modality, slices, height, width)``, ``float32`` or ``int16``, intensities as in the files.

        Raises:
            DataError: A modality is missing, a file is unreadable, shapes disagree or a value is not finite.
        """
        self.require(modalities)
        shape = (len(modalities), *self.geometry.canonical_shape)
        require_memory(math.prod(shape) * (2 if whole else 4), f"case {self.id}", self.files[0])
        images = np.empty(shape, dtype=np.int16 if whole else np.float32)
        # The volumes of a 4-D file come out of one decompression, which threads would each do anew.
        shared = len({self.images[name].files for name in modalities}) < len(modalities)
        read = partial(self._read_image, reference=self.geometry)
        for position, array in enumerate(ordered_map(read, modalities, 1 if shared else threads)):
            if images.dtype == np.int16 and not np.can_cast(array.dtype, np.int16):
                images = images.astype(np.float32)
            images[position] = array
        return images

    def _read_image(self, name: str, reference: Geometry) -> np.ndarray:
        """Read one modality ``(slices, height, width)``, or raise as :meth:`read_images` does."""
        volume = self.images[name]
        array = volume.read()
        shape = reference.canonical_shape
        if array.shape != shape:
            raise DataError(
                f"case {self.id}: {name} has shape {array.shape} (slices, height, width)",
                where=volume.files[0],
                expected=f"{shape}, as {self.modalities[0]} has",
                remedy="register and resample the case's images to one grid",
            )
        self._check_place(name, volume, reference)
        problem = intensity_problem(array)
        if problem is not None:
            raise DataError(
                f"case {self.id}: {name} {problem}",
                where=spoiled_file(array, volume.files),
                expected="finite intensities of usual size",
                remedy="run 'metaseg data check' on the folder and repair or leave out the case",
            )
        return array

    def read_label(self) -> np.ndarray:
        """Read the label in the canonical frame as classes of ``scheme.space``.

        Returns:
            Array ``(slices, height, width)``, ``uint8``; :data:`~metaseg.cases.labels.IGNORED` where nobody outlined.

        Raises:
            DataError: There is no label, it is unreadable, of another shape, or holds unexpected values; or a slice is
                listed as outlined that is not there.
        """
        if self.label is None:
            raise DataError(f"case {self.id} has no label", where=self.files[0].parent, remedy="leave the case out")
        array, reference = self.label.read(), self.geometry
        if array.shape != reference.canonical_shape:
            raise DataError(
                f"case {self.id}: the label has shape {array.shape} (slices, height, width)",
                where=self.label.files[0],
                expected=f"{reference.canonical_shape}, as the images have",
                remedy="draw or resample the label on the images' grid",
            )
        self._check_place("the label", self.label, reference)
        return self.decode_label(array, self.label.files[0])

    def decode_label(self, array: np.ndarray, where: Path) -> np.ndarray:
        """As :meth:`read_label`, of label values ``(slices, height, width)`` that were read from the file ``where``."""
        if self.outlined is None:
            return self.scheme.decode(array, where)
        if beyond := [number for number in self.outlined if number >= len(array)]:
            raise DataError(
                f"case {self.id}: slice {beyond[0]} is listed as outlined, but there are {len(array)} slices",
                where=where,
                expected=f"numbers from 0 to {len(array) - 1}, in the order of the file",
                remedy="correct what lists them: --outlined-slices, or the column outlined_slices",
            )
        listed = [self.geometry.turned_slice(number) for number in self.outlined]
        # What the others hold is not even looked at: anything may stand there.
        classes = np.full(array.shape, IGNORED, dtype=np.uint8)
        classes[listed] = self.scheme.decode(array[listed], where)
        return classes

    def _check_place(self, name: str, volume: Volume, reference: Geometry) -> None:
        """Raise unless a volume lies where the first image does: overlaid voxels must be the same place in the head."""
        distance = corner_distance(volume.geometry(), reference)
        if distance > PLACE_TOLERANCE_MM:
            raise DataError(
                f"case {self.id}: {name} lies {distance:.1f} mm away from {self.modalities[0]}",
                where=volume.files[0],
                expected="one affine in all files of a case",
                remedy="register and resample the case's images to one grid",
            )

    def require(self, modalities: Sequence[str]) -> None:
        """Check that all ``modalities`` are present.

        Raises:
            DataError: One is missing; the message names case and modality.
        """
        missing = [name for name in modalities if name not in self.images]
        if missing:
            raise DataError(
                f"case {self.id} lacks modality {', '.join(missing)} (it has {', '.join(self.modalities)})",
                where=self.files[0].parent if self.files else None,
                expected=", ".join(modalities),
                remedy="add the file, or use a network built for fewer with --modalities",
            )


@dataclass(frozen=True)
class FailedCase:
    """A case that could not be done.

    Attributes:
        case: Its id.
        error: Why.
    """

    case: str
    error: MetasegError

    def to_json(self) -> dict[str, str | None]:
        """Case, what was found and where, as JSON values."""
        where = self.error.where
        return {"case": self.case, "found": self.error.found, "where": None if where is None else str(where)}


@contextlib.contextmanager
def one_case(case: str, failed: list[FailedCase] | None = None) -> Iterator[None]:
    """Do something with a case; name it where memory is short, and continue with others if asked to.

    Args:
        case: Its id.
        failed: Takes the case if it fails; None raises the error.

    Raises:
        DataError: The case cannot be read or does not fit into memory.
    """
    try:
        yield
    except DataError as error:
        if failed is None:
            raise
        failed.append(FailedCase(case, error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        short = DataError(f"case {case}: out of memory", remedy="end other programs, or leave the case out")
        if failed is None:
            raise short from error
        failed.append(FailedCase(case, short))


def record_failed(folder: Path, failed: Sequence[FailedCase]) -> None:
    """Keep in ``metaseg-failed.json`` which cases the last call did not do; without any, the file goes."""
    file = folder / FAILED_NAME
    if failed:
        write_json(file, {"failed": [failure.to_json() for failure in failed]})
    elif file.exists():
        file.unlink()


def raise_failed(failed: Sequence[FailedCase], total: int, done: str) -> None:
    """Raise if any case failed, after the others are done.

    Args:
        failed: The cases that failed.
        total: Number of all cases.
        done: What was done to the others, such as ``"predicted"``.

    Raises:
        MetasegError: Its own error for a single case, otherwise one that names all.
    """
    if total == 1 and failed:
        raise failed[0].error
    if failed:
        named = [f"{failure.case} ({failure.error.found})" for failure in failed[:_SHOWN]]
        more = [f"and {len(failed) - _SHOWN} more"] if len(failed) > _SHOWN else []
        raise DataError(
            f"{len(failed)} of {total} cases could not be {done}: " + "; ".join(named + more),
            where=failed[0].error.where if len(failed) == 1 else None,
            remedy="mend them or leave them out ('metaseg data check' says more); the others are done",
        )
