import numpy as np
import pandas as pd
import pytest
from study_rows import study_row

from metaseg.errors import DataError
from metaseg.studies.pairs import at_seconds, every_pair
from metaseg.studies.study_metrics import method_summary
from metaseg.studies.tables import TABLE_COLUMNS, TIMING_COLUMNS, check_table

STEPS = (0, 100, 200)
# Two patients on each domain; Dice on a straight line over steps, which the cut must keep.
SLOPES = {"p0": (0.2, 0.001), "p1": (0.4, 0.002)}


def tidy(seconds_per_step, steps=STEPS, seeds=(0, 1, 2), shots=5):
    """Tables of methods with so many seconds for a step, longer by the seed's number of tenths."""
    rows, timing = [], []
    for method, cost in seconds_per_step.items():
        for seed in seeds:
            for step in steps:
                timing.append(("met", method, shots, seed, step, cost * step * (1 + seed / 10)))
                rows += [
                    study_row(method, seed, step, domain, name, start + slope * step, shots=shots)
                    for domain in ("target", "source")
                    for name, (start, slope) in SLOPES.items()
                ]
    return pd.DataFrame(rows, columns=TABLE_COLUMNS), pd.DataFrame(timing, columns=TIMING_COLUMNS)


def cut_rows(frame):
    return frame[frame["work"] > 0].set_index(["method", "seed", "domain", "patient"])


def test_the_cut_is_the_smallest_median_total():
    frame = at_seconds(*tidy({"quick": 0.1, "slow": 0.5}))
    # The quick one's totals are 20, 22 and 24 seconds.
    rows = cut_rows(frame)
    assert rows.loc["slow", "seconds"].to_numpy() == pytest.approx(22.0)
    assert rows.loc[("quick", 1), "seconds"].to_numpy() == pytest.approx(22.0)
    # The run that ended earlier is there as it ended, and says so.
    assert rows.loc[("quick", 0), "seconds"].to_numpy() == pytest.approx(20.0)
    assert rows.loc[("quick", 0), "work"].to_numpy() == pytest.approx(200.0)
    assert frame.groupby(["method", "seed"])["reached"].agg(["min", "max"]).to_numpy().tolist() == [
        [False, False],
        *[[True, True]] * 5,
    ]


def test_dice_and_step_lie_between_the_marks_around():
    rows = cut_rows(at_seconds(*tidy({"quick": 0.1, "slow": 0.5}), seconds=15.0))
    for (method, seed, _, patient), row in rows.iterrows():
        step = 15.0 / ({"quick": 0.1, "slow": 0.5}[method] * (1 + seed / 10))
        start, slope = SLOPES[patient]
        assert row["work"] == pytest.approx(step)
        assert row["dice"] == pytest.approx(start + slope * step)
    # Not on a line through all marks, but through the two around the cut.
    table, timing = tidy({"quick": 0.1}, seeds=(0,))
    table.loc[table["work"] == 100, "dice"] = 0.9
    rows = cut_rows(at_seconds(table, timing, seconds=17.5))
    assert rows.loc[("quick", 0, "target", "p1"), "dice"] == pytest.approx(0.9 + 0.75 * (0.8 - 0.9))


def test_every_run_begins_where_it_began():
    table, timing = tidy({"quick": 0.1, "slow": 0.5})
    frame = at_seconds(table, timing)
    first = frame[frame["work"] == 0][list(TABLE_COLUMNS)].reset_index(drop=True)
    expected = table[table["work"] == 0].sort_values(list(TABLE_COLUMNS), ignore_index=True)
    pd.testing.assert_frame_equal(first, expected, check_dtype=False)
    assert frame.loc[frame["work"] == 0, "seconds"].eq(0.0).all()
    assert len(frame) == 2 * len(first)


