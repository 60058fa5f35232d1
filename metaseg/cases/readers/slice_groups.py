"""From single 2-D slices to cases: one case per patient and image shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SliceRecord:
    """One 2-D slice of a patient, perhaps in one of several modalities.

    Attributes:
        patient: The patient.
        kind: Class of the slice, such as ``"meningioma"``, or ``""``.
        shape: ``(height, width)`` in pixels.
        image: The image file.
        mask: The mask file, or None.
        modality: Modality of the image.
        slice_id: Name of the slice; the same in all its modalities.
        pixel_mm: Edge of a pixel in mm, or None.
    """

    patient: str
    kind: str
    shape: tuple[int, int]
    image: Path
    mask: Path | None
    modality: str = ""
    slice_id: str = ""
    pixel_mm: float | None = None


def group_slices(records: Sequence[SliceRecord]) -> dict[str, list[SliceRecord]]:
    """Gather slices by patient; a patient's slices of another class, shape or pixel size make a case of their own.

    Returns:
        Case id to slices, both in order of first appearance. The id is the patient, with ``-<class>``,
        ``-<height>x<width>`` or ``-<size>mm`` behind it where the patient has several.
    """
    variants: dict[str, tuple[set[str], set[tuple[int, int]], set[float | None]]] = {}
    for record in records:
        kinds, shapes, sizes = variants.setdefault(record.patient, (set(), set(), set()))
        kinds.add(record.kind)
        shapes.add(record.shape)
        sizes.add(record.pixel_mm)
    groups: dict[str, list[SliceRecord]] = {}
    for record in records:
        kinds, shapes, sizes = variants[record.patient]
        case_id = record.patient
        if len(kinds) > 1:
            case_id += f"-{record.kind or 'none'}"
        if len(shapes) > 1:
            case_id += f"-{record.shape[0]}x{record.shape[1]}"
        if len(sizes) > 1:
            case_id += f"-{record.pixel_mm:g}mm" if record.pixel_mm else "-pixels"
        groups.setdefault(case_id, []).append(record)
    return groups
