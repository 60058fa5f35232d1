"""Prepare one case, for the store or in memory: crop to the brain, measure intensities, lay out slice by slice."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from skimage.transform import resize

from metaseg.cases.case import Case, printable
from metaseg.cases.check.inspect import Found, VolumeChecks, check_grid, check_outline, check_outlined
from metaseg.cases.check.report import KINDS
from metaseg.cases.file_checks import reading
from metaseg.cases.intensities import PLANAR_BACKGROUND, zero_outside
from metaseg.cases.outlined import settle_outlines
from metaseg.errors import DataError
from metaseg.files import making_folder
from metaseg.store.store import warn_of_findings
from metaseg.store.stored_case import FORMAT_VERSION, StoredCase, StoredCaseInfo, foreground, write_record


@dataclass(frozen=True)
class PrepareOptions:
    """What decides how a case is laid out.

    Attributes:
        modalities: Modalities to store, in order.
        image_size: Longest side in pixels to which slices of the full grid are shrunk; None keeps them.
    """

    modalities: tuple[str, ...]
    image_size: int | None = None


def case_key(case: Case, options: PrepareOptions) -> str:
    """Name of the case's folder in a store: its id and a digest of its files' content and of how it is prepared.

    Raises:
        DataError: A file cannot be read, or nobody knows what the label's values mean.
    """
    if case.label is not None and case.scheme.unclear is not None:
        # The same files may be there already, prepared by the convention that only stands in here.
        raise case.scheme.unclear
    digest = hashlib.blake2b(digest_size=8)
    identity = [*case.identity.values(), case.scheme.name]
    # Of a label that is known as a whole nothing is added: what earlier releases prepared is found again.
    known = (case.scheme.ignore, case.outlined)
    told = [known] if case.label is not None and known != (None, None) else []
    digest.update(json.dumps([FORMAT_VERSION, asdict(options), identity, bool(case.label), *told]).encode())
    wanted = [volume for name, volume in case.images.items() if name in options.modalities]
    for volume in [*wanted, *([case.label] if case.label else [])]:
        for path in volume.files:
            with reading(path, f"file of case {case.id}"):
                digest.update(hashlib.blake2b(path.read_bytes()).digest())
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', case.id)}-{digest.hexdigest()}"


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds a prepared case; those of an earlier release, which took all but 0 for it, do not."""
    return folder.exists() and StoredCase(folder).info.findings is not None


def prepare_case(case: Case, options: PrepareOptions, folder: Path) -> None:
    """Write one case to ``folder``, whole or not at all.

    Args:
        case: The case.
        options: How to prepare it.
        folder: Where it shall stand; left alone if :func:`is_prepared`.

    Raises:
        DataError: The case cannot be read, lacks a modality, or holds nothing but zeros.
    """
    if not is_prepared(folder):
        _write(folder, *arrange_case(case, options))


def arrange_case(case: Case, options: PrepareOptions, threads: int = 1) -> tuple[StoredCaseInfo, dict[str, np.ndarray]]:
    """What :func:`prepare_case` writes, in memory.

    Args:
        case: The case.
        options: How to prepare it.
        threads: Files to read at a time.

    Returns:
        What ``case.json`` holds, and the arrays ``images`` ``(slices, modality, height, width)`` and, of a labelled
        case, ``label`` and where slices were shrunk ``label_full`` ``(slices, height, width)``.

    Raises:
        DataError: As :func:`prepare_case`.
    """
    geometry = case.geometry
    planar = geometry.planar
    # Whole numbers stay int16 where that compares alike: a threshold between two of them is not the same in float32.
    images = case.read_images(options.modalities, threads, whole=not planar)
    findings = [] if planar else _set_background(case, options.modalities, images)
    background = PLANAR_BACKGROUND * float(images.max()) if planar else 0.0
    inside = head(images, background, case)
    label, outlined, found = _read_label(case, inside)
    findings += found
    crop = brain_box(inside, label, planar)
    box = tuple(slice(start, stop) for start, stop in crop)
    images = images[(slice(None), *box)]
    mean, sd = foreground_statistics(images, background)
    label_full = None if label is None else label[box]
    stored_images, stored_label = _shrink(images, label_full, geometry.canonical_shape, options.image_size)
    info = StoredCaseInfo(
        **case.identity,
        scheme=case.scheme.name,
        modalities=tuple(options.modalities),
        space=case.scheme.space.name,
        labelled=label is not None,
        geometry=geometry,
        crop=crop,
        shape=(len(stored_images[0]), *stored_images.shape[2:]),
        mean=mean,
        sd=sd,
        background=background,
        areas=_areas(stored_label, outlined[box[0]], case.scheme.space.num_classes),
        sources=tuple(printable(path.name) for path in case.files),
        findings=tuple(findings),
    )
    arrays = {"images": lossless(stored_images.transpose(1, 0, 2, 3)), "label": stored_label}
    if label_full is not None and stored_label is not None and stored_label.shape != label_full.shape:
        arrays["label_full"] = label_full
    return info, {name: array for name, array in arrays.items() if array is not None}


