"""The report as a table in a terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metaseg.cases.check import KINDS, CheckReport, Finding, print_report
from metaseg.cases.check.report import summary


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "160")

    def shown(report: CheckReport, limit: int = 10) -> str:
        print_report(report, limit=limit)
        return capsys.readouterr().out

    return shown


def report(*findings: Finding) -> CheckReport:
    return CheckReport("data/x", "brats", 3, findings)


def test_nothing_found_is_one_line(shown):
    assert shown(report()) == "3 cases (brats) in data/x: nothing found\n"


def test_findings_are_counted_and_shown(shown):
    text = shown(
        report(Finding.of("shape", "a", "t2 [bold]small", file="a_t2.nii.gz"), Finding.of("label-empty", "b", "none"))
    )
    assert text.startswith("3 cases (brats) in data/x: 1 error, 1 warning\n")
    assert "a_t2.nii.gz" in text
    assert "[bold]small" in text
    assert KINDS["shape"].remedy.split()[0] in text


def test_long_lists_are_cut_and_counted(shown):
    findings = [Finding.of("label-empty", f"case-{number:02}", "none") for number in range(13)]
    assert "11 more of label-empty" in shown(report(*findings), limit=2)
    assert shown(report(*findings), limit=0).count("case-") == 13


def test_summary_counts_one_case():
    assert summary(CheckReport("x", "slices", 1, ())) == "1 case (slices) in x: nothing found"


def test_every_kind_is_described_in_the_guide():
    guide = Path(__file__).parents[2] / "docs" / "how-to-check-data.md"
    listed = re.findall(r"^\| `([a-z-]+)` \| (error|warning) \|", guide.read_text(encoding="utf-8"), re.MULTILINE)
    assert dict(listed) == {name: kind.severity for name, kind in KINDS.items()}
