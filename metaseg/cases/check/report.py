"""What a dataset check says: findings of known kinds, each with a remedy, and how a terminal shows them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import RenderableType

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        severity: Whether it makes metrics wrong or stops a run (``"error"``), or deserves a look (``"warning"``).
        meaning: What is wrong.
        remedy: What to do about it.
    """

    severity: Severity
    meaning: str
    remedy: str


KINDS: Mapping[str, Kind] = {
    "header": Kind(
        "error",
        "a file is missing or not of its kind, or its header tells no usable grid or orientation",
        "get the file again, or write it anew with a valid header",
    ),
    "unreadable": Kind(
        "error",
        "a file is truncated, damaged (wrong checksum) or not an image of real numbers",
        "copy or download the file again, or leave the case out",
    ),
    "dimensions": Kind(
        "error", "a volume has a single slice where 3-D is expected", "convert the whole series, not one slice of it"
    ),
    "shape": Kind(
        "error",
        "an image or label of a case has another number of voxels than the first image",
        "register and resample the case's files to one grid",
    ),
    "affine": Kind(
        "error",
        "an image or label of a case lies elsewhere in space than the first image",
        "resample to one grid; if only the header is wrong, copy the first image's header",
    ),
    "spacing": Kind("error", "a voxel size is not plausible for a brain scan", "correct the voxel size in the header"),
    "oblique": Kind(
        "warning",
        "the voxel axes are tilted or sheared against the scanner's axes",
        "nothing, if all cases are alike; else resample to the scanner's axes",
    ),
    "anisotropic": Kind(
        "warning",
        "pixels of axial slices are much longer than wide: the networks see the slices stretched",
        "resample to equal height and width, and outline or predict on that",
    ),
    "grid-size": Kind(
        "warning",
        "an image has very few or very many voxels along an axis",
        "check that it is a whole head at a scanner's resolution; resample",
    ),
    "non-finite": Kind("error", "an image or label holds NaN or infinity", "write the volume again with finite values"),
    "intensities": Kind(
        "error",
        "intensities are beyond what 32-bit numbers can be normalised from, or a stray voxel drowns all others",
        "write the volume again in a usual range, with the stray voxels clipped",
    ),
    "constant": Kind(
        "error",
        "an image has the same value everywhere, or everywhere in the head",
        "get the file again, or leave the case out",
    ),
    "background": Kind(
        "warning",
        "what lies outside the head is not 0; it is set to 0 when the case is prepared",
        "look at an overlay of a prediction; if it does not keep to the head, set what lies outside to 0",
    ),
    "background-unclear": Kind(
        "error",
        "head and background of an image cannot be told apart",
        "remove the skull, or set what lies outside the head to 0",
    ),
    "coverage": Kind(
        "warning", "an image shows next to nothing of the head", "look at it: get the file again, or leave the case out"
    ),
    "label-values": Kind(
        "error", "a label holds values that its convention does not know", "name the convention with --label-scheme"
    ),
    "column-unknown": Kind(
        "error",
        "a column of the table counts as a modality of its own, but looks like one that is misspelt",
        "rename the column, or begin its name with # to pass it over",
    ),
    "label-meaning": Kind(
        "error",
        "all labels hold 1 alone, where the files' names call 1 necrosis: probably the whole lesion",
        "name the convention with --label-scheme",
    ),
    "label-edition": Kind(
        "warning", "the files' names leave two label conventions open", "name the convention with --label-scheme"
    ),
    "label-region-absent": Kind(
        "warning", "no label has a region, such as enhancing tumour", "see that this is what the values mean"
    ),
    "label-outside": Kind(
        "error",
        "part of the label lies in the background of all images",
        "check that label and images belong to one patient and one grid",
    ),
    "label-empty": Kind("warning", "a label outlines nothing", "confirm that the patient has no lesion"),
    "label-missing": Kind(
        "error", "a case has no label", "add the label, leave the case out, or allow it with --allow-missing"
    ),
    "modality-missing": Kind(
        "error", "a case lacks a modality", "add the file, leave the case out, or train with fewer --modalities"
    ),
    "images-missing": Kind("error", "a case has no image", "add the images, or move the case out of the data set"),
    "file-absent": Kind(
        "error", "a table, description or link names a file that is not there", "add the file, or correct what names it"
    ),
    "file-unused": Kind(
        "error",
        "an image file is of no case, since its name does not follow the naming of the others",
        "correct the name, or move the file out of the data set",
    ),
    "file-hidden": Kind(
        "error", "images are hidden by a name that begins with a dot", "rename them, or move them out of the data set"
    ),
    "folder-empty": Kind("error", "a folder is empty", "get its files again, or remove it"),
    "folder-unreadable": Kind("error", "a folder cannot be read", "permit reading it, or move it out of the data set"),
    "other-case": Kind(
        "error",
        "files of two cases are given as one's",
        "find out whose they are; then rename them or move them to their case",
    ),
    "session-doubtful": Kind(
        "warning",
        "names differ only in what may be a session, and count as different patients",
        "if they are sessions of one patient, say so with --patients TABLE (columns case, patient)",
    ),
    "modality-doubled": Kind("error", "a case has two files for one modality", "keep one of the files"),
    "id-doubled": Kind("error", "two cases have the same id", "rename one of them, or check one folder at a time"),
    "same-modality": Kind(
        "error", "two modalities of a case are the same image", "find the file that was copied under a wrong name"
    ),
    "same-case": Kind("error", "two cases hold the same image", "remove one of the cases"),
    "same-class": Kind(
        "error", "the same picture stands in two classes", "find out which class is right and remove the other copy"
    ),
    "same-picture": Kind(
        "warning",
        "the same picture stands in one class more than once",
        "remove the copies: a random split would put one into training and one into the test",
    ),
    "leak": Kind(
        "error",
        "the same image stands in two parts, such as train and test",
        "remove it from the training part: metrics on its copy mean nothing",
    ),
    "near-leak": Kind(
        "error",
        "a picture and a near-copy of it stand in two parts, such as train and test",
        "remove it from the training part, or split anew with 'metaseg data split', which keeps near-copies together",
    ),
    "near-class": Kind(
        "warning",
        "a picture and a near-copy of it stand in two classes",
        "look at both: if they are one picture, find out which class is right and remove the other",
    ),
    "near-picture": Kind(
        "warning",
        "pictures of one class look the same: saved again, resized, or neighbouring slices of one patient",
        "nothing, if metaseg makes the split: it keeps them together; count them as one when you count pictures",
    ),
    "class-single": Kind(
        "warning",
        "a class has a single picture, or copies of a single one",
        "add pictures of the class, or leave it out with --classes",
    ),
    "class-absent": Kind(
        "warning",
        "a part, such as test, has no picture of a class",
        "split anew with --stratify cohort, use fewer parts, or add pictures of the class",
    ),
    "patient-split": Kind(
        "error", "a patient's cases stand in two parts of the split", "split by patient with 'metaseg data split'"
    ),
    "split-invalid": Kind("error", "the split file parts or doubles a case, or lacks its patients", "make a new split"),
    "split-patients": Kind(
        "error",
        "cases are of other patients than the split file says",
        "make a new split, or give the --patients that it was made with",
    ),
    "split-empty": Kind("error", "a part of the split file names no case", "make a new split"),
    "split-unnamed": Kind("warning", "cases are in no part of the split file", "make a new split to use them"),
    "split-absent": Kind(
        "error", "the split file names cases that the data lacks", "give the data the split was made for, or split anew"
    ),
}
"""Every kind of finding, by the name that reports use."""
MAY_BE_MISSING = frozenset(
    {
        "label-missing", "modality-missing", "images-missing", "file-absent", "file-unused", "file-hidden",
        "folder-empty", "folder-unreadable",
    }
)  # fmt: skip
"""Kinds that ``--allow-missing`` makes warnings."""


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


