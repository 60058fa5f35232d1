"""The slice store: prepared cases in one folder, with a table of all their slices, and the check of their files."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metaseg.cases.check.inspect import check_outlined
from metaseg.cases.check.report import KINDS, CheckReport, Finding
from metaseg.cases.readers.common import relative_name
from metaseg.cases.splits import Absent, Split
from metaseg.errors import DataError, some, warn_user
from metaseg.files import FileKind, read_json, write_text
from metaseg.store.stored_case import FORMAT_VERSION, StoredCase

STORE_FILE = "store.json"
FINDINGS_SHOWN, PARTIAL_SHOWN = 3, 50
"""Cases that a warning names, and that the line on outlined slices does."""


def is_store(path: Path) -> bool:
    """Whether a folder is a slice store."""
    return (path / STORE_FILE).is_file()


@dataclass(frozen=True)
class SliceStore:
    """A list of prepared cases; a subset of a store is a store too.

    Attributes:
        cases: The cases in a stable order.
    """

    cases: tuple[StoredCase, ...]

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[StoredCase]:
        return iter(self.cases)

    def labelled(self) -> SliceStore:
        """The cases that have a label.

        Raises:
            DataError: None has.
        """
        cases = tuple(case for case in self.cases if case.info.labelled)
        if not cases:
            raise DataError("none of the cases has a label", remedy="add labels; see 'metaseg data check'")
        return SliceStore(cases)

    def part(self, split: Split | Path | None, *names: str, absent: Absent = "refuse") -> SliceStore:
        """The cases of parts of a split, in the split's order; all where there is no split.

        Args:
            split: The split, or its file.
            names: The parts.
            absent: What to do about cases of a part that the store lacks; see :meth:`Split.select`.

        Raises:
            UsageError: There is no such part, or it holds none of the cases.
            DataError: A patient is in two parts, or a case is absent.
        """
        if split is None:
            return self
        known = Split.load(split) if isinstance(split, Path) else split
        return SliceStore(tuple(case for name in names for case in known.select(self.cases, name, absent=absent)))

    def select(self, ids: Sequence[str]) -> SliceStore:
        """The cases with these ids, in the order of ``ids``.

        Raises:
            DataError: An id is not in the store.
        """
        known = {case.id: case for case in self.cases}
        missing = [name for name in ids if name not in known]
        if missing:
            raise DataError(f"unknown cases {', '.join(missing[:5])}", expected="ids of the data set's cases")
        return SliceStore(tuple(known[name] for name in ids))

    @property
    def synthetic(self) -> bool:
        """Whether any case is a phantom."""
        return any(case.info.synthetic for case in self.cases)

    @property
    def fingerprint(self) -> str:
        """Digest over the cases' content keys."""
        import hashlib

        return hashlib.blake2b("\n".join(case.folder.name for case in self.cases).encode(), digest_size=8).hexdigest()

    def table(self) -> pd.DataFrame:
        """One row per slice: case, patient, cohort, slice (stored index), and the pixels of each class."""
        frames = []
        for case in self.cases:
            areas = case.areas()
            frame = pd.DataFrame(
                {
                    "case": case.id,
                    "patient": case.info.patient,
                    "cohort": case.info.cohort,
                    "slice": np.arange(len(areas)),
                }
            )
            for value, name in enumerate(case.space.classes):
                frame[f"area_{name}"] = areas[:, value]
            frames.append(frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


@dataclass(frozen=True)
class _Content:
    """What ``store.json`` holds: the format, and the folders of the cases."""

    version: int
    cases: list[str]


def warn_of_findings(cases: Sequence[StoredCase]) -> None:
    """Warn of what was doubtful about the images of cases when they were prepared, once for each kind."""
    found: defaultdict[str, list[tuple[StoredCase, str]]] = defaultdict(list)
    for case in cases:
        of_case: defaultdict[str, list[str]] = defaultdict(list)
        for kind, sentence, file in case.info.findings or ():
            of_case[kind].append(sentence if len(cases) > 1 else f"{sentence} ({file})")
        for kind, sentences in of_case.items():
            found[kind].append((case, "; ".join(sentences)))
    for kind, doubtful in found.items():
        shown = [f"case {case.id}: {sentences}" for case, sentences in doubtful[:FINDINGS_SHOWN]]
        more = len(doubtful) - len(shown)
        warn_user(
            "\n".join([*shown, *([f"and {more} more cases: 'metaseg data check' lists them"] if more else [])]),
            remedy=KINDS[kind].remedy,
        )


def tell_partial(cases: Sequence[StoredCase]) -> None:
    """Print of how many slices the outlines are known, for the cases of which some only are outlined."""
    partial = [f"{case.id} {len(case.outlined)} of {case.num_slices}" for case in cases if case.partial]
    if partial:
        print(
            f"Only some slices are outlined in {len(partial)} of {len(cases)} cases, and the others count neither as "
            f"tumour nor as background: {some(partial, PARTIAL_SHOWN)}"
        )


def open_store(path: Path) -> SliceStore:
    """Open the store in a folder.

    Raises:
        DataError: The folder is no store, of another format version, or incomplete.
    """
    return SliceStore(tuple(map(StoredCase, stored_folders(path))))


def stored_folders(path: Path) -> list[Path]:
    """The folders of a store's cases.

    Raises:
        DataError: The folder is no store, of another format version, or its list of cases is damaged.
    """
    if not is_store(path):
        raise DataError(
            "not a slice store",
            where=path,
            expected=f"a folder with {STORE_FILE}",
            remedy="make one with 'metaseg data prepare'",
        )
    kind = FileKind("the list of a store's cases", "prepare the store again", DataError)
    content: _Content = read_json(path / STORE_FILE, kind, _Content)
    if content.version != FORMAT_VERSION:
        raise DataError(f"store of format version {content.version}", where=path, expected=f"version {FORMAT_VERSION}")
    if len({*content.cases}) < len(content.cases) or not all(Path(key).name == key for key in content.cases):
        raise kind.refuse("the list of cases is damaged", path / STORE_FILE)
    return [path / "cases" / key for key in content.cases]


def write_store_file(path: Path, store: SliceStore) -> None:
    """Write ``store.json`` and ``slices.csv`` of a finished store, each atomically."""
    write_text(path / "slices.csv", store.table().to_csv(index=False))
    write_text(
        path / STORE_FILE,
        json.dumps({"version": FORMAT_VERSION, "cases": [case.folder.name for case in store]}, indent=1),
    )


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
            file = relative_name(Path(error.where or folder), path)
            findings.append(Finding.of("unreadable", folder.name, error.found, file=file, remedy=error.remedy))
        else:
            told = [*(case.info.findings or ())]
            if case.labelled:
                outlined = np.isin(np.arange(case.num_slices), case.outlined)
                told += [(*found, "") for found in check_outlined(outlined, case.info.geometry)]
            findings += [Finding.of(kind, case.id, found, file=name) for kind, found, name in told]
        if progress is not None:
            progress(done, len(folders))
    return CheckReport(path.as_posix(), "store", len(folders), tuple(findings))
