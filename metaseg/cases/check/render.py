"""Show a dataset check's report in a terminal."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from metaseg.cases.check.report import CheckReport, Finding

if TYPE_CHECKING:
    from rich.console import RenderableType


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