def _read_label(case: Case, inside: np.ndarray) -> tuple[np.ndarray | None, np.ndarray, list[tuple[str, str, str]]]:
    """The label, or None where no slice is outlined; which slices are; and what is doubtful about it.

    Args:
        case: The case.
        inside: What :func:`head` gives.
    """
    if case.label is None:
        return None, np.zeros(len(inside), dtype=bool), []
    label, outlined = settle_outlines(case.read_label(), inside)
    # Slices without head or tumour are cropped, so that outlines there tell nothing.
    known = bool(np.any(outlined & np.any(inside | (label > 0), axis=(1, 2))))
    found: list[Found] = []
    if not known:
        found = [*check_outlined(np.zeros_like(outlined), case.geometry)]
    elif not case.geometry.planar:
        found = [*check_outline(label > 0, inside)]
    return (label if known else None), outlined, [(*one, case.label.files[0].name) for one in found]


def _set_background(case: Case, modalities: Sequence[str], images: np.ndarray) -> list[tuple[str, str, str]]:
    """Write 0 outside the head into ``images``, ``(modality, slices, height, width)``, and say what is doubtful.

    Raises:
        DataError: Head and background cannot be distinguished.
    """
    checks, first = VolumeChecks(), modalities[0]
    findings = [(*found, case.images[first].files[0].name) for found in check_grid(first, case.geometry)]
    for name, image in zip(modalities, images, strict=True):
        file = case.images[name].files[0]
        background, found = checks.add(name, image)
        if background.kind == "unclear":
            kind = KINDS["background-unclear"]
            raise DataError(f"case {case.id}: {found[0][1]}", where=file, expected="0 outside", remedy=kind.remedy)
        image[...] = zero_outside(image, background)
        findings += [(*finding, file.name) for finding in found]
    return findings + [(*found, case.images[name].files[0].name) for name, found in checks.compare()]


def head(images: np.ndarray, background: float, case: Case) -> np.ndarray:
    """Everything that is not background in any modality, boolean ``(slices, height, width)``.

    Args:
        images: ``(modality, slices, height, width)``.
        background: As :func:`~metaseg.store.stored_case.foreground` takes it.
        case: For the message.

    Raises:
        DataError: There is no such voxel.
    """
    inside = foreground(images[0], background)
    for image in images[1:]:
        inside |= foreground(image, background)
    if not inside.any():
        raise DataError(
            f"case {case.id}: all images are empty",
            where=case.files[0],
            expected="intensities that differ from the background",
            remedy="leave the case out",
        )
    return inside


