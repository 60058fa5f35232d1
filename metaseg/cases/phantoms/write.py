"""Write phantoms as files, in the naming and label convention of BraTS 2018."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from filelock import FileLock

from metaseg.cases.phantoms.phantom import COHORTS, SEQUENCES, SIZES, Phantom, PhantomSize, build_phantom
from metaseg.errors import DataError, UsageError, unknown_name
from metaseg.files import FileKind, check_shape, making_folder, read_json, write_text, writing

MARKER = "metaseg-phantoms.json"
"""The file that marks a folder of phantoms."""
VERSION = 1
"""Raised whenever the same seed gives other files than before."""
DESCRIPTION = "synthetic (metaseg phantom)"
"""Stands in the header of every file."""


def make_phantoms(
    out: str | Path,
    cohort: str = "hgg",
    cases: int = 8,
    seed: int = 0,
    size: Literal["small", "full"] = "small",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Make synthetic patients with a brain tumour, named and laid out as in BraTS 2018.

    Files are ``OUT/<COHORT>/Phantom_<COHORT>_<nnn>/Phantom_<COHORT>_<nnn>_{t1,t1ce,t2,flair,seg}.nii.gz``, with
    ``-seed<s>`` behind the number for seeds other than 0; labels are
    0, 1 (necrotic or non-enhancing core), 2 (edema) and 4 (enhancing tumour). A patient depends on cohort, seed and
    number only and its files are the same to the byte each time. Patients that are already there are kept, so a call
    that was cut off continues where it was, and cohorts may share a folder.

    Args:
        out: Folder to write to; new, empty, or one of phantoms of the same size.
        cohort: ``"hgg"``, ``"lgg"`` or ``"met"``: high-grade glioma, low-grade glioma, brain metastases.
        cases: Number of patients, numbered from 1.
        seed: Not negative.
        size: ``"full"`` for 240 x 240 x 155 voxels of 1 mm, ``"small"`` for 96 x 112 x 48 of 1.9 x 1.9 x 3 mm.
        progress: Called with the numbers of patients done and wanted after each of them.

    Returns:
        The patients' folders.

    Raises:
        UsageError: An argument is out of range.
        DataError: ``out`` holds other things, phantoms of another size or version, or the same patients from another
            seed.
    """
    out, name = Path(out), cohort.upper()
    if name not in COHORTS:
        raise UsageError(f"unknown cohort '{cohort}'", expected="one of " + ", ".join(COHORTS).lower())
    if size not in SIZES:
        raise unknown_name("size", size, SIZES)
    if cases < 1 or seed < 0:
        raise UsageError(f"{cases} cases of seed {seed}", expected="at least 1 case, and a seed of at least 0")
    _read_marker(out, size)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    # Two processes of one study may want them at the same time: the second waits, and finds them made.
    with FileLock(out / ".lock"):
        return _make(out, name, cases, seed, size, progress)


def _make(
    out: Path, name: str, cases: int, seed: int, size: str, progress: Callable[[int, int], None] | None
) -> list[Path]:
    """Make what is not there yet; for the holder of the folder's lock."""
    marker = _read_marker(out, size)
    # Another seed gives other patients: they must not pass for those that a network was trained on.
    suffix = f"-seed{seed}" if seed else ""
    wanted = {f"Phantom_{name}_{number:03d}{suffix}": number for number in range(1, cases + 1)}
    _check_seed(marker["cases"], wanted, seed, out)
    # First the table: another process takes a folder of patients without one for somebody else's.
    _write_marker(out, marker)
    with writing(out):
        (out / name).mkdir(exist_ok=True)
    for leftover in (out / name).glob(".*.part"):
        shutil.rmtree(leftover)
    folders = [out / name / case for case in wanted]
    for done, (folder, number) in enumerate(zip(folders, wanted.values(), strict=True), 1):
        if folder.name not in marker["cases"] or not _complete(folder):
            phantom = build_phantom(name, seed, number, SIZES[size])
            _write_case(folder, phantom, SIZES[size])
            marker["cases"][folder.name] = _entry(name, seed, number, phantom)
            _write_marker(out, marker)
        if progress is not None:
            progress(done, cases)
    return folders


