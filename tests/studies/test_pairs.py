import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_rows import study_row

from metaseg.errors import DataError, UsageError
from metaseg.metrics.statistics import holm
from metaseg.studies.pairs import against, equal_work, every_pair, up_to_work
from metaseg.studies.study_metrics import method_summary
from metaseg.studies.tables import PAIR_COLUMNS, TABLE_COLUMNS

METHODS = {"naive": (0.20, -0.20), "replay": (0.22, -0.02), "active": (0.10, -0.05)}
"""Dice won on the target and lost on the source."""


@pytest.fixture(scope="module")
def table():
    generator = np.random.default_rng(0)
    base = {"target": generator.uniform(0.1, 0.5, 8), "source": generator.uniform(0.4, 0.8, 10)}
    rows = []
    for shots in (1, 5):
        for method, change in METHODS.items():
            for seed in range(3):
                for domain, gain in zip(("target", "source"), change, strict=True):
                    after = np.clip(base[domain] + gain + generator.normal(0, 0.05, len(base[domain])), 0, 1)
                    rows += [
                        study_row(method, seed, step, domain, f"{domain}{p}", d, shots=shots)
                        for step, dice in ((0, base[domain]), (100, after))
                        for p, d in enumerate(dice)
                    ]
    return pd.DataFrame(rows, columns=TABLE_COLUMNS)


def by_patient(table, method, domain, step, shots=5):
    rows = table.query("method == @method and domain == @domain and work == @step and shots == @shots")
    return rows.groupby("patient")["dice"].mean()


def test_every_pair_of_methods_is_there_once(table):
    frame = every_pair(table, "WT", resamples=20)
    assert list(frame.columns) == list(PAIR_COLUMNS)
    pairs = [("active", "naive"), ("active", "replay"), ("naive", "replay")]
    for _, rows in frame.groupby(["target", "shots", "metric"]):
        assert list(zip(rows["method_a"], rows["method_b"], strict=True)) == pairs
    assert len(frame) == 2 * 2 * 3


def test_pairs_are_patients_averaged_over_seeds(table):
    rows = every_pair(table, "WT", resamples=20).query("shots == 5").set_index(["metric", "method_a", "method_b"])
    a, b = (by_patient(table, method, "target", 100) for method in ("active", "replay"))
    row = rows.loc[("target_after", "active", "replay")]
    assert row["n"] == 8
    assert row["p"] == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert row["mean_difference"] == pytest.approx((a - b).mean())
    lost = {
        method: by_patient(table, method, "source", 0) - by_patient(table, method, "source", 100)
        for method in ("naive", "replay")
    }
    row = rows.loc[("forgetting", "naive", "replay")]
    assert row["n"] == 10
    assert row["p"] == pytest.approx(stats.wilcoxon(lost["naive"], lost["replay"]).pvalue)
    assert row["mean_difference"] == pytest.approx((lost["naive"] - lost["replay"]).mean())
    # Naive forgets more of every patient.
    assert row["rank_biserial"] == pytest.approx(1.0)
    assert 0 < row["low"] < row["mean_difference"] < row["high"]


def test_differences_are_those_of_the_summary(table):
    means = method_summary(table, "WT", resamples=5).set_index(["shots", "method"])
    for row in every_pair(table, "WT", metrics=["source_area", "target_after"], resamples=5).to_dict("records"):
        a, b = (means.loc[(row["shots"], row[name]), row["metric"]] for name in ("method_a", "method_b"))
        assert row["mean_difference"] == pytest.approx(a - b)


def test_holm_covers_the_pairs_of_one_cell(table):
    for _, rows in every_pair(table, "WT", resamples=5).groupby(["target", "shots", "metric"]):
        assert rows["p_holm"].tolist() == pytest.approx(holm(rows["p"]).tolist())


def test_against_a_baseline_covers_the_others_alone(table):
    frame = against(table, "WT", "naive", resamples=20, seed=3)
    assert set(frame["method_b"]) == {"naive"}
    for _, rows in frame.groupby(["target", "shots", "metric"]):
        assert rows["method_a"].tolist() == ["active", "replay"]
        assert rows["p_holm"].tolist() == pytest.approx(holm(rows["p"]).tolist())
    # The same comparison as among all pairs, seen from the other side.
    key = ["shots", "metric"]
    mine = frame[frame["method_a"] == "replay"].set_index(key)
    theirs = every_pair(table, "WT", resamples=20, seed=3).query("method_b == 'replay' and method_a == 'naive'")
    theirs = theirs.set_index(key).loc[mine.index]
    assert mine["mean_difference"].tolist() == pytest.approx((-theirs["mean_difference"]).tolist())
    assert mine["low"].tolist() == pytest.approx((-theirs["high"]).tolist())
    assert mine["p"].tolist() == pytest.approx(theirs["p"].tolist())


