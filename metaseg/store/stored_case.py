"""A prepared case: brain-cropped, slice-major, memory-mapped, with what it takes to go back to the file's grid.

Its files have checksums, since a bit that rots on the disk must not become a metric. Slices that are ready for a
network may be kept in memory, in a :class:`SliceCache` of bounded size.
"""

from __future__ import annotations

import copy
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

import numpy as np
from skimage.transform import resize
from zlib_ng import zlib_ng

from metaseg.cases.geometry import Geometry
from metaseg.cases.intensities import LARGEST, intensity_problem
from metaseg.cases.labels import LABEL_SPACES, WHOLE_LESION, LabelSpace
from metaseg.errors import DataError
from metaseg.files import FileKind, check_shape, read_json

RECORD = "case.json"
FORMAT_VERSION = 1
"""Of the rules by which cases are prepared."""
PARTIAL_VERSION = 2
"""Of a case of which some slices only are outlined: earlier releases would take the others for background."""
KIND = FileKind(
    "a complete stored case, as 'metaseg data prepare' writes it", "delete its folder and prepare it again", DataError
)
GIGABYTE = 1e9
FULL_LABEL = "label_full.npy"


def write_record(
    folder: Path, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray], version: int = FORMAT_VERSION
) -> None:
    """Write ``case.json`` and one ``NAME.npy`` for each array into a folder, with checksums of all."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    sums = {name: checksum(array) for name, array in arrays.items()}
    # To JSON and back: what is read must give the same text.
    record = json.loads(json.dumps({**values, "version": version, "checksums": sums}))
    (folder / RECORD).write_text(json.dumps({**record, "checksum": _text_checksum(record)}), encoding="utf-8")


def read_record(folder: Path, shape: Any) -> tuple[Any, dict[str, int]]:
    """Read ``case.json``; one of a release without checksums has none.

    Args:
        folder: The case's folder.
        shape: As :func:`~metaseg.files.read_json` takes it.

    Returns:
        The record as ``shape``, and the arrays' checksums.

    Raises:
        DataError: It is missing or damaged, or of another format.
    """
    path = folder / RECORD
    values: dict[str, Any] = read_json(path, KIND)
    refuse = partial(KIND.refuse, path=path)
    if values.get("version") not in (FORMAT_VERSION, PARTIAL_VERSION):
        raise DataError(
            f"stored case of format version {values.get('version')}",
            where=folder,
            expected=f"version {FORMAT_VERSION} or {PARTIAL_VERSION}",
            remedy="delete the store and prepare it again",
        )
    told = values.pop("checksum", None)
    if told is not None and told != _text_checksum(values):
        raise refuse("the content is damaged: its checksum is another")
    sums: dict[str, int] = check_shape(values.pop("checksums", {}), dict[str, int], refuse)
    info = check_shape(values, shape, refuse)
    if info.format_version > values["version"]:
        raise refuse("the content is damaged: slices are of no class")
    return info, sums


def open_array(path: Path, dtypes: tuple[type, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Map an array into memory, after a look at its header and the file's size.

    Raises:
        DataError: The file is missing, no array, cut off, or of another type or shape.
    """
    try:
        array = np.load(path, mmap_mode="r")
        found = f"{array.dtype} {array.shape}"
        end = array.offset + array.nbytes
    except OSError as error:
        raise KIND.refuse(f"the array cannot be read: {error.strerror or error}", path) from error
    except Exception as error:  # numpy answers a damaged header with nearly any type of error
        raise KIND.refuse(f"this is no array: {' '.join(str(error).split())[:200]}", path) from error
    if array.dtype not in dtypes or array.shape != shape:
        wanted = " or ".join(np.dtype(kind).name for kind in dtypes)
        raise KIND.refuse(f"the array is {found}, where {RECORD} says {wanted} {shape}", path)
    if os.path.getsize(path) != end:
        raise KIND.refuse(f"the file has {os.path.getsize(path)} bytes, where its header says {end}", path)
    return array


def checksum(array: np.ndarray) -> int:
    """CRC-32 of an array's values: some 7 GB a second, a twentieth of the time that a digest takes."""
    return int(zlib_ng.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8)))


def _text_checksum(values: Mapping[str, Any]) -> int:
    return int(zlib_ng.crc32(json.dumps(values, sort_keys=True).encode()))


