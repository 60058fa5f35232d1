"""The dataset check: one pass over all cases, then what can be told only by comparing them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path

from metaseg.cases.case import Case
from metaseg.cases.check.copies import check_classes, find_copies, find_near_copies, place_images
from metaseg.cases.check.inspect import Inspection, inspect_case
from metaseg.cases.check.parts import check_patients, check_sessions, check_split, parts_of_split
from metaseg.cases.check.report import MAY_BE_MISSING, CheckReport, Finding
from metaseg.cases.labels import doubts
from metaseg.cases.readers import LeftOut, canonical_modality, find_cases, lacking
from metaseg.cases.readers.common import relative_name
from metaseg.errors import DataError

Progress = Callable[[int, int], None]
"""Called after each case with the number of cases done and in all."""


def check_dataset(
    path: str | Path,
    *,
    format: str = "auto",
    label_scheme: str | None = None,
    modalities: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    patients: str | Path | None = None,
    outlined_slices: str | Path | None = None,
    allow_missing: bool = False,
    split: str | Path | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> CheckReport:
    """Look for what would stop a run or spoil its metrics: see :data:`~metaseg.cases.check.report.KINDS`.

    Args:
        path: Folder of cases.
        format: Naming convention, or ``"auto"``.
        label_scheme: What label values mean; by default as the convention has it.
        modalities: Modalities that every case must have; by default those that any case has.
        classes: Check cases of these cohorts or classes only.
        patients: Table of whose scan each case is.
        outlined_slices: Table of the slices that are outlined, where only some are.
        allow_missing: What is missing or left out is a warning, not an error.
        split: A split file, to be checked against the cases.
        jobs: Processes that read files; 0 takes one a core.
        progress: Told after each case.

    Returns:
        The report; one bad case never stops the pass.

    Raises:
        UsageError: An argument is wrong.
        DataError: There are no cases, or the split file cannot be read.
    """
    root = Path(path).parent if Path(path).is_file() else Path(path)
    cases, left_out = find_cases(
        path, format, label_scheme, classes, patients=patients, outlined_slices=outlined_slices, strict=False
    )
    parts = parts_of_split(split) if split else None
    inspections = list(_inspect_all(cases, root, jobs, progress))
    findings = [_allowed(finding, allow_missing) for seen in inspections for finding in seen.findings]
    findings += _check_completeness(cases, left_out, modalities, allow_missing, root)
    labels = [(case.scheme, seen.classes) for case, seen in zip(cases, inspections, strict=True) if seen.classes]
    for kind, doubt in doubts(labels, told=label_scheme is not None):
        findings.append(Finding.of(kind, "", f"{doubt.found} (expected: {doubt.expected})", remedy=doubt.remedy))
    findings += check_patients(cases, root) if parts is None else check_split(cases, parts, str(split))
    findings += [] if patients else check_sessions(cases)
    images = place_images(cases, inspections, parts, root)
    findings += [*find_copies(images, findings), *find_near_copies(images), *check_classes(images)]
    ordered = sorted(dict.fromkeys(findings), key=_order)
    formats = ", ".join(sorted({case.format for case in cases}))
    return CheckReport(root.as_posix(), formats, len(cases), tuple(ordered))


def _order(finding: Finding) -> tuple[bool, str, str, str, str]:
    return (finding.severity != "error", finding.case, finding.file, finding.kind, finding.found)


def _inspect_all(cases: Sequence[Case], root: Path, jobs: int, progress: Progress | None) -> Iterator[Inspection]:
    """Inspections in the order of the cases, whatever the number of processes."""
    workers = min(jobs or os.cpu_count() or 1, len(cases))
    inspect = partial(inspect_case, root=root)
    if workers <= 1:
        yield from _reported(map(inspect, cases), len(cases), progress)
        return
    # A fresh interpreter for each worker: forking a process that runs threads can hang.
    context = multiprocessing.get_context("spawn")
    chunk = max(1, min(16, len(cases) // (4 * workers)))
    try:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            yield from _reported(pool.map(inspect, cases, chunksize=chunk), len(cases), progress)
    except BrokenProcessPool as error:
        raise DataError(
            "a process that reads files was killed, probably for want of memory",
            where=root,
            remedy="use fewer with --jobs 1",
        ) from error


def _reported(inspections: Iterator[Inspection], total: int, progress: Progress | None) -> Iterator[Inspection]:
    for done, inspection in enumerate(inspections, start=1):
        if progress:
            progress(done, total)
        yield inspection


def _allowed(finding: Finding, allow_missing: bool) -> Finding:
    return replace(finding, severity="warning") if allow_missing and finding.kind in MAY_BE_MISSING else finding


def _check_completeness(
    cases: Sequence[Case],
    left_out: Sequence[LeftOut],
    modalities: Sequence[str] | None,
    allow_missing: bool,
    root: Path,
) -> Iterator[Finding]:
    """Modalities missing or doubled, labels missing, files that the reader left out."""
    expected = [canonical_modality(name) for name in modalities or ()]
    labels = any(case.labelled for case in cases)
    gaps = [*left_out, *lacking([(case.id, case.modalities, case.labelled) for case in cases], expected, labels=labels)]
    # Classified pictures need no outlines.
    if not labels and not all(case.grade and case.format in ("image-folder", "slices") for case in cases):
        gaps.append(LeftOut("label-missing", "cases without a label", f"none of the {len(cases)} cases has a label"))
    for gap in gaps:
        finding = Finding.of(gap.kind, gap.case, gap.found, file=relative_name(gap.file, root) if gap.file else "")
        yield _allowed(finding, allow_missing)
    for case in cases:
        folders = {file.parent for file in case.files}
        for file in case.doubled:
            name = relative_name(file, root)
            if file.parent in folders:
                found = "another file stands for the same image or label of this case"
                yield Finding.of("modality-doubled", case.id, found, file=name)
            else:
                yield Finding.of("id-doubled", case.id, "another case has this id; it was not checked", file=name)
