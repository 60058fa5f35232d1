"""Checks inside one case, in one pass over its files, each decoded once: grids, values, background and label."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from metaseg.cases.case import Case, Volume
from metaseg.cases.check.report import Finding
from metaseg.cases.geometry import Geometry, corner_distance
from metaseg.cases.intensities import PLANAR_BACKGROUND, Background, find_background, intensity_problem
from metaseg.cases.outlined import settle_outlines, slices_text
from metaseg.cases.readers.common import relative_name
from metaseg.errors import MetasegError

POSITION_TOLERANCE_MM = 1e-3
"""Two files lie on one grid if none of its corners differ by more: headers keep single precision."""
SPACING_RANGE_MM = (0.05, 20.0)
"""Voxel sizes outside are taken for a wrong header."""
IN_PLANE_RATIO = 1.5
"""Pixels of axial slices may be so much longer than wide: networks see slices as they are, never resampled."""
SIDE_RANGE = (16, 1024)
"""Voxels along height and width; a network halves what is smaller to nothing, and brains are not larger."""
TILT_TOLERANCE_DEGREES = 0.1
"""Voxel axes further than this from the scanner's axes are called oblique."""
OUTSIDE_TOLERANCE = 0.01
"""Fraction of a label that may lie in the background of all images: published outlines touch the skull-stripped rim."""
LEAST_COVERAGE = 0.1
"""A modality shows at least this fraction of the head that all show: fields of view differ, but not by more."""
_LOOK = 20_000
"""Voxels by which two modalities are recognised as one image."""
Found = tuple[str, str]
"""Kind of :data:`~metaseg.cases.check.report.KINDS`, and what was found, as one sentence."""


def tilt_degrees(geometry: Geometry) -> float:
    """Largest angle in degrees between a voxel axis and the scanner axis nearest to it; shear counts as well."""
    directions = np.asarray(geometry.affine)[:3, :3]
    cosines = np.abs(directions / np.linalg.norm(directions, axis=0)).max(axis=0)
    return float(np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0))).max())


def implausible_spacing(geometry: Geometry) -> bool:
    """True if a voxel size lies outside :data:`SPACING_RANGE_MM`; images without a voxel size are not judged."""
    low, high = SPACING_RANGE_MM
    return geometry.unit == "mm" and any(not low <= size <= high for size in geometry.spacing)


def in_plane_ratio(geometry: Geometry) -> float:
    """How much longer an axial slice's pixel is than wide, or the other way round."""
    _, height, width = geometry.spacing
    return max(height, width) / min(height, width)


def implausible_size(geometry: Geometry) -> bool:
    """True if height or width lies outside :data:`SIDE_RANGE`, or there are more slices than its upper end."""
    slices, *sides = geometry.canonical_shape
    low, high = SIDE_RANGE
    return slices > high or any(not low <= side <= high for side in sides)


def check_grid(name: str, geometry: Geometry) -> Iterator[Found]:
    """What is doubtful about the grid of a 3-D image."""
    if geometry.planar:
        return
    if min(geometry.shape) == 1:
        yield "dimensions", f"{name} has {times(geometry.shape)} voxels: a single slice"
    elif implausible_size(geometry):
        usual = " to ".join(map(str, SIDE_RANGE))
        yield "grid-size", f"{name} has {times(geometry.shape)} voxels (slices of {usual} voxels a side are usual)"
    if implausible_spacing(geometry):
        usual = " to ".join(f"{size:g}" for size in SPACING_RANGE_MM)
        yield "spacing", f"{name} has voxels of {times(geometry.spacing)} mm (slices, height, width; {usual} are usual)"
    elif in_plane_ratio(geometry) > IN_PLANE_RATIO:
        yield "anisotropic", f"{name}'s axial slices have pixels of {times(geometry.spacing[1:])} mm (height, width)"
    tilt = tilt_degrees(geometry)
    if tilt > TILT_TOLERANCE_DEGREES:
        yield "oblique", f"{name}'s voxel axes are tilted by {tilt:.1f} degrees"