def _entry(cohort: str, seed: int, number: int, phantom: Phantom) -> dict[str, Any]:
    grade = {} if cohort == "MET" else {"grade": cohort}
    drawn = {"seed": seed, "number": number, "lesions": phantom.lesions, "skull": phantom.skull}
    return {"cohort": cohort, **grade, **drawn}


def _read_marker(out: Path, size: str) -> dict[str, Any]:
    """Table of the phantoms in a folder; an empty one for a new folder.

    Raises:
        DataError: The folder holds something else.
    """
    empty = {"synthetic": True, "version": VERSION, "size": size, "cases": {}}
    if out.exists() and not out.is_dir():
        raise DataError("a file stands where the phantoms' folder should be", where=out, remedy="name another folder")
    found = {entry.name for entry in out.iterdir()} if out.exists() else set()
    others = sorted(entry for entry in found - {MARKER, *COHORTS} if not entry.startswith("."))
    if others or (found & set(COHORTS) and MARKER not in found):
        raise DataError(
            f"the folder holds other things than phantoms: {', '.join(others[:5] or sorted(found)[:5])}",
            where=out,
            expected=f"a new or empty folder, or one of phantoms with its {MARKER}",
            remedy="name another folder",
        )
    if MARKER not in found:
        return empty
    table = FileKind("the table of the phantoms in the folder", "delete the folder, or name another", DataError)
    marker: dict[str, Any] = read_json(out / MARKER, table)
    check_shape(marker, _Marker, partial(table.refuse, path=out / MARKER))
    if (marker["version"], marker["size"]) != (VERSION, size):
        made = f"the folder holds phantoms of size '{marker['size']}', version {marker['version']}"
        raise DataError(made, where=out, expected=f"size '{size}', version {VERSION}", remedy="name another folder")
    return marker


@dataclass(frozen=True)
class _Marker:
    """What the table of phantoms counts on."""

    version: int
    size: str
    cases: dict[str, dict[str, Any]]


def _check_seed(known: dict[str, Any], wanted: dict[str, int], seed: int, out: Path) -> None:
    for case in wanted:
        if case in known and known[case].get("seed") != seed:
            raise DataError(
                f"{case} exists already, made with seed {known[case].get('seed')}",
                where=out,
                expected=f"seed {seed}",
                remedy="name another folder for another seed",
            )


def _write_marker(out: Path, marker: dict[str, Any]) -> None:
    ordered = {**marker, "cases": dict(sorted(marker["cases"].items()))}
    write_text(out / MARKER, json.dumps(ordered, indent=2) + "\n")


def _file(folder: Path, kind: str) -> Path:
    return folder / f"{folder.name}_{kind}.nii.gz"


def _complete(folder: Path) -> bool:
    return all(_file(folder, kind).is_file() for kind in (*SEQUENCES, "seg"))


def _write_case(folder: Path, phantom: Phantom, size: PhantomSize) -> None:
    """Write a patient's files to a hidden folder beside its own, which then takes the name in one step."""
    if folder.exists():
        shutil.rmtree(folder)
    with making_folder(folder) as made:
        for kind, block in (*phantom.images.items(), ("seg", phantom.label)):
            (made / _file(folder, kind).name).write_bytes(_nifti(size.to_file_grid(block), size))


def _nifti(array: np.ndarray, size: PhantomSize) -> bytes:
    image = nib.Nifti1Image(array, np.asarray(size.geometry.affine), dtype=array.dtype)
    image.header["descrip"] = DESCRIPTION
    image.header.set_xyzt_units("mm")
    # Without a time stamp the same phantom is the same file.
    return gzip.compress(image.to_bytes(), compresslevel=4, mtime=0)
