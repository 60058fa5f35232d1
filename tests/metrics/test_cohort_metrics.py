import json
import math

import numpy as np
import pandas as pd
import pytest

from metaseg.cases.labels import WHOLE_LESION
from metaseg.errors import DataError
from metaseg.metrics.case_metrics import case_metrics
from metaseg.metrics.cohort_metrics import apply_policy, summarise_cohorts, to_records
from metaseg.metrics.statistics import bootstrap_interval

# Four cases: found, missed, falsely found, and without tumour anywhere.
ROWS = [
    {"dice": 0.8, "hd95": 4.0, "status": "valid", "lesionwise_dice": 0.6, "lesionwise_f1": 1.0, "n": (2, 0)},
    {"dice": 0.0, "hd95": 300.0, "status": "missed", "lesionwise_dice": 0.0, "lesionwise_f1": 0.0, "n": (1, 0)},
    {"dice": 0.0, "hd95": 300.0, "status": "false", "lesionwise_dice": 0.0, "lesionwise_f1": 0.0, "n": (0, 3)},
    {
        "dice": math.nan,
        "hd95": math.nan,
        "status": "empty-both",
        "lesionwise_dice": 1.0,
        "lesionwise_f1": 1.0,
        "n": (0, 0),
    },
]


@pytest.fixture
def frame():
    rows = []
    for number, row in enumerate(ROWS):
        lesions, fp = row["n"]
        rows.append(
            {"case": f"c{number}", "patient": f"p{number}", "cohort": "MET", "target": "ET", "unit": "mm", **row}
            | {"n_lesions": lesions, "n_fp": fp, "lesionwise_hd95": row["hd95"] if lesions + fp else 0.0}
        )
    return pd.DataFrame(rows).drop(columns="n")


def test_missed_and_false_cases_stay_in_the_mean(frame):
    summary = summarise_cohorts(frame).iloc[0]
    assert (summary["n_cases"], summary["n_valid"], summary["n_missed"], summary["n_false"]) == (4, 1, 1, 1)
    assert summary["n_empty_both"] == 1
    assert summary["dice_mean"] == pytest.approx(0.8 / 3)
    assert summary["dice_sd"] == pytest.approx(np.std([0.8, 0, 0], ddof=1))
    assert summary["dice_median"] == 0.0
    assert summary["dice_n"] == 3
    assert summary["hd95_mean"] == pytest.approx(604 / 3)
    assert summary["hd95_n_penalty"] == 2
    # The case without lesions and false positives has no lesion-wise metric, though the official code gives it 1.
    assert summary["lesionwise_dice_mean"] == pytest.approx(0.6 / 3)
    assert summary["lesionwise_f1_n"] == 3
    assert summary["lesionwise_hd95_mean"] == pytest.approx(604 / 3)


def test_brats_policy_counts_every_case(frame):
    summary = summarise_cohorts(frame, policy="brats").iloc[0]
    assert summary["dice_mean"] == pytest.approx(1.8 / 4)
    assert summary["hd95_mean"] == pytest.approx((4 + 374 + 374 + 0) / 4)
    assert summary["lesionwise_dice_mean"] == pytest.approx(1.6 / 4)
    assert summary["lesionwise_f1_mean"] == pytest.approx(2 / 4)


def test_policies_can_be_applied_one_after_another(frame):
    there = apply_policy(frame, "exclude")
    pd.testing.assert_frame_equal(apply_policy(apply_policy(there, "brats"), "brats"), apply_policy(frame, "brats"))
    assert frame["lesionwise_dice"].iloc[3] == 1.0


def test_groups_keep_their_order(frame):
    other = frame.assign(cohort="HGG", target="WT")
    summary = summarise_cohorts(pd.concat([frame, other], ignore_index=True))
    assert list(zip(summary["cohort"], summary["target"], strict=True)) == [("MET", "ET"), ("HGG", "WT")]
    assert list(summarise_cohorts(frame, by=["target"])["target"]) == ["ET"]


def test_missing_more_cases_never_raises_the_mean(frame):
    means = [
        summarise_cohorts(pd.concat([frame, *[frame.iloc[[1]]] * more], ignore_index=True))["dice_mean"][0]
        for more in range(4)
    ]
    assert means == sorted(means, reverse=True)


def test_mixed_units_have_no_mean_distance(frame):
    mixed = pd.concat([frame, frame.assign(unit="pixel")], ignore_index=True)
    summary = summarise_cohorts(mixed).iloc[0]
    assert summary["unit"] == "mixed"
    assert math.isnan(summary["hd95_mean"])
    assert summary["dice_n"] == 6


def test_distances_that_were_not_computed_stay_out(frame):
    summary = summarise_cohorts(frame.assign(hd95=math.nan), policy="brats").iloc[0]
    assert math.isnan(summary["hd95_mean"])
    assert (summary["hd95_n"], summary["hd95_n_penalty"]) == (0, 0)


def test_rows_of_case_metrics_are_taken_as_they_are():
    label = np.zeros((4, 16, 16), dtype=np.uint8)
    label[1:3, 4:9, 4:9] = 1
    predictions = [label, np.roll(label, 2, 1), np.zeros_like(label)]
    rows = [
        {"cohort": "MET", **row}
        for prediction in predictions
        for row in case_metrics(label, prediction, WHOLE_LESION, WHOLE_LESION, (1.0, 1.0, 1.0))
    ]
    summary = summarise_cohorts(rows).iloc[0]
    assert (summary["target"], summary["n_valid"], summary["n_missed"]) == ("WT", 2, 1)
    assert summary["dice_mean"] == pytest.approx((1 + 0.6 + 0) / 3)
    assert summary["mist_f1_mean"] == pytest.approx(2 / 3)


def test_bootstrap_equals_the_normal_interval():
    generator = np.random.default_rng(0)
    values = generator.normal(0.5, 0.1, 400)
    low, high = bootstrap_interval(values, np.arange(400), 4000, generator)
    error = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - error, abs=0.001)
    assert high == pytest.approx(values.mean() + error, abs=0.001)


def test_bootstrap_draws_patients():
    # 40 copies of two patients hold no more than two patients' information.
    generator = np.random.default_rng(0)
    values, patients = np.repeat([0.0, 1.0], 40), np.repeat(["a", "b"], 40)
    assert bootstrap_interval(values, patients, 500, generator) == (0.0, 1.0)
    assert all(math.isnan(end) for end in bootstrap_interval(np.array([np.nan]), np.array(["a"]), 10, generator))


def test_bootstrap_columns_repeat_with_the_seed(frame):
    first, second = (
        summarise_cohorts(frame, bootstrap=200, generator=np.random.default_rng(3)).iloc[0] for _ in range(2)
    )
    assert first["dice_low"] <= first["dice_mean"] <= first["dice_high"]
    assert first["dice_low"] == second["dice_low"]
    with pytest.raises(ValueError, match="generator"):
        summarise_cohorts(frame, bootstrap=10)


def test_records_are_json(frame):
    records = to_records(summarise_cohorts(frame.iloc[[3]]))
    assert records[0]["dice_mean"] is None
    assert records[0]["n_empty_both"] == 1
    assert json.loads(json.dumps(records, allow_nan=False)) == records


def test_missing_columns_are_named(frame):
    with pytest.raises(DataError, match="lacks column status"):
        summarise_cohorts(frame.drop(columns="status"))
