"""What results came from: commands, versions, seeds, data, patients and settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import pandas as pd

from metaseg.reports.blocks import Block, Details, Facts, Section, Table, TableColumn, text_column
from metaseg.reports.inputs import ReportInputs, ReportRun

PARTS: Sequence[Mapping[str, str]] = (
    {"train": "labels used", "target": "target, watched", "source": "source, watched", "val": "validation"},
    {"train": "training", "val": "validation", "test": "test", "inherited": "of earlier weights"},
)
"""Parts of ``patients.json`` of segmentation and of classification, and what they are called on the page."""

NOT_BESIDE = "These results are of synthetic phantoms: they are not set beside the paper's, which are of patients."


def provenance_section(inputs: ReportInputs, parts: Mapping[str, str]) -> Section:
    """The last section of the page.

    Args:
        inputs: What was read.
        parts: Parts of ``patients.json`` and what they are called.
    """
    runs = inputs.runs
    blocks: list[Block] = [Facts("", _common_facts(runs)), _patients_table(runs, parts)]
    name = "Settings of the run" if len(runs) == 1 else "Settings of the runs"
    if inputs.settings:
        blocks.append(Details("Settings of the study", [Facts("", _flat(inputs.settings))]))
        name += " (of each entry the first)"
    firsts = {run.method: run for run in reversed(runs)}
    settings = [Facts(f"{run.method} ({run.verb})", _flat(run.settings)) for run in runs if run is firsts[run.method]]
    return Section("provenance", "Where these results come from", [*blocks, Details(name, settings)])


def _common_facts(runs: Sequence[ReportRun]) -> list[tuple[str, str]]:
    """One line a fact; runs that differ share a line."""
    manifests = [run.manifest for run in runs if run.manifest]

    def recorded(name: str, most: int, missing: str = "") -> tuple[str, str]:
        return name.replace("_", " "), _joined((str(kept.get(name) or missing) for kept in manifests), most)

    synthetic = any(kept.get("synthetic") for kept in manifests)
    facts = [
        ("command", _joined((" ".join(map(str, kept.get("command") or ())) for kept in manifests), 3)),
        ("runs", f"{len(runs)}" if len(runs) != 1 else runs[0].verb),
        ("status", _joined((run.status for run in runs), 5)),
        ("seeds", _joined((str(run.seed) for run in runs), 30)),
        recorded("device", 4, "None"),
        recorded("threads", 4, "not set"),
        recorded("git_commit", 3, "not known"),
        ("began from", recorded("parent", 3, "nothing")[1]),
        recorded("data_fingerprint", 8, "None"),
        ("data", "synthetic phantoms" if synthetic else "patients"),
        ("computing time", _hours(manifests)),
    ]
    names = dict.fromkeys(name for kept in manifests for name in (kept.get("versions") or {}))
    facts += [(name, _joined((str((kept.get("versions") or {}).get(name)) for kept in manifests), 3)) for name in names]
    return [(name, text) for name, text in facts if text]


def _patients_table(runs: Sequence[ReportRun], parts: Mapping[str, str]) -> Table:
    """Patients of each part, of one run of each target and number of shots, or of each name."""
    rows: dict[str, dict[str, str]] = {}
    for run in runs:
        name = f"{run.target}, {run.shots} shots" if run.tuned else run.method
        if run.patients and name not in rows:
            members = {part: run.patients.get(part, ()) for part in parts}
            counts = {part: str(len({row.patient for row in of_part}) or "–") for part, of_part in members.items()}
            cohorts = sorted({row.cohort for of_part in members.values() for row in of_part if row.cohort})
            rows[name] = {"data": name, **counts, "cohorts": ", ".join(cohorts)}
    columns = [
        text_column("data", "data"),
        *(TableColumn(part, name, write=str) for part, name in parts.items()),
        text_column("cohorts", "cohorts"),
    ]
    return Table("Patients, of the first seed", pd.DataFrame(list(rows.values())), columns)


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
    sessions = [session for kept in manifests for session in kept.get("sessions") or ()]
    if not sessions:
        return ""
    seconds = sum(float(session.get("wall_seconds") or 0.0) for session in sessions)
    began = min(str(session.get("started", "")) for session in sessions)
    text = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    try:
        return f"{text}, from {datetime.fromisoformat(began):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return text
