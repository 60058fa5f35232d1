"""``metaseg data check`` of a store: every file is compared with its checksum, and what preparation found is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from metaseg.cases.check.report import CheckReport, Finding
from metaseg.errors import DataError
from metaseg.store.store import stored_folders
from metaseg.store.stored_case import StoredCase


def check_store(path: Path, progress: Callable[[int, int], None] | None = None) -> CheckReport:
    """Look for damaged cases in a store, and for what was doubtful about them when they were prepared.

    Args:
        path: The store.
        progress: Told after each case.

    Raises:
        DataError: The list of the store's cases is damaged.
    """
    findings: list[Finding] = []
    folders = stored_folders(path)
    for done, folder in enumerate(folders, start=1):
        try:
            case = StoredCase(folder)
            case.verify()
        except DataError as error:
            where = Path(error.where or folder)
            file = where.relative_to(path).as_posix() if where.is_relative_to(path) else where.as_posix()
            findings.append(Finding.of("unreadable", folder.name, error.found, file=file, remedy=error.remedy))
        else:
            told = case.info.findings or ()
            findings += [Finding.of(kind, case.id, found, file=name) for kind, found, name in told]
        if progress is not None:
            progress(done, len(folders))
    return CheckReport(path.as_posix(), "store", len(folders), tuple(findings))
