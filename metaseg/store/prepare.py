"""From whatever a user names (raw folders, prepared stores, nothing at all) to an opened slice store.

Cases are prepared in parallel; a store whose preparation was cut off is continued.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np

from metaseg.cases.case import MODALITIES, Case, FailedCase, one_case, raise_failed
from metaseg.cases.labels import WHOLE_LESION, doubts
from metaseg.cases.outlined import read_outlined_table
from metaseg.cases.patients import doubtable, patients_of, read_patient_table, warn_of_doubtful
from metaseg.cases.phantoms import make_phantoms, make_pictures
from metaseg.cases.readers import Reading, find_cases, find_doubled, lacking, read_cases, tell
from metaseg.errors import DataError, UsageError, warn_user
from metaseg.files import require_writable, writing
from metaseg.store.prepare_case import PrepareOptions, case_key, is_prepared, prepare_case
from metaseg.store.store import SliceStore, is_store, open_store, tell_partial, warn_of_findings, write_store_file
from metaseg.store.stored_case import StoredCase
from metaseg.terminal import progress as show_progress
from metaseg.threads import ordered_map

Progress = Callable[[int, int], None]
"""Called with the numbers of cases done and in all."""
_SETTINGS = (*Reading.__annotations__, "labels", "modalities", "allow_missing", "image_size", "cache", "jobs")


def cache_root(cache: str | Path | None = None) -> Path:
    """Folder of prepared cases and phantoms: ``cache``, METASEG_CACHE, or ``metaseg`` in the user's cache folder."""
    if cache is not None:
        return Path(cache)
    if "METASEG_CACHE" in os.environ:
        return Path(os.environ["METASEG_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "metaseg"


def common_modalities(cases: Sequence[Case]) -> tuple[str, ...]:
    """Modalities that every case has, in the order of the first.

    Raises:
        DataError: There are no cases, or they share no modality.
    """
    if not cases:
        raise DataError("no cases", remedy="check the path and --format")
    shared = tuple(name for name in cases[0].modalities if all(name in case.images for case in cases))
    if not shared:
        raise DataError("the cases share no modality", expected="at least one modality in every case")
    return tuple(sorted(shared, key=lambda name: (*MODALITIES, name).index(name)))


def build_store(
    cases: Sequence[Case],
    path: Path,
    options: PrepareOptions,
    jobs: int = 0,
    progress: Progress | None = None,
    publish: bool = True,
    failed: list[FailedCase] | None = None,
) -> SliceStore:
    """Prepare cases in a store folder; those that exist already are kept.

    Args:
        cases: The cases.
        path: The store's folder.
        options: How to prepare them.
        jobs: Worker threads; 0 takes one a core.
        progress: Called after each case.
        publish: Write ``store.json`` and ``slices.csv`` at the end; a cache shared by many data sets has none.
        failed: Takes cases that cannot be prepared, which the store then lacks; None raises the first one's error.

    Raises:
        DataError: A case cannot be prepared, or with ``failed`` none can; finished cases stay, unfinished ones
            are not visible.
    """
    if doubled := find_doubled(case.id for case in cases):
        raise DataError(f"case ids occur twice: {doubled}", remedy="give every case its own name")
    folder = path / "cases"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    places: dict[str, Path] = {}
    for case in cases:
        with one_case(case.id, failed):
            places[case.id] = folder / case_key(case, options)
    todo = [case for case in cases if case.id in places and not is_prepared(places[case.id])]
    if todo:
        require_writable(folder)

    def prepare(case: Case) -> None:
        with one_case(case.id, failed):
            prepare_case(case, options, places[case.id])

    # Threads suffice: decompression and array work release the interpreter lock, and a script that calls metaseg
    # needs no main guard.
    started = len(cases) - len(todo)
    for done, _ in enumerate(ordered_map(prepare, todo, jobs or os.cpu_count() or 1), start=started + 1):
        if progress is not None:
            progress(done, len(cases))
    bad = {failure.case for failure in failed or ()}
    good = [place for name, place in places.items() if name not in bad]
    if not good:
        raise_failed(failed or (), len(cases), "prepared")
    store = SliceStore(tuple(map(StoredCase, good)))
    if publish:
        write_store_file(path, store)
    return store


def open_cases(config: Any, data: Sequence[str | Path], **others: Any) -> SliceStore:
    """Open cases as the settings of a verb say, and show how far their preparation is.

    Args:
        config: The settings; the arguments of :func:`open_data` that it has are taken from it.
        data: Raw folders and stores.
        others: Arguments of :func:`open_data` that win over the settings.

    Raises:
        DataError: As :func:`open_data`.
    """
    settings = {name: getattr(config, name) for name in _SETTINGS if hasattr(config, name)}
    with show_progress("preparing cases", None) as bar:
        return open_data(data, **(settings | others), progress=bar.set)


def list_cases(
    data: Sequence[str | Path],
    *,
    modalities: Sequence[str] = (),
    need_labels: bool = False,
    allow_missing: bool = True,
    **reading: Unpack[Reading],
) -> list[Case | StoredCase]:
    """The cases of folders and stores from names alone, without preparing any; see :func:`open_data`.

    Raises:
        DataError: Nothing was found, ids stand twice, or something is left out without ``allow_missing``.
    """
    raw: list[Case] = []
    stored: list[StoredCase] = []
    for path in map(Path, data):
        if is_store(path):
            stored += _of_patients(_of_classes(open_store(path), reading.get("classes", ())), reading.get("patients"))
        else:
            raw += read_cases(path, need_labels=need_labels, allow_missing=allow_missing, **reading)
    _refuse_doubled(raw, stored)
    raw, stored = _complete(raw, stored, modalities, need_labels, Path(*data[:1]), refuse=not allow_missing)
    return [*raw, *stored]


def open_data(
    data: Sequence[str | Path],
    *,
    modalities: Sequence[str] = (),
    need_labels: bool = False,
    allow_missing: bool = True,
    image_size: int | None = None,
    cache: str | Path | None = None,
    jobs: int = 0,
    progress: Progress | None = None,
    labels: str | None = None,
    failed: list[FailedCase] | None = None,
    **reading: Unpack[Reading],
) -> SliceStore:
    """Open data for use: prepared stores as they are, raw folders prepared into the cache first.

    Args:
        data: Raw folders and stores; their cases are pooled.
        modalities: Modalities needed, in order; by default all that every case has.
        need_labels: Cases without a label are left out by whoever asks, so that they are named.
        allow_missing: Warn of what is left out (files of no case, cases without a label that is needed, modalities that
            some cases lack, or cases without those asked for), instead of refusing the data.
        image_size: Longest side of stored slices in pixels, for raw folders.
        cache: Cache folder; see :func:`~metaseg.store.prepare.cache_root`.
        jobs: Worker threads.
        progress: Called after each prepared case.
        labels: Name of the label space that is asked for, or None for the data's own.
        failed: As :func:`~metaseg.store.prepare.build_store` takes it.
        reading: As :func:`~metaseg.cases.readers.read_cases` takes them.

    Raises:
        DataError: Nothing was found, ids stand twice, something is left out without ``allow_missing``, or the labels
            mean something else than the files' names say.
    """
    found: list[tuple[Path, list[Case]]] = []
    stored: list[StoredCase] = []
    classes = reading.get("classes", ())
    for path in map(Path, data):
        if is_store(path):
            members = _of_classes(open_store(path), classes)
            _check_outlined(members, reading.get("outlined_slices"))
            stored += _of_patients(members, reading.get("patients"))
        else:
            cases, left_out = find_cases(path, **reading)
            tell(left_out, path, refuse=not allow_missing)
            found.append((path, cases))
    raw = [case for _, cases in found for case in cases]
    _refuse_doubled(raw, stored)
    if reading.get("patients") is None:
        warn_of_doubtful(doubtable(raw) | doubtable(stored))
    raw, stored = _complete(raw, stored, modalities, need_labels, Path(*data[:1]), refuse=not allow_missing)
    if raw:
        options = PrepareOptions(tuple(modalities) or common_modalities(raw), image_size)
        built = build_store(raw, cache_root(cache) / "cases", options, jobs, progress, publish=False, failed=failed)
        for path, cases in found:
            _weigh_labels(cases, built, path, reading.get("label_scheme") is not None, labels)
        stored += built.cases
    store = SliceStore(tuple(stored))
    _check(store, data, modalities, classes)
    return store


def _refuse_doubled(raw: Sequence[Case], stored: Sequence[StoredCase]) -> None:
    """Raise if two cases have one id: two hospitals may use one name for two patients."""
    places: dict[str, Path] = {}
    for name, place in [(case.id, case.files[0]) for case in raw] + [(case.id, case.folder) for case in stored]:
        if (other := places.setdefault(name, place)) is not place:
            raise DataError(
                f"two cases are named {name}",
                where=f"{other} and {place}",
                expected="each case once, and a name of its own for each",
                remedy="name each folder once; if these are two patients, as of two hospitals, rename one's files",
            )


def _of_patients(cases: list[StoredCase], patients: str | PathLike[str] | None) -> list[StoredCase]:
    """Stored cases with the patients that the table tells, or their names: older stores do not know sessions."""
    table = None if patients is None else read_patient_table(patients)
    owners = patients_of({case.id: case.patient for case in cases}, table, patients)
    for case in cases:
        case.info = replace(case.info, patient=owners[case.id])
    return cases


def _check_outlined(cases: Sequence[StoredCase], table: str | PathLike[str] | None) -> None:
    """Raise where a table names other slices than a case was prepared with: a store keeps no more of a label."""
    listed = {} if table is None else read_outlined_table(table)
    for case in cases:
        numbers, geometry = listed.get(case.id), case.info.geometry
        if numbers is None:
            continue
        (start, stop), *_ = case.info.crop
        wanted = {geometry.turned_slice(number) - start for number in numbers} & {*range(stop - start)}
        if wanted != {*case.outlined.tolist()}:
            raise DataError(
                f"case {case.id} was prepared with {len(case.outlined)} outlined slices, and the table names others",
                where=str(table),
                expected=f"the slices that {case.folder} was prepared with",
                remedy="prepare the store anew: 'metaseg data prepare' takes --outlined-slices too",
            )


def _complete(
    raw: list[Case], stored: list[StoredCase], modalities: Sequence[str], labels: bool, where: Path, *, refuse: bool
) -> tuple[list[Case], list[StoredCase]]:
    """Cases that have the modalities asked for, after a warning about those that lack something that is needed."""
    members: list[Case | StoredCase] = [*raw, *stored]
    rows = [(case.id, case.modalities, case.labelled) for case in members]
    found = lacking(rows, modalities, labels=labels and any(labelled for *_, labelled in rows))
    tell(found, where, refuse=refuse)
    without = {gap.case for gap in found if modalities and gap.kind == "modality-missing"}
    if len(without) == len(rows) and raw:
        raw[0].require(modalities)
    return [case for case in raw if case.id not in without], [case for case in stored if case.id not in without]


def _of_classes(store: SliceStore, classes: Sequence[str]) -> list[StoredCase]:
    wanted = {name.lower() for name in classes}
    return [
        case for case in store if not wanted or {str(case.info.cohort).lower(), str(case.info.grade).lower()} & wanted
    ]


def _check(store: SliceStore, data: Sequence[str | Path], modalities: Sequence[str], classes: Sequence[str]) -> None:
    where = ", ".join(str(path) for path in data)
    if not len(store):
        wanted = f" of class {', '.join(classes)}" if classes else ""
        raise DataError(f"no cases{wanted} found", where=where, remedy="check the path, --format and --classes")
    for case in store:
        case.channels(modalities)
    warn_of_findings(store.cases)
    tell_partial(store.cases)
    # Before hours of work: a third of a second for 50 cases of 50 MB that the system has read already.
    for _ in ordered_map(StoredCase.verify, store.cases, os.cpu_count() or 1):
        pass


def _weigh_labels(cases: Sequence[Case], built: SliceStore, where: Path, told: bool, labels: str | None = None) -> None:
    """Raise or warn where the labels of one data set speak against their convention."""
    prepared = {case.id: case for case in built}
    held = [
        (case.scheme, np.flatnonzero(prepared[case.id].areas().sum(axis=0)).tolist())
        for case in cases
        if case.id in prepared and prepared[case.id].labelled
    ]
    for kind, doubt in doubts(held, told, unite=labels == WHOLE_LESION.name):
        if kind == "label-meaning":
            raise DataError(doubt.found, where=where, expected=doubt.expected, remedy=doubt.remedy)
        warn_user(doubt.found, where=where, expected=doubt.expected, remedy=doubt.remedy)


def prepare_store(
    data: Path,
    store: Path,
    *,
    modalities: Sequence[str] = (),
    allow_missing: bool = True,
    image_size: int | None = None,
    jobs: int = 0,
    progress: Progress | None = None,
    failed: list[FailedCase] | None = None,
    **reading: Unpack[Reading],
) -> SliceStore:
    """Prepare a raw folder into a store folder of its own; see :func:`open_data` for the arguments.

    Raises:
        UsageError: ``store`` holds something that is no store.
        DataError: The cases cannot be read or prepared.
    """
    if store.exists() and not is_store(store) and any(entry.name != "cases" for entry in store.iterdir()):
        raise UsageError("the folder for the store holds other files", where=store, remedy="name a new or empty folder")
    cases = read_cases(data, need_labels=True, allow_missing=allow_missing, **reading)
    cases, _ = _complete(cases, [], modalities, False, data, refuse=not allow_missing)
    options = PrepareOptions(tuple(modalities) or common_modalities(cases), image_size)
    built = build_store(cases, store, options, jobs, progress, failed=failed)
    _weigh_labels(cases, built, data, reading.get("label_scheme") is not None)
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


def phantom_pictures(kind: str, cases: int, seed: int, cache: Path | None = None) -> Path:
    """Folder of generated pictures in the cache, made on first use; see :mod:`metaseg.cases.phantoms.pictures`."""
    return make_pictures(cache_root(cache) / "phantoms" / f"pictures-{kind}-{cases}-seed{seed}", kind, cases, seed)