def test_only_seeds_of_both_methods_are_compared(table):
    fewer = table[(table["method"] != "naive") | (table["seed"] != 2)]
    both = table[table["seed"] != 2]
    key = "method_a == 'naive' and method_b == 'replay'"
    pd.testing.assert_frame_equal(
        every_pair(fewer, "WT", resamples=20).query(key).drop(columns="p_holm"),
        every_pair(both, "WT", resamples=20).query(key).drop(columns="p_holm"),
    )
    apart = table[(table["method"] != "naive") == (table["seed"] == 2)]
    row = every_pair(apart, "WT", resamples=20).query(key).iloc[0]
    assert row["n"] == 0
    assert math.isnan(row["p"])
    assert math.isnan(row["p_holm"])


def test_seeing_tumour_where_there_is_none_is_a_difference(table):
    # Patient 0 has nothing to find: the naive network alone finds something, in one seed.
    none = (table["patient"] == "target0") & (table["work"] == 100)
    table = table.assign(dice=table["dice"].where(table["patient"] != "target0"))
    table.loc[none & (table["method"] == "naive") & (table["seed"] == 0) & (table["shots"] == 5), "dice"] = 0.0
    rows = every_pair(table, "WT", metrics=["target_after"], resamples=20).query("shots == 5")
    rows = rows.set_index(["method_a", "method_b"])
    assert rows["n"].tolist() == [8, 8, 8]
    known = table[table["patient"] != "target0"]
    rest = (by_patient(known, "naive", "target", 100) - by_patient(known, "replay", "target", 100)).sum()
    assert rows.loc[("naive", "replay"), "mean_difference"] == pytest.approx((rest + (2 / 3 - 1)) / 8)


def test_little_is_no_test(table):
    alone = every_pair(table[table["patient"].isin(["target0", "source0"])], "WT", resamples=10)
    assert alone["n"].eq(1).all()
    assert alone[["p", "p_holm", "low", "high"]].isna().all(axis=None)
    assert alone["mean_difference"].notna().all()
    assert every_pair(table[table["method"] == "naive"], "WT").empty
    assert against(table[table["method"] == "naive"], "WT", "naive").empty
    nothing = pd.DataFrame(columns=list(TABLE_COLUMNS))
    assert (
        list(every_pair(nothing, "WT").columns) == list(against(nothing, "WT", "naive").columns) == list(PAIR_COLUMNS)
    )


def test_wrong_names_are_refused(table):
    with pytest.raises(UsageError, match="'steps_to_90' cannot be compared"):
        every_pair(table, "WT", metrics=["steps_to_90"])
    with pytest.raises(UsageError, match="no method 'ewc'") as caught:
        against(table, "WT", "ewc")
    assert caught.value.expected == "one of active, naive, replay"
    with pytest.raises(DataError, match="lacks column method"):
        against(table.drop(columns="method"), "WT", "naive")


class TestEqualWork:
    def rows(self, **marks):
        return pd.DataFrame(
            [(method, float(work), 0.5) for method, works in marks.items() for work in (0, *works)],
            columns=["method", "work", "dice"],
        )

    def test_the_last_mark_that_most_have_beside_the_reference(self):
        rows = self.rows(naive=(150, 300, 450, 600), tune=(300, 600, 900, 1200), other=(298, 596))
        assert equal_work(rows, "naive") == (600.0, {"naive", "tune", "other"})
        assert up_to_work(rows, 600.0)["work"].max() == 600
        # Whole steps overshoot a mark, but not by much.
        assert equal_work(self.rows(naive=(100, 200), meta=(101, 203, 309)), "naive")[0] == 200.0
        assert equal_work(self.rows(naive=(100, 200), meta=(101, 206, 309)), "naive")[0] == 100.0

    def test_a_method_without_such_a_mark_is_left_out(self):
        rows = self.rows(naive=(300, 600), tune=(600, 1200), odd=(500, 1000))
        assert equal_work(rows, "naive") == (600.0, {"naive", "tune"})

    def test_none_where_no_mark_is_shared(self):
        assert equal_work(self.rows(naive=(250, 500), tune=(600, 1200)), "naive") == (0.0, frozenset())
        assert equal_work(self.rows(naive=(250, 500)), "absent") == (0.0, frozenset())
