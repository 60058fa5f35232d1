from __future__ import annotations

import math
import typing

import pandas as pd
import pytest

from metaseg.config.studies import ClassifyCompareConfig, CompareConfig
from metaseg.studies.papers import Paper, PaperRow, beside_paper, papers, print_paper

ROWS = (
    PaperRow("naive", "naive", "target_after", "0.33 ± 0.34", "fraction"),
    PaperRow("AIFT", "chosen", "labels_saved", "at least half"),
    PaperRow("the most", "chosen", "labels_needed", "610", "labels"),
    PaperRow("none", "missing", "auc", "82.89"),
)
SUMMARY = pd.DataFrame(
    [
        {"entry": "naive", "target_after": 0.414, "target_after_sd": 0.281, "target_after_low": 0.3,
         "target_after_high": 0.5},
        {"entry": "chosen", "labels_saved": 0.5, "labels_saved_low": -math.inf, "labels_saved_high": 0.75,
         "labels_needed": 120.4},
    ]
)  # fmt: skip


def test_each_result_stands_beside_ours_in_the_papers_unit():
    found = beside_paper(Paper("A 2020", ROWS), SUMMARY)
    assert [(beside.ours, beside.interval) for beside in found] == [
        ("0.41 ± 0.28", "0.30 to 0.50"),
        ("50.0", "not reached to 75.0 over seeds"),
        ("120", ""),
        ("–", ""),
    ]
    assert [beside.row.what for beside in found] == ["Dice, target", "labels saved in %", "labels needed", "AUC in %"]
    assert all(beside.ours == "–" for beside in beside_paper(Paper("A 2020", ROWS), pd.DataFrame()))


def test_every_paper_can_be_named_by_a_study():
    named: set[str] = set()
    for config in (CompareConfig, ClassifyCompareConfig):
        hint = typing.get_type_hints(config)["paper"]
        named |= set(typing.get_args(typing.get_args(hint)[0]))
    assert named == set(papers())


@pytest.mark.parametrize("synthetic", [True, False])
def test_metrics_of_phantoms_are_marked(capsys, synthetic):
    summary = pd.DataFrame([{"method": "active", "target_after": 0.5, "interval_over": "patients"}])
    print_paper("han2018", summary, synthetic, named="method", of="Dice of ET")
    text = capsys.readouterr().out
    assert ("SYNTHETIC" in text) == synthetic
    for published in ("0.66", "0.33 ± 0.3413", "0.41 ± 0.2752", "0.45 ± 0.2317"):
        assert published in text