def check_constant(name: str, image: np.ndarray) -> Iterator[Found]:
    """Whether an image has one value everywhere."""
    if image.size and image.min() == image.max():
        yield "constant", f"{name} is {image.flat[0]:g} everywhere"


class VolumeChecks:
    """Checks of the volumes of a case, given one after the other.

    Attributes:
        head: What is not background in any volume so far, boolean ``(slices, height, width)``; None before the first.
    """

    def __init__(self) -> None:
        self.head: np.ndarray | None = None
        self._brightest: np.ndarray | None = None
        self._inside: dict[str, int] = {}
        self._looks: dict[str, np.ndarray] = {}

    def add(self, name: str, image: np.ndarray) -> tuple[Background, list[Found]]:
        """Background of the next volume ``(slices, height, width)``, all finite, and what is doubtful about it."""
        background = find_background(image)
        self._inside[name] = int(np.count_nonzero(background.inside))
        self._looks[name] = _look(image, background.inside)
        self.head = background.inside.copy() if self.head is None else self.head | background.inside
        return background, list(check_constant(name, image)) or list(_check_background(name, image, background))

    def add_pictures(self, images: np.ndarray) -> None:
        """Take the head of a stack of 2-D images ``(slices, height, width)``: their brightest modality tells it."""
        self._brightest = images if self._brightest is None else np.maximum(self._brightest, images)
        self.head = self._brightest > PLANAR_BACKGROUND * float(self._brightest.max())

    def compare(self) -> Iterator[tuple[str, Found]]:
        """Volumes that show next to nothing of the head, and volumes that are one image, with the name of the first."""
        together = 0 if self.head is None else int(np.count_nonzero(self.head))
        for name, voxels in self._inside.items():
            if 0 < voxels < LEAST_COVERAGE * together:
                yield name, ("coverage", f"{name} shows {voxels / together:.1%} of the head that all images show")
        copied: dict[str, list[str]] = {}
        for name, values in self._looks.items():
            first = next((other for other in copied if _alike(values, self._looks[other])), name)
            copied.setdefault(first, []).append(name)
        for first, names in copied.items():
            if len(names) > 1:
                yield first, ("same-modality", f"{' and '.join(names)} are the same image")


def _check_background(name: str, image: np.ndarray, background: Background) -> Iterator[Found]:
    within = image[background.inside]
    if within.size and within.min() == within.max():
        yield "constant", f"{name} is {within[0]:g} everywhere in the head"
    if background.kind == "unclear":
        yield "background-unclear", f"{name}: head and background cannot be distinguished"
    elif background.description is not None:
        yield "background", f"{name} {background.description}"