def test_each_target_and_shots_has_its_own_cut():
    few, many = tidy({"quick": 0.1, "slow": 0.5}, seeds=(0,)), tidy({"slow": 0.5}, seeds=(0,), shots=10)
    frame = at_seconds(*(pd.concat(parts) for parts in zip(few, many, strict=True)))
    ends = frame.groupby(["shots", "method"])["seconds"].max()
    assert ends.to_dict() == pytest.approx({(5, "quick"): 20.0, (5, "slow"): 20.0, (10, "slow"): 100.0})


def test_metrics_and_pairs_take_it():
    frame = at_seconds(*tidy({"quick": 0.1, "slow": 0.5}, seeds=(0,)))
    check_table(frame)
    rows = method_summary(frame, "WT", resamples=20).set_index("method")
    # 20 seconds are 200 steps of the quick method and 40 of the slow one, and Dice gains 0.0015 a step.
    assert rows["target_after"].to_dict() == pytest.approx({"quick": 0.6, "slow": 0.36})
    assert rows["target_before"].to_dict() == pytest.approx({"quick": 0.3, "slow": 0.3})
    assert rows["spent"].to_dict() == pytest.approx({"quick": 200.0, "slow": 40.0})
    assert every_pair(frame, "WT", resamples=20)["mean_difference"].iloc[0] == pytest.approx(0.24)


def test_methods_without_work_do_not_set_the_cut():
    table, timing = tidy({"quick": 0.1, "none": 0.0}, seeds=(0,))
    table = table[(table["method"] == "quick") | (table["work"] == 0)]
    frame = at_seconds(table, timing)
    assert frame.loc[frame["method"] == "quick", "seconds"].max() == pytest.approx(20.0)
    alone = frame[frame["method"] == "none"]
    assert alone["work"].tolist() == [0.0] * 4
    assert not alone["reached"].any()


def test_empty_masks_are_settled_before_lines_are_drawn():
    table, timing = tidy({"quick": 0.1}, seeds=(0,))
    table.loc[table["patient"] == "p0", "dice"] = np.nan
    rows = cut_rows(at_seconds(table, timing, seconds=15.0))
    assert np.isnan(rows.loc[("quick", 0, "target", "p0"), "dice"])
    table.loc[(table["patient"] == "p0") & (table["work"] == 200) & (table["domain"] == "target"), "dice"] = 0.0
    rows = cut_rows(at_seconds(table, timing, seconds=15.0))
    assert rows.loc[("quick", 0, "target", "p0"), "dice"] == pytest.approx(0.5)
    assert np.isnan(rows.loc[("quick", 0, "source", "p0"), "dice"])


def test_the_start_needs_no_timing_but_every_other_mark_does():
    table, timing = tidy({"quick": 0.1})
    later = timing[timing["work"] > 0]
    pd.testing.assert_frame_equal(at_seconds(table, later), at_seconds(table, timing))
    with pytest.raises(DataError, match=r"2 of 18 marks have no seconds, such as target met, method quick, .*work 100"):
        at_seconds(table, timing[(timing["work"] != 100) | (timing["seed"] != 1)])


def test_times_that_make_no_sense_are_refused():
    table, timing = tidy({"quick": 0.1}, seeds=(0,))
    with pytest.raises(DataError, match=r"seconds fall before .*work 200"):
        at_seconds(table, timing.assign(seconds=[0.0, 5.0, 4.0]))
    with pytest.raises(ValueError, match="more than 0"):
        at_seconds(table, timing, seconds=0.0)
    with pytest.raises(DataError, match="lacks column seconds"):
        at_seconds(table, timing.drop(columns="seconds"))


@pytest.mark.parametrize("seconds", [None, 10.0])
def test_empty_tables_stay_empty(seconds):
    frame = at_seconds(pd.DataFrame(columns=list(TABLE_COLUMNS)), pd.DataFrame(columns=list(TIMING_COLUMNS)), seconds)
    assert frame.empty
    assert list(frame.columns) == [*TABLE_COLUMNS, "seconds", "reached"]
