"""The files of a slice classifier's evaluation: predictions, metrics with intervals, pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from metaseg.errors import warnings_so_far
from metaseg.files import finite_metrics, write_json, write_text
from metaseg.metrics.classification import (
    bootstrap_metrics,
    classification_metrics,
    confusion_counts,
    patient_indices,
    patient_probabilities,
)
from metaseg.metrics.probabilities import checked_classes, checked_probabilities, predicted_classes
from metaseg.pictures.charts import write_confusion_plot, write_reliability_plot, write_roc_plot

PREDICTIONS, PATIENTS, METRICS = "predictions.csv", "patients.csv", "metrics.csv"
SUMMARY, PICTURES = "metrics.json", "pictures"
LEVELS = ("slice", "patient")
FEW_PATIENTS = 10
"""Fewer patients than this say little of others; whoever shows their metrics says so."""


class SliceTable(Protocol):
    """What is known of the slices that were classified, in the order of their probabilities.

    Attributes:
        labels: Class indices ``(n,)``.
        classes: Names of the classes.
        case_ids: Each slice's case ``(n,)``.
        patients: Each slice's patient ``(n,)``.
        ids: A name for each slice ``(n,)``, such as its case and number.
    """

    @property
    def labels(self) -> np.ndarray: ...  # noqa: D102
    @property
    def classes(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def case_ids(self) -> Sequence[str] | np.ndarray: ...  # noqa: D102
    @property
    def patients(self) -> Sequence[str] | np.ndarray: ...  # noqa: D102
    @property
    def ids(self) -> Sequence[str] | np.ndarray: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class _Level:
    """Predictions that are measured together, of slices or of patients."""

    probabilities: np.ndarray
    labels: np.ndarray
    patients: np.ndarray


def write_classification_metrics(
    folder: Path,
    probabilities: np.ndarray,
    table: SliceTable,
    *,
    seed: int = 0,
    resamples: int = 1000,
    title: str = "",
    synthetic: bool = False,
    record: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, float]]:
    """Write predictions, metrics and pictures of slices and of patients; ``metrics.json`` last.

    Args:
        folder: Where they are written: ``predictions.csv``, ``patients.csv``, ``metrics.csv``, ``metrics.json`` and
            ``pictures/``. Those of an earlier call are replaced.
        probabilities: ``(n, c)`` of the slices, rows sum to 1.
        table: The slices.
        seed: Of the bootstrap.
        resamples: Of the bootstrap.
        title: Heading of the pictures.
        synthetic: Whether the data are phantoms; pictures and ``metrics.json`` then say so.
        record: What the predictions come from, as JSON values; kept in ``metrics.json`` as ``evaluation``.

    Returns:
        The metrics of the levels ``slice`` and ``patient``. Where a patient has slices of several classes, there is no
        class of a patient, and no level ``patient``.

    Raises:
        ValueError: Probabilities and table are no set of predictions.
    """
    chance, truth = checked_probabilities(probabilities, table.labels)
    classes = checked_classes(table.classes, chance.shape[1])
    levels = _levels(chance, truth, np.asarray(table.patients))
    _write_csv(folder / PREDICTIONS, _slice_rows(levels["slice"], table, classes))
    if "patient" in levels:
        _write_csv(folder / PATIENTS, _patient_rows(levels["patient"], levels["slice"], classes))
    else:
        (folder / PATIENTS).unlink(missing_ok=True)
    metrics: dict[str, dict[str, float]] = {}
    rows: list[dict[str, Any]] = []
    for name, level in levels.items():
        metrics[name] = classification_metrics(level.probabilities, level.labels, classes)
        generator = np.random.default_rng(seed)
        intervals = bootstrap_metrics(
            level.probabilities, level.labels, level.patients, classes, generator, resamples, None
        )
        for metric, value in metrics[name].items():
            low, high = intervals.get(metric, (math.nan, math.nan))
            rows.append({"level": name, "name": metric, "value": value, "low": low, "high": high})
    _write_csv(folder / METRICS, pd.DataFrame(rows))
    pictures = _draw(folder / PICTURES, levels, classes, title, synthetic)
    content = {
        "synthetic": synthetic,
        "warnings": warnings_so_far(),
        "evaluation": dict(record or {}),
        "classes": list(classes),
        "slices": len(chance),
        "patients": len(np.unique(levels["slice"].patients)),
        "bootstrap": {"resamples": resamples, "seed": seed, "level": 0.95, "unit": "patient"},
        "metrics": {
            name: {
                row["name"]: finite_metrics({part: row[part] for part in ("value", "low", "high")})
                for row in rows
                if row["level"] == name
            }
            for name in levels
        },
        "confusion": {name: _confusion(level, len(classes)).tolist() for name, level in levels.items()},
        "pictures": [f"{PICTURES}/{picture.name}" for picture in pictures],
    }
    write_json(folder / SUMMARY, content)
    return metrics


def _levels(probabilities: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> dict[str, _Level]:
    names, of_slice = patient_indices(patients, len(labels))
    levels = {"slice": _Level(probabilities, labels, patients)}
    first = np.zeros(len(names), dtype=np.int64)
    first[of_slice] = labels
    if (first[of_slice] == labels).all():
        levels["patient"] = _Level(*patient_probabilities(probabilities, labels, patients))
    return levels


def _class_columns(level: _Level, classes: Sequence[str]) -> dict[str, Any]:
    names = np.asarray(classes, dtype=object)
    columns: dict[str, Any] = {"truth": names[level.labels], "predicted": names[predicted_classes(level.probabilities)]}
    return columns | {f"prob_{name}": level.probabilities[:, place] for place, name in enumerate(classes)}


def _slice_rows(level: _Level, table: SliceTable, classes: Sequence[str]) -> pd.DataFrame:
    known = {"case": list(table.case_ids), "patient": list(table.patients), "slice": list(table.ids)}
    return pd.DataFrame(known | _class_columns(level, classes))


def _patient_rows(level: _Level, slices: _Level, classes: Sequence[str]) -> pd.DataFrame:
    names, counts = np.unique(slices.patients, return_counts=True)
    return pd.DataFrame({"patient": names, "slices": counts} | _class_columns(level, classes))


def _confusion(level: _Level, classes: int) -> np.ndarray:
    return confusion_counts(predicted_classes(level.probabilities), level.labels, classes)


def _draw(
    folder: Path, levels: Mapping[str, _Level], classes: Sequence[str], title: str, synthetic: bool
) -> list[Path]:
    """Three pictures of each level; those of a level that is no longer there are removed."""
    written = []
    for name, level in levels.items():
        heading = ", ".join(filter(None, (title, f"{len(level.labels)} {name}s")))
        chance, truth = level.probabilities, level.labels
        counts = _confusion(level, len(classes))
        written += [
            write_confusion_plot(folder / f"confusion-{name}.png", counts, classes, heading, synthetic),
            write_reliability_plot(folder / f"reliability-{name}.png", chance, truth, heading, synthetic),
            write_roc_plot(folder / f"roc-{name}.png", chance, truth, classes, heading, synthetic),
        ]
    for name in LEVELS:
        for kind in ("confusion", "reliability", "roc"):
            if (path := folder / f"{kind}-{name}.png") not in written:
                path.unlink(missing_ok=True)
    return written


def _write_csv(path: Path, rows: pd.DataFrame) -> None:
    write_text(path, rows.to_csv(index=False, lineterminator="\n"))