def brain_box(
    inside: np.ndarray, label: np.ndarray | None, planar: bool
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Smallest box around the head and the label.

    Args:
        inside: What :func:`head` gives.
        label: ``(slices, height, width)`` or None.
        planar: Keep all slices: in a stack of separate images each stands for itself.

    Returns:
        ``(start, stop)`` along slices, height and width.
    """
    if label is not None:
        inside = inside | (label > 0)
    rows = np.any(inside, axis=2)
    slices = (0, len(inside)) if planar else _span(np.any(rows, axis=1))
    return (slices, _span(np.any(rows, axis=0)), _span(np.any(np.any(inside, axis=0), axis=0)))


def _span(hits: np.ndarray) -> tuple[int, int]:
    """First True, and one after the last."""
    found = np.flatnonzero(hits)
    return (int(found[0]), int(found[-1]) + 1)


def foreground_statistics(images: np.ndarray, background: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the foreground voxels of each modality.

    A modality without foreground gives mean 0, and one whose foreground is constant gives deviation 1.

    Args:
        images: ``(modality, slices, height, width)``.
        background: As :func:`~metaseg.store.stored_case.foreground` takes it.
    """
    means, deviations = [], []
    for image in images:
        values = image[foreground(image, background)].astype(np.float64)
        means.append(float(values.mean()) if values.size else 0.0)
        deviations.append((float(values.std()) if values.size else 0.0) or 1.0)
    return tuple(means), tuple(deviations)


def lossless(images: np.ndarray) -> np.ndarray:
    """The same values as int16 where they are whole numbers that fit, otherwise float32; contiguous."""
    if images.dtype == np.int16:
        return np.ascontiguousarray(images)
    if images.min() >= -32768 and images.max() <= 32767 and np.array_equal(images, np.rint(images)):
        return np.ascontiguousarray(images, dtype=np.int16)
    return np.ascontiguousarray(images, dtype=np.float32)


def _shrink(
    images: np.ndarray, label: np.ndarray | None, full: tuple[int, int, int], image_size: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    scale = 1.0 if image_size is None else image_size / max(full[1:])
    if scale >= 1.0:
        return images, label
    images = images.astype(np.float32, copy=False)
    size = tuple(max(1, round(side * scale)) for side in images.shape[2:])

    def shrunk(volume: np.ndarray) -> np.ndarray:
        planes = (
            resize(plane, size, order=1, mode="edge", anti_aliasing=True, preserve_range=True) for plane in volume
        )
        return np.stack([*planes])

    small = np.stack([shrunk(image) for image in images]).astype(np.float32)
    if label is None:
        return small, None
    fractions = [shrunk((label == value).astype(np.float32)) for value in range(int(label.max()) + 1)]
    return small, np.argmax(np.stack(fractions), axis=0).astype(np.uint8)


def _areas(label: np.ndarray | None, outlined: np.ndarray, classes: int) -> tuple[tuple[int, ...], ...]:
    """Pixels of each class in each slice; none at all, not even of background, where nobody outlined."""
    if label is None:
        return tuple((0,) * classes for _ in outlined)
    lesion = [np.count_nonzero(label == value, axis=(1, 2)) for value in range(1, classes)]
    areas = np.stack([label[0].size - np.sum(lesion, axis=0), *lesion], axis=1) * outlined[:, None]
    return tuple(tuple(row) for row in areas.tolist())


def _write(folder: Path, info: StoredCaseInfo, arrays: dict[str, np.ndarray]) -> None:
    with making_folder(folder) as made:
        write_record(made, asdict(info), arrays, info.format_version)
        if folder.exists() and not is_prepared(folder):
            shutil.rmtree(folder)


class UnstoredCase(StoredCase):
    """The same as a stored case in all that it gives, bit for bit; its arrays are in memory.

    Args:
        case: Where it came from, for messages.
        info: What ``case.json`` would hold.
        images: Intensities ``(slices, modality, height, width)``, ``int16`` or ``float32``.
    """

    def __init__(self, case: Case, info: StoredCaseInfo, images: np.ndarray) -> None:
        self._hold(case.files[0].parent, info)
        self.raw_images = images


def read_unstored(case: Case, options: PrepareOptions, threads: int = 1) -> UnstoredCase:
    """Read and prepare an unlabelled case.

    Args:
        case: The case; without its label, which would change the crop.
        options: How to prepare it.
        threads: Files to read at a time.

    Raises:
        DataError: The case cannot be read, lacks a modality, or holds nothing but zeros.
    """
    if case.label is not None:
        raise ValueError(f"case {case.id} has a label: a labelled case belongs into a store")
    info, arrays = arrange_case(case, options, threads)
    prepared = UnstoredCase(case, info, arrays["images"])
    warn_of_findings([prepared])
    return prepared
