"""The dataset check: find what would stop a run or spoil its metrics, before any time is spent on training."""

from metaseg.cases.check.dataset import Progress, check_dataset
from metaseg.cases.check.report import KINDS, CheckReport, Finding, Kind, print_report

__all__ = ["KINDS", "CheckReport", "Finding", "Kind", "Progress", "check_dataset", "print_report"]