def render(report: CheckReport, *, limit: int = 10) -> RenderableType:
    """The summary, and below it a table of findings, errors first.

    Args:
        report: The report.
        limit: Rows shown of each kind of finding (0: all); the rest is counted.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    if not report.findings:
        return Text(summary(report))
    table = Table(show_lines=True)
    for column in ("Finding", "Where", "Found", "To do"):
        table.add_column(column, overflow="fold", ratio=None if column == "Finding" else 1)
    counts = Counter(finding.kind for finding in report.findings)
    shown: Counter[str] = Counter()
    for finding in report.findings:
        shown[finding.kind] += 1
        if limit and shown[finding.kind] > limit:
            continue
        style = "bold red" if finding.severity == "error" else "yellow"
        hidden = counts[finding.kind] - limit if limit and shown[finding.kind] == limit else 0
        # Text, not markup: brackets in file names are no styles.
        cells = (f"{finding.severity}\n{finding.kind}", _place(finding), finding.found, finding.remedy)
        table.add_row(Text(cells[0], style), *map(Text, cells[1:]))
        if hidden:
            table.add_row(Text("..."), Text(""), Text(f"{hidden} more of {finding.kind}"), Text(""))
    return Group(Text(summary(report)), table)


def summary(report: CheckReport) -> str:
    """One line: how much was checked and how much was found."""
    cases = f"{report.cases} case{'' if report.cases == 1 else 's'} ({report.format}) in {report.path}"
    if not report.findings:
        return f"{cases}: nothing found"
    counted = ((len(report.errors), "error"), (len(report.warnings), "warning"))
    return f"{cases}: " + ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counted)


def _place(finding: Finding) -> str:
    return "\n".join(dict.fromkeys(name for name in (finding.case, finding.file) if name))
