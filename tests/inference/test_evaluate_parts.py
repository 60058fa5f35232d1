from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseg.inference.case_pictures import KeptPrediction
from metaseg.inference.evaluate import print_metrics
from metaseg.metrics.forgetting import change_metrics, domain_metrics, paired_dice


def rows(*values: tuple, cohort: str = "HGG", target: str = "ET") -> pd.DataFrame:
    """Rows of (case, before, after)."""
    return pd.DataFrame(
        [
            {
                "cohort": cohort,
                "case": case,
                "patient": case,
                "trained_on": False,
                "target": target,
                "network": network,
                "dice": dice,
            }
            for case, before, after in values
            for network, dice in (("before", before), ("after", after))
        ]
    )


def test_pairs_are_over_the_same_cases():
    nan = float("nan")
    pairs = paired_dice(rows(("a", 0.8, 0.6), ("b", nan, nan), ("c", nan, 0.0), ("d", 0.0, nan)))
    # Nothing to find in b, c and d: b was right twice, c began to see tumour, d stopped seeing it.
    assert pairs.set_index("case")[["before", "after"]].to_dict("index") == {
        "a": {"before": 0.8, "after": 0.6},
        "c": {"before": 1.0, "after": 0.0},
        "d": {"before": 0.0, "after": 1.0},
    }


def test_changes_are_differences_of_means_of_the_same_cases():
    frame = pd.concat([rows(("a", 0.9, 0.5), ("b", 0.7, 0.6)), rows(("m", 0.2, 0.6), cohort="MET")])
    changes = change_metrics(frame, {"HGG"}, 200, np.random.default_rng(0)).set_index("cohort")
    assert changes.loc["HGG", "forgetting"] == pytest.approx(0.25)
    low, high = changes.loc["HGG", ["forgetting_low", "forgetting_high"]]
    assert 0.1 - 1e-9 <= low <= high <= 0.4 + 1e-9
    assert changes.loc["MET", "gain"] == pytest.approx(0.4)
    assert np.isnan(changes.loc["MET", "forgetting"])
    domains = domain_metrics(frame, {"HGG"})["ET"]
    assert domains["forgetting"] == pytest.approx(0.25)
    assert domains["plasticity"] == pytest.approx(0.4)
    assert domains["balanced_mean"] == pytest.approx((0.55 + 0.6) / 2)


def test_a_domain_without_cases_has_no_metrics():
    domains = domain_metrics(rows(("a", 0.9, 0.5)), {"HGG"})["ET"]
    assert np.isnan(domains["plasticity"])
    assert domains["source_after"] == 0.5


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12), st.integers(0, 5))
def test_worst_cases_are_those_that_sorting_gives(scores, count):
    case = SimpleNamespace(info=SimpleNamespace(geometry=SimpleNamespace(canonical_shape=(2, 3, 4))))
    kept: list[KeptPrediction] = []
    for place, score in enumerate(scores):
        classes = np.full((2, 3, 4), 0, dtype=np.uint8)
        classes[1, 2, place % 4] = 1 + place % 3
        kept = sorted([*kept, KeptPrediction.of(score, place, classes)])[:count]
    assert [entry.place for entry in kept] == sorted(range(len(scores)), key=lambda at: scores[at])[:count]
    for entry in kept:
        expected = np.zeros((2, 3, 4), dtype=np.uint8)
        expected[1, 2, entry.place % 4] = 1 + entry.place % 3
        np.testing.assert_array_equal(entry.class_map(case), expected)


def test_tables_of_a_log_file_are_not_cut(capsys):
    summary = pd.DataFrame(
        [
            {
                "cohort": "a-cohort-with-a-long-name",
                "trained_on": False,
                "target": "WT",
                "unit": "mm",
                "n_cases": 12,
                **{f"n_{name}": 10_000 for name in ("valid", "missed", "false", "empty_both")},
                **{f"{metric}_mean": 123.456 for metric in ("dice", "hd95", "lesionwise_dice", "lesionwise_hd95")},
                **{f"{metric}_mean": 0.5 for metric in ("lesionwise_f1", "mist_f1")},
                **{"dice_sd": 0.1, "hd95_sd": 100.0, "dice_low": 0.25, "dice_high": 0.75},
            }
        ]
    )
    print_metrics(summary, "title")
    printed = capsys.readouterr().out
    assert "…" not in printed
    for text in ("123.456 ± 0.100", "0.250 .. 0.750", "123.5 ± 100.0 mm", "10000", "a-cohort-with-a-long-name"):
        assert text in printed
