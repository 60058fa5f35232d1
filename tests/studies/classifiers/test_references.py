from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from metaseg.metrics.curves import labels_saved
from metaseg.studies.classifiers.references import print_references, with_references
from metaseg.studies.classifiers.tables import Predictions
from metaseg.studies.workers import Unit

LABELS = [10, 20, 30, 40]
AUC = {"clever": [0.6, 0.8, 0.9, 0.9], "random": [0.5, 0.6, 0.7, 0.8], "scratch": [0.5, 0.6, 0.65, 0.7]}


def curves_of(seeds: int) -> pd.DataFrame:
    rows = [
        {"entry": entry, "seed": seed, "round": number, "labels": labels, "part": "test", "auc": value}
        for entry, values in AUC.items()
        for seed in range(seeds)
        for number, (labels, value) in enumerate(zip(LABELS, values, strict=True), start=1)
    ]
    return pd.DataFrame(rows)


def trained() -> Predictions:
    """Of all labels: 17 of 20 pairs of the classes in order, an AUC of 0.85."""
    positive = np.array([0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.15])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])
    names = np.array([f"p{number}" for number in range(9)])
    return Predictions(np.stack([1 - positive, positive], axis=1), labels, names, ("a", "b"))


def summarised(seeds: int, pool: dict[str, int]) -> pd.DataFrame:
    study = SimpleNamespace(metric="auc", resamples=200)
    titles = {name: name for name in (*AUC, "all-labels")}
    work = SimpleNamespace(study=study, references=("scratch", "all-labels"), baseline="random", titles=titles)
    cells = [Unit("cell", "", "all-labels", seed=seed) for seed in range(seeds)]
    runs = [SimpleNamespace(cell=cell, pool=pool) for cell in cells]
    table = pd.DataFrame({"entry": [*AUC, "all-labels"], "labels": [40.0, 40.0, 40.0, math.nan]})
    found = with_references(table, work, curves_of(seeds), dict.fromkeys(cells, trained()), runs)
    print_references(work, found)
    return found.set_index("entry")


def test_labels_for_the_final_metric_of_scratch_and_of_all_labels():
    table = summarised(3, {"a": 150, "b": 50})
    saved = labels_saved(LABELS, AUC["clever"], LABELS, AUC["scratch"])
    assert table.loc["clever", "labels_needed_scratch"] == pytest.approx(15)
    assert table.loc["clever", "labels_saved_scratch"] == pytest.approx(saved) == pytest.approx(1 - 15 / 40)
    assert table.loc["random", "labels_saved_scratch"] == pytest.approx(1 - 30 / 40)
    # 0.85 lies halfway between 20 and 30 labels; the pool has 200.
    assert table.loc["clever", "labels_needed_all-labels"] == pytest.approx(25)
    assert table.loc["clever", "labels_saved_all-labels"] == pytest.approx(1 - 25 / 200)
    assert math.isnan(table.loc["random", "labels_needed_all-labels"])


def test_of_a_reference_itself_there_are_the_labels_needed():
    table = summarised(3, {"a": 150, "b": 50})
    assert table.loc["scratch", "labels_needed_scratch"] == 40
    assert math.isnan(table.loc["scratch", "labels_saved_scratch"])
    assert table.loc["all-labels", "labels_needed_all-labels"] == 200
    assert math.isnan(table.loc["all-labels", "labels_needed_scratch"])


def test_no_interval_of_fewer_than_three_seeds():
    assert summarised(2, {"a": 150, "b": 50})["labels_saved_scratch_low"].isna().all()


def test_a_pool_of_unknown_size_is_no_reference():
    table = summarised(3, {})
    assert "labels_needed_all-labels" not in table
    assert "labels_needed_scratch" in table


def test_printed_side_by_side(capsys):
    summarised(2, {"a": 150, "b": 50})
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("clever")]
    assert "15 (6" in line
    assert "25 (8" in line