class SliceCache:
    """Arrays by key, bounded in bytes; threads may share one.

    Args:
        limit: Most bytes to hold.

    Attributes:
        held: Bytes held now.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self.held = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._arrays)

    def get(self, key: Hashable) -> np.ndarray | None:
        """The array of a key, not to be written to; None where it is not held."""
        with self._lock:
            array = self._arrays.get(key)
            if array is not None:
                self._arrays.move_to_end(key)
            return array

    def put(self, key: Hashable, array: np.ndarray) -> None:
        """Hold a copy of an array, and let go of what was not used for longest until the limit is kept."""
        if array.nbytes > self.limit:
            return
        kept = array.copy()
        kept.flags.writeable = False
        with self._lock:
            old = self._arrays.pop(key, None)
            self.held += kept.nbytes - (0 if old is None else old.nbytes)
            self._arrays[key] = kept
            while self.held > self.limit:
                _, dropped = self._arrays.popitem(last=False)
                self.held -= dropped.nbytes


def share_cache(cases: Iterable[StoredCase], gigabytes: float) -> SliceCache | None:
    """Let cases keep their ready slices in one cache of their own.

    Args:
        cases: The cases of one run; a cache that they had before is left to be freed.
        gigabytes: Most memory of all slices together, in 10^9 bytes; 0 keeps none.

    Returns:
        The cache, or None where none is kept.
    """
    cache = SliceCache(int(gigabytes * GIGABYTE)) if gigabytes > 0 else None
    for case in cases:
        case.cache = cache
    return cache


@dataclass(frozen=True)
class StoredCaseInfo:
    """What ``case.json`` holds.

    Attributes:
        id: The case's id.
        patient: Its patient.
        cohort: Its cohort.
        grade: Grade or class where known.
        site: Centre where known.
        synthetic: True for phantoms.
        scheme: Name of the label convention of the files.
        modalities: Modalities in stored order.
        space: Name of the label space.
        labelled: Whether there is a label.
        geometry: The files' grid.
        crop: ``(start, stop)`` along (slices, height, width) in the canonical frame.
        shape: Stored ``(slices, height, width)``.
        mean: Mean of the foreground voxels per modality, in file intensities.
        sd: Their standard deviation.
        background: See :func:`foreground`.
        areas: Voxels of each class (background included) per stored slice.
        sources: Names of the files it was made from.
        findings: What was doubtful about its images when it was prepared: kind of
            :data:`~metaseg.cases.check.report.KINDS`, sentence, file. None if an earlier release prepared it, which
            did not look.
    """

    id: str
    patient: str
    cohort: str
    grade: str | None
    site: str | None
    synthetic: bool
    scheme: str
    modalities: tuple[str, ...]
    space: str
    labelled: bool
    geometry: Geometry
    crop: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    background: float
    areas: tuple[tuple[int, ...], ...]
    sources: tuple[str, ...]
    findings: tuple[tuple[str, str, str], ...] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError unless all that stands here fits together."""
        if self.space not in LABEL_SPACES:
            raise ValueError(f"the label space '{self.space}' is none of {', '.join(LABEL_SPACES)}")
        affine = self.geometry.affine
        if [len(row) for row in affine] != [4] * 4 or not abs(np.linalg.det(np.asarray(affine))) > 0:
            raise ValueError("the affine is no voxel-to-world matrix")
        full = self.geometry.canonical_shape
        sizes = tuple(stop - start for start, stop in self.crop)
        inside = all(0 <= start < stop <= size for (start, stop), size in zip(self.crop, full, strict=True))
        # Slices are shrunk, never enlarged, and none is left out.
        small = all(1 <= own <= size for own, size in zip(self.shape, sizes, strict=True))
        if not inside or not small or self.shape[0] != sizes[0]:
            raise ValueError(f"shape {self.shape} and crop {self.crop} do not fit into a grid of {full}")
        if not self.modalities or len({*self.modalities}) < len(self.modalities):
            raise ValueError(f"the modalities are {', '.join(self.modalities) or '(none)'}")
        known = all(abs(mean) < LARGEST for mean in self.mean) and all(0 < sd < LARGEST for sd in self.sd)
        if not len(self.modalities) == len(self.mean) == len(self.sd) or not known:
            raise ValueError("mean and deviation are not those of the modalities")
        rows, classes, pixels = len(self.areas), LABEL_SPACES[self.space].num_classes, self.shape[1] * self.shape[2]
        counted = all(len(row) == classes and min(row) >= 0 and sum(row) in (0, pixels) for row in self.areas)
        if rows != self.shape[0] or not counted or self.labelled != bool(self.outlined):
            raise ValueError("the areas are not those of the slices and classes")

    @cached_property
    def outlined(self) -> tuple[int, ...]:
        """The slices that are outlined, ascending: those of whose pixels the class is known, be it background."""
        return tuple(number for number, row in enumerate(self.areas) if any(row))

    @property
    def format_version(self) -> int:
        """Version of the record."""
        return PARTIAL_VERSION if self.labelled and len(self.outlined) < len(self.areas) else FORMAT_VERSION


