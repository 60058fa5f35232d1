"""From whatever a user names (raw folders, prepared stores, nothing at all) to an opened slice store.

Cases are prepared in parallel; a store whose preparation was cut off is continued.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from metaseg.cases.case import MODALITIES, Case, FailedCase, one_case, raise_failed
from metaseg.cases.labels import WHOLE_LESION, doubts
from metaseg.cases.patients import doubtable, patients_of, read_patient_table, warn_of_doubtful
from metaseg.cases.phantoms import make_phantoms
from metaseg.cases.pictures import GroupCopies
from metaseg.cases.readers import find_cases, lacking, read_cases, tell
from metaseg.errors import DataError, UsageError, warn_user
from metaseg.files import require_writable, writing
from metaseg.store.prepare_case import PrepareOptions, case_key, is_prepared, prepare_case
from metaseg.store.store import SliceStore, is_store, open_store, warn_of_findings, write_store_file
from metaseg.store.stored_case import StoredCase

Progress = Callable[[int, int, str], None]
"""Called with (cases done, cases in all, what was just done)."""


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
    """Prepare cases in a store folder; those that stand there already are kept.

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
    ids = [case.id for case in cases]
    doubled = sorted({name for name in ids if ids.count(name) > 1})
    if doubled:
        raise DataError(f"case ids stand twice: {', '.join(doubled[:5])}", remedy="give every case its own name")
    folder = path / "cases"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    keys: dict[str, str] = {}
    for case in cases:
        with one_case(case.id, failed):
            keys[case.id] = case_key(case, options)
    known = [(case, folder / keys[case.id]) for case in cases if case.id in keys]
    todo = [(case, place) for case, place in known if not is_prepared(place)]
    if todo:
        require_writable(folder)
    done = len(cases) - len(todo)
    for name in _prepare_all(todo, options, jobs or os.cpu_count() or 1, failed):
        done += 1
        if progress is not None:
            progress(done, len(cases), name)
    bad = {one.case for one in failed or ()}
    good = [key for name, key in keys.items() if name not in bad]
    if not good:
        raise_failed(failed or (), len(cases), "prepared")
    store = SliceStore(tuple(StoredCase(folder / key) for key in good))
    if publish:
        write_store_file(path, good, store)
    return store


def _prepare_all(
    todo: Sequence[tuple[Case, Path]], options: PrepareOptions, jobs: int, failed: list[FailedCase] | None
) -> Iterator[str]:
    def prepare(case: Case, folder: Path) -> None:
        with one_case(case.id, failed):
            prepare_case(case, options, folder)

    if jobs == 1 or len(todo) <= 1:
        for case, folder in todo:
            prepare(case, folder)
            yield case.id
        return
    # Threads suffice: decompression and array work release the interpreter lock, and a script that calls
    # metaseg needs no main guard.
    with ThreadPoolExecutor(min(jobs, len(todo))) as pool:
        futures = {pool.submit(prepare, case, folder): case.id for case, folder in todo}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def open_data(
    data: Sequence[str | Path],
    *,
    format: str = "auto",
    label_scheme: str | None = None,
    modalities: Sequence[str] = (),
    classes: Sequence[str] = (),
    patients: Path | None = None,
    need_labels: bool = False,
    allow_missing: bool = True,
    image_size: int | None = None,
    cache: str | Path | None = None,
    jobs: int = 0,
    progress: Progress | None = None,
    group_copies: GroupCopies = "near",
    labels: str | None = None,
    failed: list[FailedCase] | None = None,
) -> SliceStore:
    """Open data for use: prepared stores as they are, raw folders prepared into the cache first.

    Args:
        data: Raw folders and stores; their cases are pooled.
        format: Naming convention of raw files.
        label_scheme: Label convention of raw files; by default the format's.
        modalities: Modalities needed, in order; by default all that every case has.
        classes: Keep only cases of these cohorts or grades.
        patients: Table of whose scan each case is; see :mod:`metaseg.cases.patients`. Without it, names tell.
        need_labels: Cases without a label are left out by whoever asks, so that they are named.
        allow_missing: Warn of what is left out (files of no case, cases without a label that is needed, modalities that
            some cases lack, or cases without those asked for), instead of refusing the data.
        image_size: Longest side of stored slices in pixels, for raw folders.
        cache: Cache folder; see :func:`~metaseg.store.prepare.cache_root`.
        jobs: Worker threads.
        progress: Called after each prepared case.
        group_copies: Which pictures of raw image folders count as one patient; see
            :func:`~metaseg.cases.readers.read_cases`.
        labels: Name of the label space that is asked for, or None for the data's own.
        failed: As :func:`~metaseg.store.prepare.build_store` takes it.

    Raises:
        DataError: Nothing was found, ids stand twice, something is left out without ``allow_missing``, or the labels
            mean something else than the files' names say.
    """
    raw: list[Case] = []
    folders: list[Path] = []
    stored: SliceStore = SliceStore(())
    for path in map(Path, data):
        if is_store(path):
            stored = SliceStore((*stored.cases, *_of_patients(_of_classes(open_store(path), classes), patients)))
        else:
            found, left_out = find_cases(
                path,
                format=format,
                label_scheme=label_scheme,
                classes=tuple(classes) or None,
                patients=patients,
                group_copies=group_copies,
            )
            tell(left_out, path, refuse=not allow_missing)
            raw += found
            folders += [path] * len(found)
    _refuse_doubled([(case.id, case.files[0]) for case in raw] + [(case.id, case.folder) for case in stored])
    if patients is None:
        warn_of_doubtful(doubtable(raw) | doubtable(stored))
    origin = {case.id: path for case, path in zip(raw, folders, strict=True)}
    raw, stored = _complete(raw, stored, modalities, need_labels, Path(*data[:1]), refuse=not allow_missing)
    if raw:
        wanted = tuple(modalities) or common_modalities(raw)
        options = PrepareOptions(wanted, image_size)
        built = build_store(raw, cache_root(cache) / "cases", options, jobs, progress, publish=False, failed=failed)
        raw = _without(raw, failed)
        for path in dict.fromkeys(folders):
            mine = [number for number, case in enumerate(raw) if origin[case.id] == path]
            members = [raw[number] for number in mine], [built.cases[number] for number in mine]
            _weigh_labels(*members, path, label_scheme is not None, labels)
        stored = SliceStore((*stored.cases, *built.cases))
    _check(stored, data, modalities, classes)
    return stored


