"""2-D slices, of which a patient's of one class, shape and pixel size make a case.

They are listed in an ``index.csv`` with the columns ``patient_id`` (or ``patient``), ``image``, ``mask``, ``class``;
optional ``slice_id`` (or ``slice``), ``modality``, ``pixel_mm``. Paths are relative to the table. Without an ``image``
column, the files are ``images/<slice_id>.*`` and ``masks/<slice_id>.*``. A slice in several modalities is one row for
each, with one ``slice_id``.

Or they are Cheng's original files (figshare 1512427): ``1.mat`` to ``3064.mat``, MATLAB v7.3, one T1-CE slice each (Jun
Cheng et al., "Enhanced Performance of Brain Tumor Classification via Tumor Region Augmentation and Partition", PLoS ONE
2015). Every file names its patient, so that splits can keep a patient's slices together.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metaseg.cases.case import Case, Volume
from metaseg.cases.labels import WHOLE_LESION, LabelScheme, label_scheme
from metaseg.cases.readers.common import (
    PICTURE_FILES,
    Reader,
    ReadOptions,
    absent_file,
    doubled_files,
    natural_key,
    other_case,
    unreadable_file,
)
from metaseg.cases.volumes import IMAGE_SUFFIXES, ImageStack, MatStack, cheng_numbers, image_size, open_cheng_mat
from metaseg.config.modalities import canonical_modality
from metaseg.errors import DataError
from metaseg.files import FileKind, read_rows

INDEX = "index.csv"
DEFAULT_MODALITY = "t1ce"
_MASK_WORD = re.compile(
    r"[-_ ]?(mask|seg|segmentation|label|gt|roi)s?$|^(mask|seg|segmentation|label|gt|roi)s?[-_ ]", re.IGNORECASE
)
_KIND = FileKind(
    f"a table {INDEX} in UTF-8, a row for each slice and modality: patient_id, image, mask, class (optional: slice_id, "
    "modality, pixel_mm)",
    "correct the table",
    DataError,
)
_ALIASES = {"patient": "patient_id", "slice": "slice_id"}
TUMOUR_TYPES = {1: "meningioma", 2: "glioma", 3: "pituitary"}
_MAT_NAME = re.compile(r"\d+\.mat", re.IGNORECASE)


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
    variants: defaultdict[str, set[tuple[str, Any]]] = defaultdict(set)
    for record in records:
        variants[record.patient] |= {("kind", record.kind), ("shape", record.shape), ("size", record.pixel_mm)}
    groups: dict[str, list[SliceRecord]] = {}
    for record in records:
        several = Counter(what for what, _ in variants[record.patient])
        case_id = record.patient
        if several["kind"] > 1:
            case_id += f"-{record.kind or 'none'}"
        if several["shape"] > 1:
            case_id += f"-{record.shape[0]}x{record.shape[1]}"
        if several["size"] > 1:
            case_id += f"-{record.pixel_mm:g}mm" if record.pixel_mm else "-pixels"
        groups.setdefault(case_id, []).append(record)
    return groups


def matches(path: Path) -> bool:
    """Whether ``path`` holds an ``index.csv``."""
    return (path / INDEX).is_file()


def read(path: Path, options: ReadOptions) -> list[Case]:
    """Make one case per patient from the table.

    Raises:
        DataError: The table is unreadable or lacks columns or entries, or in strict mode lists one picture for two
            patients or a mask for another slice.
    """
    table = path / INDEX
    records: list[SliceRecord] = []
    for number, row in enumerate(_read_rows(table), start=2):
        try:
            record = _record(row, number, table, options)
            if record.mask is not None and not record.mask.exists():
                options.left_out.append(absent_file(record.mask, record.patient))
            records.append(record)
        except DataError as error:
            if options.strict and error.where == table:
                raise
            file = Path(str(error.where))
            if mask := _listed_file(row, "mask", "masks", table.parent):
                options.accounted.add(mask)
            patient = row.get("patient_id", "")
            options.left_out.append(
                unreadable_file(file, error.found, patient) if file.exists() else absent_file(file, patient)
            )
    _find_other_slices(records, options)
    return [_make_case(case_id, members, table, options) for case_id, members in group_slices(records).items()]


def _read_rows(table: Path) -> list[dict[str, str]]:
    """Rows of the table with canonical column names and no spaces around values."""
    rows = [
        {_ALIASES.get(name.lower(), name.lower()): value.strip() for name, value in row.items()}
        for row in read_rows(table, _KIND)
    ]
    if not rows:
        raise _KIND.refuse("the table has no rows", table)
    columns = set(rows[0])
    if "patient_id" not in columns or not columns & {"image", "slice_id"}:
        found = f"the table has the columns {', '.join(sorted(columns)) or '(none)'}"
        raise _KIND.refuse(
            found, table, "name the patient of every slice: splits must keep a patient's slices together"
        )
    return rows


def _record(row: Mapping[str, str], number: int, table: Path, options: ReadOptions) -> SliceRecord:
    if not row["patient_id"]:
        raise _KIND.refuse(f"row {number} names no patient", table, "fill in patient_id")
    image = _listed_file(row, "image", "images", table.parent)
    if image is None:
        where = table if "image" in row else table.parent / "images" / row.get("slice_id", "")
        raise _KIND.refuse(f"row {number} names no image that is there", where, "fill in the column image")
    width, height = image_size(image)
    return SliceRecord(
        patient=row["patient_id"],
        kind=row.get("class", ""),
        shape=(height, width),
        image=image,
        mask=_listed_file(row, "mask", "masks", table.parent),
        modality=canonical_modality(row.get("modality") or options.modality or DEFAULT_MODALITY),
        slice_id=row.get("slice_id") or row["image"],
        pixel_mm=_pixel_size(row.get("pixel_mm", ""), number, table),
    )


def _listed_file(row: Mapping[str, str], column: str, folder: str, base: Path) -> Path | None:
    """The file of a row: as listed, or by the slice's name in the folder of its kind."""
    if column in row:
        return base / row[column] if row[column] else None
    candidates = (base / folder / f"{row.get('slice_id', '')}{suffix}" for suffix in IMAGE_SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _pixel_size(text: str, number: int, table: Path) -> float | None:
    if not text:
        return None
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 0 < size < 100:
        raise _KIND.refuse(f"row {number}: pixel_mm is '{text}'", table, "write the edge of a pixel in mm")
    return size


def _find_other_slices(records: Sequence[SliceRecord], options: ReadOptions) -> None:
    """Refuse, or note, a picture that is listed for two patients, and a mask that carries another slice's name."""
    patients: dict[Path, str] = {}
    named = {record.image.stem: record for record in records}
    outlined: dict[Path, SliceRecord] = {}
    for record in records:
        if (owner := patients.setdefault(record.image, record.patient)) != record.patient:
            found = f"{record.image.name} is listed for patient {owner} and for patient {record.patient}"
            options.refuse_or_note(other_case(found, record.image), record.image, record.patient)
        if record.mask is None:
            continue
        bare = _MASK_WORD.sub("", record.mask.stem)
        other = outlined.setdefault(record.mask, record)
        if record.image.stem not in (bare, record.mask.stem):
            other = named.get(bare, other)
        if other.slice_id != record.slice_id:
            found = f"slice {record.slice_id} is listed with the mask of slice {other.slice_id}: {record.mask.name}"
            options.refuse_or_note(other_case(found, record.image, record.mask), record.mask, record.patient)


def _make_case(case_id: str, records: Sequence[SliceRecord], table: Path, options: ReadOptions) -> Case:
    by_modality, doubled = _by_modality(case_id, records, table)
    if doubled and options.strict:
        twin = doubled[0]
        first = by_modality[twin.modality][twin.slice_id]
        raise doubled_files(case_id, f"slice {twin.slice_id} in {twin.modality}", (first.image, twin.image))
    images: dict[str, Volume] = {
        modality: ImageStack(tuple(record.image for record in slices.values()), records[0].pixel_mm)
        for modality, slices in by_modality.items()
    }
    scheme = options.scheme or label_scheme("whole-lesion")
    kind = records[0].kind
    label, outlined = _label(list(by_modality.values()), scheme)
    return Case(
        id=case_id,
        patient=records[0].patient,
        cohort=kind or "unknown",
        images=images,
        label=label,
        scheme=scheme,
        grade=kind or None,
        format="slices",
        doubled=tuple(record.image for record in doubled),
        outlined=outlined,
    )


_Slices = dict[str, SliceRecord]


def _by_modality(
    case_id: str, records: Sequence[SliceRecord], table: Path
) -> tuple[dict[str, _Slices], list[SliceRecord]]:
    """Records by modality and slice, in one slice order for all; and those of a slice that was there already."""
    by_modality: dict[str, _Slices] = {}
    doubled = []
    for record in records:
        if by_modality.setdefault(record.modality, {}).setdefault(record.slice_id, record) is not record:
            doubled.append(record)
    first = next(iter(by_modality.values()))
    for modality, slices in by_modality.items():
        lacking = first.keys() ^ slices.keys()
        if lacking:
            found = f"case {case_id}: slice {min(lacking)} is not there in every modality ({', '.join(by_modality)})"
            raise _KIND.refuse(
                found, table, "add the rows, with the same slice_id in all modalities, or omit the slice"
            )
        by_modality[modality] = {name: slices[name] for name in first}
    return by_modality, doubled


def _label(
    by_modality: Sequence[Mapping[str, SliceRecord]], scheme: LabelScheme
) -> tuple[ImageStack | None, tuple[int, ...] | None]:
    """The stack of masks, and which slices have one; None where all have.

    A slice's mask may be in the row of any of its modalities. One without a mask was not outlined: where there is no
    tumour, the mask is empty.
    """
    masks = [next((slices[name].mask for slices in by_modality if slices[name].mask), None) for name in by_modality[0]]
    there = [mask for mask in masks if mask is not None]
    if not there:
        return None, None
    pixel_mm = next(iter(by_modality[0].values())).pixel_mm
    binary = scheme.space is WHOLE_LESION and scheme.ignore is None
    # Any mask can stand in where there is none: what slices hold that are not outlined is never looked at.
    label = ImageStack(tuple(mask or there[0] for mask in masks), pixel_mm, binary=binary)
    if len(there) == len(masks):
        return label, None
    return label, tuple(place for place, mask in enumerate(masks) if mask is not None)


def _matches_cheng(path: Path) -> bool:
    """Whether numbered ``.mat`` files lie in ``path`` or one folder below (the release comes in four archives)."""
    return next(_mat_files(path), None) is not None


def _read_cheng(path: Path, options: ReadOptions) -> list[Case]:
    """One case per patient of Cheng's files."""
    records: list[SliceRecord] = []
    for file in sorted(_mat_files(path), key=lambda file: natural_key(file.name)):
        try:
            records.append(_cheng_record(file))
        except DataError as error:
            options.left_out.append(unreadable_file(file, error.found))
    scheme = options.scheme or label_scheme("whole-lesion")
    cases = []
    for case_id, members in group_slices(records).items():
        files = tuple(record.image for record in members)
        cases.append(
            Case(
                id=case_id,
                patient=members[0].patient,
                cohort=members[0].kind,
                images={options.modality or "t1ce": MatStack(files, "image")},
                label=MatStack(files, "tumorMask"),
                scheme=scheme,
                grade=members[0].kind,
                format="cheng-mat",
            )
        )
    return cases


def _mat_files(path: Path) -> Iterator[Path]:
    below = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    for folder in (path, *below):
        yield from (file for file in sorted(folder.iterdir()) if _MAT_NAME.fullmatch(file.name))


def _cheng_record(file: Path) -> SliceRecord:
    with open_cheng_mat(file) as record:
        number = float(np.ravel(cheng_numbers(record, "label")[()])[0])
        patient = "".join(chr(int(code)) for code in np.ravel(cheng_numbers(record, "PID")[()])).strip()
        patient.encode("utf-8")
        # HDF5 shows the transpose of the MATLAB array.
        width, height = cheng_numbers(record, "image", 2).shape
        if cheng_numbers(record, "tumorMask", 2).shape != (width, height):
            raise ValueError("its image and its outline have other shapes")
    if number not in TUMOUR_TYPES or not patient:
        raise DataError(
            f"the file says tumour type {number:g}, patient '{patient}'",
            where=file,
            expected="type " + ", ".join(f"{key} ({name})" for key, name in TUMOUR_TYPES.items()) + ", and a patient",
            remedy="download the file again",
        )
    return SliceRecord(patient, TUMOUR_TYPES[int(number)], (height, width), file, file, slice_id=file.stem)


READER = Reader(
    "slices",
    "2-D slices: a table index.csv with columns patient_id, image, mask, class",
    matches,
    read,
    images=PICTURE_FILES,
)
CHENG_READER = Reader(
    "cheng-mat", "Cheng's MATLAB files: 1.mat to 3064.mat", _matches_cheng, _read_cheng, images=(".mat",)
)
