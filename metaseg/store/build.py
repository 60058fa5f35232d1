"""Build a slice store from cases, in parallel, continuing where an earlier build was cut off."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from metaseg.cases.case import Case
from metaseg.cases.failed import FailedCase, one_case, raise_failed
from metaseg.errors import DataError
from metaseg.store.prepare_case import PrepareOptions, case_key, is_prepared, prepare_case
from metaseg.store.store import SliceStore, write_store_file
from metaseg.store.stored_case import StoredCase
from metaseg.written_files import require_writable, writing

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
    order = ("flair", "t1", "t1ce", "t2")
    return tuple(sorted(shared, key=lambda name: order.index(name) if name in order else len(order)))


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
