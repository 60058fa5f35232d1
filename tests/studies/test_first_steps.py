from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from metaseg.metrics.statistics import holm, paired_wilcoxon
from metaseg.studies.first_steps import STEP_COLUMNS, first_steps
from metaseg.studies.tables import TABLE_COLUMNS

UPDATES = (0, 1, 2, 3, 4, 8)


def tidy(levels: dict[str, float], seeds: int = 3, patients: int = 8, updates=UPDATES) -> pd.DataFrame:
    """Runs whose Dice rises by a method's level an update, the same patients in all."""
    generator = np.random.default_rng(0)
    start = generator.random(patients) / 4
    rows = [
        ("met", method, "meta", 4, seed, 6 * update, update, domain, f"{patient}", f"{patient}", "ET",
         start[patient] + rise * update + 0.01 * generator.random())
        for method, rise in levels.items()
        for seed in range(seeds)
        for update in updates
        for domain in ("target", "source")
        for patient in range(patients)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))


def test_rows_are_means_after_the_first_powers_of_two():
    table = tidy({"active": 0.05, "naive": 0.01})
    found = first_steps(table, "ET", "naive", resamples=100)
    assert list(found.columns) == list(STEP_COLUMNS)
    assert sorted(set(found["update"])) == [0, 1, 2, 4, 8]
    means = table.groupby(["method", "domain", "update"])["dice"].mean()
    for row in found.itertuples():
        assert row.dice == pytest.approx(means[row.method, row.domain, row.update])
        assert row.low < row.dice < row.high
        assert (row.work, row.n_seeds, row.n_patients) == (6 * row.update, 3, 8)


def test_differences_are_paired_with_the_baseline_after_as_many_updates():
    table = tidy({"active": 0.05, "naive": 0.01, "passive": 0.01})
    found = first_steps(table, "ET", "naive", resamples=100)
    target = found[found["domain"] == "target"].set_index(["method", "update"])
    of_patients = table[table["domain"] == "target"].groupby(["method", "update", "patient"])["dice"].mean()
    for method in ("active", "passive"):
        assert math.isnan(target.loc[(method, 0), "p"])
        for update in (1, 2, 4, 8):
            one, other = of_patients[method, update], of_patients["naive", update]
            row = target.loc[(method, update)]
            assert row["difference"] == pytest.approx((one - other).mean())
            assert row["p"] == pytest.approx(paired_wilcoxon(one, other).p)
            assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    tested = target.dropna(subset=["p"])
    assert tested["p_holm"].to_numpy() == pytest.approx(holm(tested["p"].to_numpy()))
    assert target.loc["naive", "p"].isna().all()
    # Of eight patients p is 1/128 at best; eight comparisons are corrected for.
    assert target.loc[("active", 8), "p_holm"] == pytest.approx(8 / 128)


def test_seeds_count_where_all_were_evaluated():
    table = tidy({"active": 0.05, "naive": 0.01})
    gone = (table["method"] == "active") & (table["seed"] == 1) & (table["update"] == 4)
    found = first_steps(table[~gone], "ET", "naive", resamples=50).set_index(["method", "domain"])
    assert found.loc[("active", "target"), "update"].tolist() == [0, 1, 2, 8]
    assert found.loc[("naive", "target"), "update"].tolist() == [0, 1, 2, 4, 8]


def test_one_seed_has_intervals_over_patients_alone():
    found = first_steps(tidy({"active": 0.05}, seeds=1), "ET", resamples=50)
    assert (found["n_seeds"] == 1).all()
    assert found["low"].notna().all()
    assert found["difference"].isna().all()
    assert (found["baseline"] == "").all()


@pytest.mark.parametrize("updates", [(0, 5, 10), (0,)])
def test_without_a_mark_after_the_first_update_there_are_none(updates):
    assert first_steps(tidy({"active": 0.05}, updates=updates), "ET").empty
    earlier = tidy({"active": 0.05}).drop(columns="update")
    assert first_steps(earlier, "ET").empty