def _look(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Some voxels, as z-scores of the head: the same for an image and for one with other numbers for the same grey."""
    step = max(1, image.size // _LOOK) | 1
    some, head = image.ravel()[::step].astype(np.float64), inside.ravel()[::step]
    deviation = float(some[head].std()) if head.any() else 0.0
    return np.where(head, (some - some[head].mean()) / deviation, 0.0) if deviation > 0 else np.zeros(0)


def _alike(first: np.ndarray, other: np.ndarray) -> bool:
    return first.size > 1 and first.shape == other.shape and bool(np.allclose(first, other, rtol=0.0, atol=1e-3))


def check_outline(outlined: np.ndarray, head: np.ndarray | None) -> Iterator[Found]:
    """Whether there is an outline, and it lies on the head.

    Args:
        outlined: Boolean ``(slices, height, width)``.
        head: What is not background in any image, alike, or None where that cannot be compared.
    """
    voxels = int(np.count_nonzero(outlined))
    if voxels == 0:
        yield "label-empty", "the label outlines nothing"
    elif head is not None:
        fraction = int(np.count_nonzero(outlined & ~head)) / voxels
        if fraction > OUTSIDE_TOLERANCE:
            usual = f"(up to {OUTSIDE_TOLERANCE:.0%} is usual)"
            yield "label-outside", f"{fraction:.1%} of the label lies in the background of all images {usual}"


def check_outlined(outlined: np.ndarray, geometry: Geometry) -> Iterator[Found]:
    """How many slices are outlined, where not all are.

    Args:
        outlined: Boolean ``(slices,)``, as :func:`~metaseg.cases.outlined.settle_outlines` gives it.
        geometry: Of the images; slices are named by their numbers in the file.
    """
    total, count = len(outlined), int(np.count_nonzero(outlined))
    if count == 0:
        yield "label-missing", f"none of the label's {total} slices is outlined"
    elif count < total:
        numbers = sorted(geometry.turned_slice(int(place)) for place in np.flatnonzero(outlined))
        yield "label-partial", f"{count} of {total} slices are outlined: {slices_text(numbers)}"


def times(sizes: Iterable[float]) -> str:
    """Sizes along axes, such as ``"240 x 240 x 155"``."""
    return " x ".join(f"{size:g}" for size in sizes)


@dataclass(frozen=True)
class Fingerprint:
    """Digest of an image's values.

    Attributes:
        digest: Equal for images of equal shape and values, whatever their compression, orientation or number type.
        modality: The image's modality.
        file: The image's file.
    """

    digest: str
    modality: str
    file: Path


@dataclass
class Inspection:
    """What was seen in one case.

    Attributes:
        case: Id of the case.
        root: The checked folder; findings name files relative to it.
        findings: What is wrong within the case.
        fingerprints: One for each 3-D image, or for each picture of a stack.
        classes: Class values that the label holds, the background included; None where it cannot be read.
    """

    case: str
    root: Path
    findings: list[Finding] = field(default_factory=list)
    fingerprints: list[Fingerprint] = field(default_factory=list)
    classes: frozenset[int] | None = None

    def add(self, kind: str, found: str, file: Path | None = None, remedy: str | None = None) -> None:
        """Note a finding."""
        name = relative_name(file, self.root) if file else ""
        self.findings.append(Finding.of(kind, self.case, found, file=name, remedy=remedy))

    def add_all(self, found: Iterable[tuple[str, str]], file: Path | None) -> None:
        """Note findings of one file, given as kind and sentence."""
        for kind, text in found:
            self.add(kind, text, file)

    def is_broken(self, files: tuple[Path, ...]) -> bool:
        """True if one of the files was found to be unusable."""
        names = {relative_name(file, self.root) for file in files}
        return any(finding.kind in ("header", "unreadable") and finding.file in names for finding in self.findings)


def inspect_case(case: Case, root: Path) -> Inspection:
    """Read all files of a case and note what is wrong with them.

    Nothing is raised for bad data: whatever a file does becomes a finding, and the pass continues.
    """
    seen = Inspection(case.id, root)
    reference: tuple[str, Geometry] | None = None
    checks = VolumeChecks()
    for modality, volume in case.images.items():
        loaded = _load(seen, modality, volume)
        if loaded is None:
            continue
        geometry, array = loaded
        if reference is None:
            reference = modality, geometry
            seen.add_all(check_grid(modality, geometry), volume.files[0])
        elif not _same_grid(seen, modality, volume.files[0], geometry, *reference):
            continue
        _check_values(seen, modality, volume, geometry, array, checks)
    for modality, finding in checks.compare():
        seen.add_all([finding], case.images[modality].files[0])
    if case.label is not None:
        _check_label(seen, case, case.label, reference, checks.head)
    return seen


def _load(seen: Inspection, name: str, volume: Volume) -> tuple[Geometry, np.ndarray] | None:
    """Grid and values of a volume, or None after noting why there are none."""
    # A 4-D file holds several modalities: what is wrong with the file is said once.
    if seen.is_broken(volume.files):
        return None
    kind = "header"
    try:
        geometry = volume.geometry()
        kind = "unreadable"
        return geometry, volume.read()
    except MetasegError as error:
        where = error.where if isinstance(error.where, Path) else volume.files[0]
        seen.add(kind, f"{name}: {_expecting(error)}", where, error.remedy)
    except (Exception, MemoryError) as error:
        # A file may break its library in ways nobody foresaw; the check reports that rather than stopping.
        seen.add(kind, f"{name}: {type(error).__name__}: {error}", volume.files[0])
    return None


def _expecting(error: MetasegError) -> str:
    return f"{error.found} (expected: {error.expected})" if error.expected else error.found


def _same_grid(seen: Inspection, name: str, file: Path, geometry: Geometry, first_name: str, first: Geometry) -> bool:
    """Note where a volume's grid differs from the first image's; True if arrays of both can be laid over each other."""
    if geometry.canonical_shape != first.canonical_shape:
        found = f"{name} has {times(geometry.shape)} voxels, {first_name} has {times(first.shape)}"
        seen.add("shape", found, file)
        return False
    if geometry.planar or first.planar:
        return True
    distance = corner_distance(first, geometry)
    if distance > POSITION_TOLERANCE_MM:
        seen.add("affine", f"{name} lies up to {distance:.3g} mm from {first_name}", file)
    return True


def _check_values(
    seen: Inspection, name: str, volume: Volume, geometry: Geometry, array: np.ndarray, checks: VolumeChecks
) -> None:
    """Finite, not constant, with a background; take fingerprints. Every picture of a stack is judged by itself."""
    pictures = geometry.planar and len(volume.files) == len(array)
    for part, file in zip(array, volume.files, strict=True) if pictures else [(array, volume.files[0])]:
        problem = intensity_problem(part)
        if problem is not None:
            seen.add("non-finite" if "NaN" in problem else "intensities", f"{name} {problem}", file)
            continue
        found = list(check_constant(name, part)) if geometry.planar else checks.add(name, part)[1]
        seen.add_all(found, file)
        if not any(kind == "constant" for kind, _ in found):
            seen.fingerprints.append(Fingerprint(_digest(part), name, file))
    if geometry.planar:
        checks.add_pictures(array)


def _check_label(
    seen: Inspection, case: Case, label: Volume, reference: tuple[str, Geometry] | None, head: np.ndarray | None
) -> None:
    loaded = _load(seen, "the label", label)
    if loaded is None:
        return
    geometry, array = loaded
    file, values = label.files[0], distinct_values(array)
    comparable = reference is not None and _same_grid(seen, "the label", file, geometry, *reference)
    if comparable and (case.outlined is not None or case.scheme.ignore in values):
        _check_partial_label(seen, case, array, file, head)
        return
    if not np.all(np.isfinite(values)):
        seen.add("non-finite", "the label holds NaN or infinity", file)
        return
    try:
        seen.classes = frozenset(np.unique(case.scheme.decode(values, file)).tolist())
    except MetasegError as error:
        seen.add("label-values", _expecting(error), file, error.remedy)
    seen.add_all(check_outline(array != 0, head if comparable and not geometry.planar else None), file)


def _check_partial_label(seen: Inspection, case: Case, array: np.ndarray, file: Path, head: np.ndarray | None) -> None:
    """As :func:`_check_label`, of a label that is known on some slices only."""
    try:
        label, outlined = settle_outlines(case.decode_label(array, file), head)
    except MetasegError as error:
        seen.add("label-values", _expecting(error), file, error.remedy)
        return
    seen.add_all(check_outlined(outlined, case.geometry), file)
    if outlined.any():
        seen.classes = frozenset(np.unique(label[outlined]).tolist())
        planar = case.geometry.planar
        seen.add_all(check_outline(label > 0, None if planar else head), file)


def distinct_values(array: np.ndarray) -> np.ndarray:
    """The values that occur, ascending; as ``np.unique``, but without sorting whole-number images."""
    if array.dtype.kind in "iu" and array.size:
        low, high = int(array.min()), int(array.max())
        if high - low < 1 << 16:
            return np.flatnonzero(np.bincount(array.ravel().astype(np.int64) - low)) + low
    return np.unique(array)


def _digest(array: np.ndarray) -> str:
    with np.errstate(invalid="ignore"):
        small = array.astype(np.int16, copy=False)
    if small is not array and np.array_equal(small, array):
        array = small
    digest = hashlib.blake2b(f"{array.shape}{array.dtype.str}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
