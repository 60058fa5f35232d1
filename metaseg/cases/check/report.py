"""What a dataset check says: findings of known kinds, each with a remedy, and how a terminal shows them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from metaseg.terminal import Table, print_text

Severity = Literal["error", "warning"]

_ERRORS = {
    "header": "get the file again, or write it anew with a valid header",
    "unreadable": "copy or download the file again, or leave the case out",
    "dimensions": "convert the whole series, not one slice of it",
    "shape": "register and resample the case's files to one grid",
    "affine": "resample to one grid; if only the header is wrong, copy the first image's header",
    "spacing": "correct the voxel size in the header",
    "non-finite": "write the volume again with finite values",
    "intensities": "write the volume again in a usual range, with the stray voxels clipped",
    "constant": "get the file again, or leave the case out",
    "background-unclear": "remove the skull, or set what lies outside the head to 0",
    "label-values": "name the convention with --label-scheme",
    "column-unknown": "rename the column, or begin its name with # to pass it over",
    "label-meaning": "name the convention with --label-scheme",
    "label-outside": "check that label and images belong to one patient and one grid",
    "other-case": "find out whose they are; then rename them or move them to their case",
    "modality-doubled": "keep one of the files",
    "id-doubled": "rename one of them, or check one folder at a time",
    "same-modality": "find the file that was copied under a wrong name",
    "same-case": "remove one of the cases",
    "same-class": "find out which class is right and remove the other copy",
    "leak": "remove it from the training part: metrics on its copy mean nothing",
    "near-leak": "remove it from the training part, or split anew with 'metaseg data split': it keeps copies together",
    "patient-split": "split by patient with 'metaseg data split'",
    "split-invalid": "make a new split",
    "split-patients": "make a new split, or give the --patients that it was made with",
    "split-empty": "make a new split",
    "split-absent": "give the data the split was made for, or split anew",
}
"""Kinds of findings that make metrics wrong or stop a run, and what to do about them."""
MAY_BE_MISSING = {
    "label-missing": "add the label, leave the case out, or allow it with --allow-missing",
    "modality-missing": "add the file, leave the case out, or train with fewer --modalities",
    "images-missing": "add the images, or move the case out of the data set",
    "file-absent": "add the file, or correct what names it",
    "file-unused": "correct the name, or move the file out of the data set",
    "file-hidden": "rename them, or move them out of the data set",
    "folder-empty": "get its files again, or remove it",
    "folder-unreadable": "permit reading it, or move it out of the data set",
}
"""Such kinds that ``--allow-missing`` makes warnings."""
_WARNINGS = {
    "oblique": "nothing, if all cases are alike; else resample to the scanner's axes",
    "anisotropic": "resample to equal height and width, and outline or predict on that",
    "grid-size": "check that it is a whole head at a scanner's resolution; resample",
    "background": "look at an overlay of a prediction; if it does not keep to the head, set what lies outside to 0",
    "coverage": "look at it: get the file again, or leave the case out",
    "label-edition": "name the convention with --label-scheme",
    "label-region-absent": "see that this is what the values mean",
    "label-empty": "confirm that the patient has no lesion",
    "label-partial": "nothing, if nobody outlined the others: they count neither as tumour nor as background",
    "session-doubtful": "if they are sessions of one patient, say so with --patients TABLE (columns case, patient)",
    "same-picture": "remove the copies: a random split would put one into training and one into the test",
    "near-class": "look at both: if they are one picture, find out which class is right and remove the other",
    "near-picture": "nothing, if metaseg makes the split: it keeps them together; count them as one",
    "class-single": "add pictures of the class, or leave it out with --classes",
    "class-absent": "split anew with --stratify cohort, use fewer parts, or add pictures of the class",
    "split-unnamed": "make a new split to use them",
}
"""Kinds that deserve a look."""


@dataclass(frozen=True)
class Kind:
    """A kind of finding; what each means is said in ``docs/how-to-check-data.md``.

    Attributes:
        severity: Whether it makes metrics wrong or stops a run (``"error"``), or deserves a look (``"warning"``).
        remedy: What to do about it.
    """

    severity: Severity
    remedy: str


KINDS: Mapping[str, Kind] = {
    **{name: Kind("error", remedy) for name, remedy in (_ERRORS | MAY_BE_MISSING).items()},
    **{name: Kind("warning", remedy) for name, remedy in _WARNINGS.items()},
}
"""Every kind of finding, by the name that reports use."""


@dataclass(frozen=True)
class Finding:
    """One thing that the check found.

    Attributes:
        severity: ``"error"`` or ``"warning"``.
        kind: One of :data:`KINDS`.
        case: Id of the case.
        file: The file, relative to the checked folder; empty where the finding is about no single file.
        found: What was found, as one sentence.
        remedy: What to do about it.
    """

    severity: Severity
    kind: str
    case: str
    file: str
    found: str
    remedy: str

    @classmethod
    def of(cls, kind: str, case: str, found: str, *, file: str = "", remedy: str | None = None) -> Finding:
        """A finding with the severity and, unless given, the remedy of its kind."""
        known = KINDS[kind]
        return cls(known.severity, kind, case, file, found, remedy or known.remedy)


@dataclass(frozen=True)
class CheckReport:
    """Result of :func:`~metaseg.cases.check.check_dataset`.

    Attributes:
        path: The folder that was checked.
        format: Naming convention of its files.
        cases: Number of cases.
        findings: Errors first, then by case, file and kind: the same data gives the same order.
    """

    path: str
    format: str
    cases: int
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that make metrics wrong or stop a run."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Findings that deserve a look."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    @property
    def ok(self) -> bool:
        """True if there is no error; warnings may remain."""
        return not self.errors

    def to_rows(self) -> list[dict[str, str]]:
        """One row a finding, for a table or a CSV file."""
        return [asdict(finding) for finding in self.findings]

    def to_json(self) -> str:
        """The whole report as JSON text."""
        content: dict[str, Any] = {
            "path": self.path,
            "format": self.format,
            "cases": self.cases,
            "ok": self.ok,
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "findings": self.to_rows(),
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def print_report(report: CheckReport, *, limit: int = 10) -> None:
    """Print the summary, and below it a table of findings, errors first.

    Args:
        report: The report.
        limit: Rows shown of each kind of finding (0: all); the rest is counted.
    """
    print_text(summary(report))
    table = Table(("Finding", "Where", "Found", "To do"), spaced=True)
    by_kind: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in report.findings:
        by_kind[finding.kind].append(finding)
        if not limit or len(by_kind[finding.kind]) <= limit:
            style = "bold red" if finding.severity == "error" else "yellow"
            place = "\n".join(dict.fromkeys(name for name in (finding.case, finding.file) if name))
            table.add(f"{finding.severity}\n{finding.kind}", place, finding.found, finding.remedy, style=style)
    for kind, findings in by_kind.items():
        if limit and len(findings) > limit:
            table.add("...", "", f"{len(findings) - limit} more of {kind}", "")
    if table.rows:
        table.print()


def summary(report: CheckReport) -> str:
    """One line: how much was checked and how much was found."""
    cases = f"{report.cases} case{'' if report.cases == 1 else 's'} ({report.format}) in {report.path}"
    if not report.findings:
        return f"{cases}: nothing found"
    counted = ((len(report.errors), "error"), (len(report.warnings), "warning"))
    return f"{cases}: " + ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counted)
