"""From whatever a user names (raw folders, prepared stores, nothing at all) to an opened slice store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from metaseg.cases.case import Case
from metaseg.cases.labels import WHOLE_LESION, doubts
from metaseg.cases.near_copies import GroupCopies
from metaseg.cases.phantoms import make_phantoms
from metaseg.cases.readers import read_cases
from metaseg.errors import DataError, UsageError, warn_user
from metaseg.store.build import Progress, build_store, cache_root, common_modalities
from metaseg.store.prepare_case import PrepareOptions
from metaseg.store.store import SliceStore, is_store, open_store
from metaseg.store.stored_case import StoredCase


def open_data(
    data: Sequence[str | Path],
    *,
    format: str = "auto",
    label_scheme: str | None = None,
    modalities: Sequence[str] = (),
    classes: Sequence[str] = (),
    image_size: int | None = None,
    cache: str | Path | None = None,
    jobs: int = 0,
    progress: Progress | None = None,
    group_copies: GroupCopies = "near",
    labels: str | None = None,
) -> SliceStore:
    """Open data for use: prepared stores as they are, raw folders prepared into the cache first.

    Args:
        data: Raw folders and stores; their cases are pooled.
        format: Naming convention of raw files.
        label_scheme: Label convention of raw files; by default the format's.
        modalities: Modalities needed, in order; by default all that every case has.
        classes: Keep only cases of these cohorts or grades.
        image_size: Longest side of stored slices in pixels, for raw folders.
        cache: Cache folder; see :func:`~metaseg.store.build.cache_root`.
        jobs: Worker threads.
        progress: Called after each prepared case.
        group_copies: Which pictures of raw image folders count as one patient; see
            :func:`~metaseg.cases.readers.read_cases`.
        labels: Name of the label space that is asked for, or None for the data's own.

    Raises:
        DataError: Nothing was found, ids stand twice, a case lacks a modality, or the labels mean something else than
            the files' names say.
    """
    raw: list[Case] = []
    folders: list[tuple[Path, int]] = []
    stored: SliceStore = SliceStore(())
    for path in map(Path, data):
        if is_store(path):
            stored = SliceStore((*stored.cases, *_of_classes(open_store(path), classes)))
        else:
            wished = tuple(classes) or None
            raw += read_cases(path, format=format, label_scheme=label_scheme, classes=wished, group_copies=group_copies)
            folders.append((path, len(raw)))
    if raw:
        wanted = tuple(modalities) or common_modalities(raw)
        for case in raw:
            case.require(wanted)
        options = PrepareOptions(wanted, image_size)
        built = build_store(raw, cache_root(cache) / "cases", options, jobs, progress, publish=False)
        begin = 0
        for path, end in folders:
            _weigh_labels(raw[begin:end], built.cases[begin:end], path, label_scheme is not None, labels)
            begin = end
        stored = SliceStore((*stored.cases, *built.cases))
    _check(stored, data, modalities, classes)
    return stored


def _of_classes(store: SliceStore, classes: Sequence[str]) -> list:
    wanted = {name.lower() for name in classes}
    return [
        case for case in store if not wanted or {str(case.info.cohort).lower(), str(case.info.grade).lower()} & wanted
    ]


def _check(store: SliceStore, data: Sequence[str | Path], modalities: Sequence[str], classes: Sequence[str]) -> None:
    where = ", ".join(str(path) for path in data)
    if not len(store):
        wanted = f" of class {', '.join(classes)}" if classes else ""
        raise DataError(f"no cases{wanted} found", where=where, remedy="check the path, --format and --classes")
    ids = [case.id for case in store]
    doubled = sorted({name for name in ids if ids.count(name) > 1})
    if doubled:
        raise DataError(f"case ids stand twice: {', '.join(doubled[:5])}", where=where, remedy="name each folder once")
    for case in store:
        case.channels(modalities)


def _weigh_labels(
    cases: Sequence[Case], stored: Sequence[StoredCase], where: Path, told: bool, labels: str | None = None
) -> None:
    """Raise or warn where the labels of one data set speak against their convention."""
    held: defaultdict[str, list[list[int]]] = defaultdict(list)
    for case, prepared in zip(cases, stored, strict=True):
        if prepared.info.labelled:
            held[case.scheme.name].append(np.flatnonzero(prepared.areas().sum(axis=0)).tolist())
    schemes = {case.scheme.name: case.scheme for case in cases}
    for name, classes in held.items():
        for kind, doubt in doubts(schemes[name], classes, told, unite=labels == WHOLE_LESION.name):
            if kind == "label-meaning":
                raise DataError(doubt.found, where=where, expected=doubt.expected, remedy=doubt.remedy)
            warn_user(doubt.found, where=where, expected=doubt.expected, remedy=doubt.remedy)


def prepare_store(
    data: Path,
    store: Path,
    *,
    format: str = "auto",
    label_scheme: str | None = None,
    modalities: Sequence[str] = (),
    classes: Sequence[str] = (),
    image_size: int | None = None,
    jobs: int = 0,
    progress: Progress | None = None,
) -> SliceStore:
    """Prepare a raw folder into a store folder of its own; see :func:`open_data` for the arguments.

    Raises:
        UsageError: ``store`` holds something that is no store.
        DataError: The cases cannot be read or prepared.
    """
    if store.exists() and not is_store(store) and any(entry.name != "cases" for entry in store.iterdir()):
        raise UsageError("the folder for the store holds other files", where=store, remedy="name a new or empty folder")
    cases = read_cases(data, format=format, label_scheme=label_scheme, classes=tuple(classes) or None)
    wanted = tuple(modalities) or common_modalities(cases)
    for case in cases:
        case.require(wanted)
    built = build_store(cases, store, PrepareOptions(wanted, image_size), jobs, progress)
    _weigh_labels(cases, built.cases, data, label_scheme is not None)
    return built


def phantom_folder(
    cohort: Literal["hgg", "met", "lgg"],
    cases: int,
    seed: int,
    cache: Path | None = None,
    size: Literal["small", "full"] = "small",
) -> Path:
    """Folder of phantoms of one cohort in the cache, made on first use; see :mod:`metaseg.cases.phantoms`."""
    folder = cache_root(cache) / "phantoms" / f"{size}-{cohort}-{cases}-seed{seed}"
    make_phantoms(folder, cohort=cohort, cases=cases, seed=seed, size=size)
    return folder
