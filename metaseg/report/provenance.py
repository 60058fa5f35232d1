"""What the metrics came from: commands, versions, seeds, data, patients and settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from metaseg.report.blocks import Block, Cell, Column, Details, Facts, Row, Section, Table
from metaseg.report.inputs import ReportRun

PARTS = {"train": "labels used", "target": "target, watched", "source": "source, watched", "val": "validation"}
"""Parts of ``patients.json`` and what they are called on the page."""


def provenance_section(
    runs: Sequence[ReportRun],
    study: Mapping[str, Any] | None,
    parts: Mapping[str, str] = PARTS,
    first_of: str = "method at its first target, shots and seed",
) -> Section:
    """The last section of the page.

    Args:
        runs: All runs.
        study: Settings of the study; None for runs.
        parts: Parts of ``patients.json`` and what they are called.
        first_of: Of which runs of a study the settings are shown.
    """
    blocks: list[Block] = [Facts("", _common_facts(runs)), _patients_table(runs, parts)]
    if study is not None:
        blocks.append(Details("Settings of the study", [Facts("", _flat(study))]))
    settings = [Facts(_title(run), _flat(run.settings)) for run in _one_of_each(runs)]
    if settings:
        name = "Settings of the run" if len(runs) == 1 else "Settings of the runs"
        first = f" (of each {first_of})" if study is not None else ""
        blocks.append(Details(name + first, settings))
    return Section("provenance", "Where these metrics come from", blocks)


def _common_facts(runs: Sequence[ReportRun]) -> list[tuple[str, str]]:
    """One line a fact; runs that differ share a line."""
    manifests = [run.manifest for run in runs if run.manifest]
    facts = [
        ("command", _joined((" ".join(map(str, one.get("command") or ())) for one in manifests), 3)),
        ("runs", f"{len(runs)}" if len(runs) != 1 else str(runs[0].verb)),
        ("status", _joined((run.status for run in runs), 5)),
        ("seeds", _joined((str(run.seed) for run in runs), 30)),
        ("device", _joined((str(one.get("device")) for one in manifests), 4)),
        ("threads", _joined((str(one.get("threads") or "not set") for one in manifests), 4)),
        ("git commit", _joined((str(one.get("git_commit") or "not known") for one in manifests), 3)),
        ("began from", _joined((str(one.get("parent") or "nothing") for one in manifests), 3)),
        ("data fingerprint", _joined((str(one.get("data_fingerprint")) for one in manifests), 8)),
        ("data", "synthetic phantoms" if any(run.synthetic for run in runs) else "patients"),
        ("computing time", _hours(manifests)),
    ]
    names = dict.fromkeys(name for one in manifests for name in (one.get("versions") or {}))
    facts += [(name, _joined((str(one["versions"].get(name)) for one in manifests), 3)) for name in names]
    return [(name, text) for name, text in facts if text]


def _patients_table(runs: Sequence[ReportRun], parts: Mapping[str, str]) -> Table:
    """Patients of each part, of one run of each target and number of shots, or of each name."""
    columns = [
        Column("data", number=False),
        *(Column(name) for name in parts.values()),
        Column("cohorts", number=False),
    ]
    seen: set[tuple[str, int]] = set()
    rows = []
    for run in runs:
        key = (run.target if run.tuned else run.method, run.shots)
        if key in seen or not run.patients:
            continue
        seen.add(key)
        counts = [len({row.patient for row in run.patients.get(part, [])}) for part in parts]
        cohorts = sorted({row.cohort for part in parts for row in run.patients.get(part, []) if row.cohort})
        name = f"{run.target}, {run.shots} shots" if run.tuned else run.method
        cells = [Cell(name), *(Cell(str(count) if count else "–") for count in counts), Cell(", ".join(cohorts))]
        rows.append(Row(cells))
    return Table("Patients, of the first seed", columns, rows)


def _one_of_each(runs: Sequence[ReportRun]) -> list[ReportRun]:
    first: dict[str, ReportRun] = {}
    for run in runs:
        first.setdefault(run.method, run)
    return list(first.values())


def _title(run: ReportRun) -> str:
    return f"{run.method} ({run.verb})"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Settings as names and texts; nested ones with dotted names."""
    facts: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            facts += _flat(value, f"{prefix}{name}.")
        else:
            facts.append((f"{prefix}{name}", _text(value)))
    return facts


def _text(value: Any) -> str:
    if value in (None, [], {}):
        return "–"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _joined(texts: Iterable[str], most: int) -> str:
    """Different texts in order of appearance; of many, the first."""
    different = list(dict.fromkeys(text for text in texts if text))
    more = f" and {len(different) - most} more" if len(different) > most else ""
    return ", ".join(different[:most]) + more


def _hours(manifests: Sequence[Mapping[str, Any]]) -> str:
    sessions = [session for one in manifests for session in one.get("sessions") or ()]
    seconds = sum(float(session.get("wall_seconds") or 0.0) for session in sessions)
    if not sessions:
        return ""
    began = min(str(session.get("started", "")) for session in sessions)
    text = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    try:
        return f"{text}, from {datetime.fromisoformat(began):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return text