def _without(cases: Sequence[Case], failed: Sequence[FailedCase] | None) -> list[Case]:
    bad = {one.case for one in failed or ()}
    return [case for case in cases if case.id not in bad]


def _refuse_doubled(cases: Sequence[tuple[str, Path]]) -> None:
    """Raise if two cases have one id: two hospitals may use one name for two patients."""
    places: dict[str, Path] = {}
    for name, place in cases:
        if (other := places.setdefault(name, place)) is not place:
            raise DataError(
                f"two cases are named {name}",
                where=f"{other} and {place}",
                expected="each case once, and a name of its own for each",
                remedy="name each folder once; if these are two patients, as of two hospitals, rename one's files",
            )


def _of_patients(cases: Sequence[StoredCase], patients: Path | None) -> list[StoredCase]:
    """Stored cases with the patients that the table tells, or their names: older stores do not know sessions."""
    table = None if patients is None else read_patient_table(patients)
    owners = patients_of({case.id: case.patient for case in cases}, table, patients)
    for case in cases:
        case.info = replace(case.info, patient=owners[case.id])
    return list(cases)


def _complete(
    raw: list[Case], stored: SliceStore, modalities: Sequence[str], labels: bool, where: Path, *, refuse: bool
) -> tuple[list[Case], SliceStore]:
    """Cases that have the modalities asked for, after a word about those that lack something that is needed."""
    rows = [(case.id, case.modalities, case.label is not None) for case in raw]
    rows += [(case.id, case.info.modalities, case.info.labelled) for case in stored]
    found = lacking(rows, modalities, labels=labels and any(labelled for *_, labelled in rows))
    tell(found, where, refuse=refuse)
    without = {one.case for one in found if modalities and one.kind == "modality-missing"}
    if len(without) == len(rows) and raw:
        raw[0].require(modalities)
    kept = tuple(case for case in stored if case.id not in without)
    return [case for case in raw if case.id not in without], SliceStore(kept)


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
    # Before hours of work: a third of a second for 50 cases of 50 MB that the system has read already.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(StoredCase.verify, store):
            pass


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
    patients: Path | None = None,
    allow_missing: bool = True,
    image_size: int | None = None,
    jobs: int = 0,
    progress: Progress | None = None,
    failed: list[FailedCase] | None = None,
) -> SliceStore:
    """Prepare a raw folder into a store folder of its own; see :func:`open_data` for the arguments.

    Raises:
        UsageError: ``store`` holds something that is no store.
        DataError: The cases cannot be read or prepared.
    """
    if store.exists() and not is_store(store) and any(entry.name != "cases" for entry in store.iterdir()):
        raise UsageError("the folder for the store holds other files", where=store, remedy="name a new or empty folder")
    cases = read_cases(
        data,
        format=format,
        label_scheme=label_scheme,
        classes=tuple(classes) or None,
        patients=patients,
        need_labels=True,
        allow_missing=allow_missing,
    )
    cases, _ = _complete(cases, SliceStore(()), modalities, False, data, refuse=not allow_missing)
    wanted = tuple(modalities) or common_modalities(cases)
    built = build_store(cases, store, PrepareOptions(wanted, image_size), jobs, progress, failed=failed)
    _weigh_labels(_without(cases, failed), built.cases, data, label_scheme is not None)
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
