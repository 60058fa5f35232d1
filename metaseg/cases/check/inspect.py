"""Checks inside one case, in one pass over its files: every volume is decoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from metaseg.cases.case import Case, Volume
from metaseg.cases.check.grids import POSITION_TOLERANCE_MM, corner_distance
from metaseg.cases.check.images import VolumeChecks, check_constant, check_grid, check_outline, times
from metaseg.cases.check.report import Finding
from metaseg.cases.geometry import Geometry
from metaseg.cases.intensities import intensity_problem
from metaseg.cases.labels import LabelScheme
from metaseg.errors import MetasegError


@dataclass(frozen=True)
class Fingerprint:
    """Digest of an image's values.

    Attributes:
        digest: Equal for images of equal shape and values, whatever their compression, orientation or number type.
        case: Id of the case.
        modality: The image's modality.
        file: The image's file.
    """

    digest: str
    case: str
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


def relative_name(file: Path, root: Path) -> str:
    """A file's name inside the checked folder, with forward slashes."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


def inspect_case(case: Case, root: Path) -> Inspection:
    """Read all files of a case and note what is wrong with them.

    Nothing is raised for bad data: whatever a file does becomes a finding, so that the pass goes on to the next case.
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
        _check_label(seen, case.label, case.scheme, reference, checks.head)
    return seen


def _load(seen: Inspection, name: str, volume: Volume) -> tuple[Geometry, np.ndarray] | None:
    """Grid and values of a volume, or None after noting why there are none."""
    # A 4-D file holds several modalities: what is wrong with the file is said once.
    if seen.is_broken(volume.files):
        return None
    for kind in ("header", "unreadable"):
        try:
            if kind == "header":
                geometry = volume.geometry()
            else:
                return geometry, volume.read()
        except MetasegError as error:
            where = error.where if isinstance(error.where, Path) else volume.files[0]
            expected = f" (expected: {error.expected})" if error.expected else ""
            seen.add(kind, f"{name}: {error.found}{expected}", where, error.remedy)
            return None
        except (Exception, MemoryError) as error:
            # A file may break its library in ways nobody foresaw; the check reports that rather than stopping.
            seen.add(kind, f"{name}: {type(error).__name__}: {error}", volume.files[0])
            return None
    return None


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
            seen.fingerprints.append(Fingerprint(_digest(part), seen.case, name, file))


def _check_label(
    seen: Inspection,
    label: Volume,
    scheme: LabelScheme,
    reference: tuple[str, Geometry] | None,
    head: np.ndarray | None,
) -> None:
    loaded = _load(seen, "the label", label)
    if loaded is None:
        return
    geometry, array = loaded
    file = label.files[0]
    comparable = reference is not None and _same_grid(seen, "the label", file, geometry, *reference)
    if not _check_label_values(seen, file, array, scheme):
        return
    seen.add_all(check_outline(array != 0, head if comparable else None), file)


def _check_label_values(seen: Inspection, file: Path, array: np.ndarray, scheme: LabelScheme) -> bool:
    """Note values that the scheme does not know, and classes of those it knows; True if values are finite."""
    values = distinct_values(array)
    if not np.all(np.isfinite(values)):
        seen.add("non-finite", "the label holds NaN or infinity", file)
        return False
    try:
        scheme.check_values(values, file)
    except MetasegError as error:
        expected = f" (expected: {error.expected})" if error.expected else ""
        seen.add("label-values", f"{error.found}{expected}", file, error.remedy)
    else:
        seen.classes = frozenset(np.unique(scheme.decode(values, file)).tolist())
    return True


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