def foreground(intensities: np.ndarray, background: float) -> np.ndarray:
    """Which intensities are not background: those above ``background``, or all but 0 where that is 0 (same shape)."""
    return intensities > background if background > 0 else intensities != 0


def normalise_slice(raw: np.ndarray, mean: np.ndarray, sd: np.ndarray, background: float, out: np.ndarray) -> None:
    """Write z-scores of the foreground, and 0 in the background: slice by slice, so that they stay in the CPU's cache.

    Args:
        raw: File intensities ``(modality, height, width)``.
        mean: Mean of each modality's foreground, ``(modality, 1, 1)`` ``float32``.
        sd: Its standard deviation, alike.
        background: As :func:`foreground` takes it.
        out: ``(modality, height, width)`` ``float32``.
    """
    np.copyto(out, raw)
    # The float copy is compared where that means the same: float comparisons are several times faster than int16's.
    inside = foreground(raw if background > 0 else out, background)
    np.subtract(out, mean, out=out)
    np.divide(out, sd, out=out)
    # Times 1 or 0 as integers: keeps the bits inside and gives +0 outside, much faster than an assignment by mask.
    bits = out.view(np.int32)
    np.multiply(bits, inside, out=bits)


def _told(name: str) -> Any:
    """A property that :class:`StoredCaseInfo` has."""
    return property(attrgetter(f"info.{name}"))


class StoredCase:
    """A case of a slice store, read slice by slice through a memory map.

    Args:
        folder: The case's folder inside the store.

    Attributes:
        folder: As given.
        info: What ``case.json`` holds.
        cache: Where ready slices are kept between calls; see :func:`metaseg.store.stored_case.share_cache`.

    Raises:
        DataError: The folder is not a complete stored case.
    """

    def __init__(self, folder: Path) -> None:
        info, self._checksums = read_record(folder, StoredCaseInfo)
        self._verified: set[str] = set()
        self._hold(folder, info)
        # Headers and sizes of all files now; their content on first use.
        images = (self.num_slices, len(info.modalities), *info.shape[1:])
        self._arrays = {"images": open_array(folder / "images.npy", (np.int16, np.float32), images)}
        if info.labelled:
            self._arrays["label"] = open_array(folder / "label.npy", (np.uint8,), info.shape)
        if (folder / FULL_LABEL).exists():
            full = tuple(stop - start for start, stop in info.crop)
            self._arrays["label_full"] = open_array(folder / FULL_LABEL, (np.uint8,), full)

    def verify(self) -> None:
        """Read all files of the case once.

        Raises:
            DataError: One is damaged: its checksum is another, or a label is none of the space's.
        """
        for name in self._arrays:
            self._sound(name)

    def _sound(self, name: str) -> np.ndarray:
        """An array whose content was looked at, once."""
        array, path = self._arrays[name], self.folder / f"{name}.npy"
        if name in self._verified:
            return array
        if name in self._checksums and checksum(array) != self._checksums[name]:
            raise KIND.refuse(f"case {self.id}: the content is damaged: its checksum is another", path)
        if name != "images" and int(array.max()) >= self.space.num_classes:
            found = f"case {self.id}: the label holds {int(array.max())}, where {self.space.name} ends"
            raise KIND.refuse(f"{found} with {self.space.num_classes - 1}", path)
        if name == "images" and name not in self._checksums and (problem := intensity_problem(array)):
            raise KIND.refuse(f"case {self.id}: an image {problem}", path)
        self._verified.add(name)
        return array

    def _hold(self, folder: Path, info: StoredCaseInfo) -> None:
        """What every kind of stored case has."""
        self.folder, self.info = folder, info
        self.cache: SliceCache | None = None
        self._statistics: dict[tuple[str, ...] | None, tuple[tuple[int, ...] | None, np.ndarray, np.ndarray]] = {}

    def __repr__(self) -> str:
        return f"StoredCase({self.info.id!r}, shape={self.info.shape})"

    id: str = _told("id")
    patient: str = _told("patient")
    cohort: str = _told("cohort")
    grade: str | None = _told("grade")
    site: str | None = _told("site")
    modalities: tuple[str, ...] = _told("modalities")
    labelled: bool = _told("labelled")

    @property
    def space(self) -> LabelSpace:
        """Label space of the stored label."""
        return LABEL_SPACES[self.info.space]

    @property
    def num_slices(self) -> int:
        """Number of stored slices."""
        return self.info.shape[0]

    @cached_property
    def outlined(self) -> np.ndarray:
        """The stored slices that somebody outlined, ascending; of the others nothing is known, not even background."""
        return np.array(self.info.outlined, dtype=np.int64)

    @property
    def partial(self) -> bool:
        """Whether some slices only are outlined."""
        return self.labelled and len(self.outlined) < self.num_slices

    @property
    def files(self) -> tuple[Path, ...]:
        """Where it is stored, for messages."""
        return (self.folder / "case.json",)

    def native_slice(self, stored: int) -> int:
        """Index of a stored slice in the canonical volume, before the crop."""
        return self.info.crop[0][0] + int(stored)

    @cached_property
    def raw_images(self) -> np.ndarray:
        """Memory map ``(slices, modality, height, width)`` of file intensities (int16 or float32)."""
        return self._sound("images")

    @cached_property
    def raw_label(self) -> np.ndarray:
        """Memory map ``(slices, height, width)`` of classes of :attr:`space`, ``uint8``."""
        if not self.info.labelled:
            raise DataError(f"case {self.id} has no label", where=self.folder, remedy="leave the case out")
        return self._sound("label")

    def channels(self, modalities: Sequence[str]) -> list[int]:
        """Positions of modalities in the stored images.

        Raises:
            DataError: One was not stored; the message names case and modality.
        """
        missing = [name for name in modalities if name not in self.info.modalities]
        if missing:
            raise DataError(
                f"case {self.id} lacks modality {', '.join(missing)} (it has {', '.join(self.info.modalities)})",
                where=self.folder,
                expected=", ".join(modalities),
                remedy="prepare the case with these modalities, or use a network built for fewer",
            )
        return [self.info.modalities.index(name) for name in modalities]

    def images(
        self,
        slices: Sequence[int] | np.ndarray | slice,
        modalities: Sequence[str] | None = None,
        *,
        keep: bool = True,
    ) -> np.ndarray:
        """Normalised slices: z-scores of the foreground, 0 in the background.

        Args:
            slices: Which stored slices.
            modalities: Which modalities, in order; by default all as stored.
            keep: Leave the slices in :attr:`cache`; not worth it for a pass through whole cases, which would drive
                out what is drawn again and again.

        Returns:
            Array ``(slices, modality, height, width)``, ``float32``, the caller's own.
        """
        chosen, mean, sd = self._channel_statistics(None if modalities is None else tuple(modalities))
        indices = self._numbers[slices]
        images = np.empty((len(indices), len(mean), *self.info.shape[1:]), dtype=np.float32)
        cache = self.cache
        for image, index in zip(images, indices.tolist(), strict=True):
            key = (self.folder.name, index, chosen)
            ready = None if cache is None else cache.get(key)
            if ready is not None:
                np.copyto(image, ready)
                continue
            raw = self._plain_images[index]
            normalise_slice(raw if chosen is None else raw[list(chosen)], mean, sd, self.info.background, image)
            if cache is not None and keep:
                cache.put(key, image)
        return images

    @cached_property
    def _plain_images(self) -> np.ndarray:
        """:attr:`raw_images` as a plain array on the same pages: a map's own indexing costs more than a small slice."""
        return np.asarray(self.raw_images)

    @cached_property
    def _numbers(self) -> np.ndarray:
        return np.arange(self.num_slices)

    def _channel_statistics(
        self, modalities: tuple[str, ...] | None
    ) -> tuple[tuple[int, ...] | None, np.ndarray, np.ndarray]:
        """Channels to take (None: all as they are), and their mean and deviation ``(modality, 1, 1)`` ``float32``."""
        if modalities not in self._statistics:
            stored = tuple(range(len(self.info.modalities)))
            channels = stored if modalities is None else tuple(self.channels(modalities))
            mean, sd = (
                np.asarray(values, np.float32)[list(channels), None, None] for values in (self.info.mean, self.info.sd)
            )
            self._statistics[modalities] = (None if channels == stored else channels, mean, sd)
        return self._statistics[modalities]

    def labels(self, slices: Sequence[int] | np.ndarray | slice, space: LabelSpace | None = None) -> np.ndarray:
        """Class maps ``(slices, height, width)``, ``uint8``, in ``space`` (by default the stored one).

        Raises:
            DataError: The case has no label, or only the whole lesion is known where subregions are asked for.
            ValueError: A slice is not :attr:`outlined`: it must not count as background.
        """
        if self.partial and not np.isin(self._numbers[slices], self.outlined).all():
            raise ValueError(f"case {self.id}: labels are asked for of slices that nobody outlined")
        classes = np.asarray(self.raw_label[slices])
        return to_space(classes, self.space, space or self.space, self.id)

    def areas(self, space: LabelSpace | None = None) -> np.ndarray:
        """Pixels of each class per stored slice, ``(slices, classes)`` with the background first.

        A slice that nobody outlined has none of any class.
        """
        areas = np.asarray(self.info.areas, dtype=np.int64)
        if space is None or space == self.space:
            return areas
        united = np.zeros((len(areas), space.num_classes), np.int64)
        for value, column in enumerate(_classes_in(self.space, space)):
            united[:, column] += areas[:, value]
        return united

    def native_label(self) -> np.ndarray:
        """The label on the full canonical grid ``(slices, height, width)``, never resized.

        Of a :attr:`partial` case it counts on :attr:`native_outlined` only.
        """
        full = self._sound("label_full") if "label_full" in self._arrays else self.raw_label
        return self._uncrop(np.asarray(full), 0)

    def judged_by(self, slices: Sequence[int] | np.ndarray) -> Self:
        """The same case as if no other of its outlined slices were, for metrics of these alone."""
        view = copy.copy(self)
        view.outlined = np.intersect1d(self.outlined, slices)
        return view

    @property
    def native_outlined(self) -> np.ndarray | None:
        """:attr:`outlined` as slices of the full canonical grid; None where all are."""
        return self.info.crop[0][0] + self.outlined if self.partial else None

    def restore(self, maps: np.ndarray) -> np.ndarray:
        """Bring maps of stored slices back to the full canonical grid.

        Args:
            maps: ``(class, slices, height, width)`` class probabilities on the stored grid.

        Returns:
            ``(class, slices, height, width)`` on the full grid, ``float32``; outside the crop all is background.
        """
        (_, _), (y0, y1), (x0, x1) = self.info.crop
        size = (y1 - y0, x1 - x0)
        if maps.shape[2:] != size:
            maps = resize(maps, (*maps.shape[:2], *size), order=1, mode="edge", anti_aliasing=False)
        out = np.empty((maps.shape[0], *self.info.geometry.canonical_shape), dtype=np.float32)
        for channel, values in enumerate(maps):
            out[channel] = self._uncrop(np.asarray(values, np.float32), 1.0 if channel == 0 else 0.0)
        return out

    def _uncrop(self, values: np.ndarray, fill: float) -> np.ndarray:
        out = np.full(self.info.geometry.canonical_shape, fill, dtype=values.dtype)
        (z0, z1), (y0, y1), (x0, x1) = self.info.crop
        out[z0:z1, y0:y1, x0:x1] = values
        return out


def to_space(classes: np.ndarray, known: LabelSpace, wanted: LabelSpace, where: str) -> np.ndarray:
    """Bring a class map from one label space to another: subregions unite to the whole lesion, a cavity is no tumour.

    Raises:
        DataError: Subregions are wanted where only the whole lesion is known.
    """
    if known == wanted:
        return classes
    if known == WHOLE_LESION:
        raise DataError(
            f"case {where} has labels of the {known.name} only",
            expected=f"{wanted.name}: {', '.join(wanted.classes)}",
            remedy="use --labels whole-lesion",
        )
    return _classes_in(known, wanted)[classes]


def _classes_in(known: LabelSpace, wanted: LabelSpace) -> np.ndarray:
    """The class of ``wanted`` for each class of ``known``, ``uint8``; what it does not know counts as background."""
    classes = np.arange(known.num_classes, dtype=np.uint8)
    if wanted == WHOLE_LESION:
        return np.isin(classes, known.regions["WT"]).astype(np.uint8)
    # The spaces of subregions differ in the cavity alone, their last class.
    return np.where(classes < wanted.num_classes, classes, np.uint8(0))
