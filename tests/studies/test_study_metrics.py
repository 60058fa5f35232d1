import math

import numpy as np
import pandas as pd
import pytest
from study_rows import study_row

from metaseg.errors import DataError
from metaseg.metrics.curves import retention_area, steps_to_fraction
from metaseg.metrics.statistics import draw_weights
from metaseg.studies.study_metrics import (
    METRICS,
    PATIENT_METRICS,
    curves,
    group_runs,
    method_summary,
    patient_values,
    seed_metrics,
)
from metaseg.studies.tables import TABLE_COLUMNS


def run(method, seed, steps, target, source, family="gradient", shots=5, name="met"):
    """Rows of one run; target and source are Dice (mark, patient)."""
    options = {"family": family, "shots": shots, "target": name}
    return [
        study_row(method, seed, step, domain, f"{domain}-{patient}", dice, update=step, **options)
        for domain, marks in (("target", target), ("source", source))
        for step, row in zip(steps, marks, strict=True)
        for patient, dice in enumerate(row)
    ]


def tidy(*runs):
    return pd.DataFrame([row for rows in runs for row in rows], columns=TABLE_COLUMNS)


BY_HAND = tidy(
    run("naive", 0, [0, 100, 200], [[0.1, 0.3], [0.5, 0.5], [0.6, 0.4]], [[0.8, 0.6], [0.6, 0.4], [0.5, 0.3]]),
    run("naive", 1, [0, 110, 200], [[0.1, 0.3], [0.2, 0.2], [0.8, 0.2]], [[0.8, 0.6], [0.8, 0.6], [0.7, 0.5]]),
    run("floor", 0, [0, 200], [[0.0, 0.0], [0.2, 0.3]], [[0.0, 0.0], [0.1, 0.1]], family="scratch"),
    run("floor", 1, [0, 200], [[0.0, 0.0], [0.1, 0.0]], [[0.0, 0.0], [0.1, 0.1]], family="scratch"),
)


def random_table(methods=("naive", "replay", "scratch"), seeds=3, marks=4, patients=5, domains=("target", "source")):
    generator = np.random.default_rng(0)
    steps = [0, *np.cumsum(generator.integers(20, 40, marks - 1))]
    table = tidy(
        *(
            run(method, seed, steps, generator.random((marks, patients)), generator.random((marks, patients + 2)))
            for method in methods
            for seed in range(seeds)
        )
    )
    return table[table["domain"].isin(domains)]


def test_metrics_of_a_run_by_hand():
    row = seed_metrics(BY_HAND, "WT").set_index(["method", "seed"]).loc[("naive", 0)]
    expected = {
        "target_before": 0.2,
        "target_after": 0.5,
        "source_before": 0.7,
        "source_after": 0.4,
        "forgetting": 0.3,
        "backward_transfer": -0.3,
        "balanced_mean": 0.45,
        "target_area": (0.35 * 100 + 0.5 * 100) / 200,
        "source_area": (0.6 * 100 + 0.45 * 100) / 200,
        "balanced_area": (0.425 + 0.525) / 2,
        "steps_to_90": 100 * (0.45 - 0.2) / 0.3,
        "forward_transfer": 0.2 - 0.25,
        "spent": 200,
    }
    assert row[list(METRICS)].astype(float).to_dict() == pytest.approx(expected)
    assert set(expected) == set(METRICS)


def test_summary_by_hand():
    row = method_summary(BY_HAND, "WT", resamples=50).set_index("method").loc["naive"]
    assert (row["n_seeds"], row["n_target_patients"], row["n_source_patients"]) == (2, 2, 2)
    assert row["target_after"] == pytest.approx(0.5)
    # Patients' means over seeds are 0.7 and 0.3; both runs' means are 0.5.
    assert row["target_after_sd"] == pytest.approx(np.std([0.7, 0.3], ddof=1))
    # Forgetting is 0.3 and 0.1 in the runs, and 0.2 for both patients.
    assert row["forgetting"] == pytest.approx(0.2)
    assert row["forgetting_sd"] == pytest.approx(0.0)
    # What only a run has spreads over seeds: 0.45 and 0.55.
    assert row["balanced_mean"] == pytest.approx(0.5)
    assert row["balanced_mean_sd"] == pytest.approx(np.std([0.45, 0.55], ddof=1))
    assert row["forward_transfer"] == pytest.approx(0.2 - (0.25 + 0.05) / 2)


def test_summary_is_the_mean_of_the_runs():
    table = random_table()
    means = seed_metrics(table, "WT").groupby("method")[list(METRICS)].mean()
    pd.testing.assert_frame_equal(
        method_summary(table, "WT", resamples=10).set_index("method")[list(METRICS)], means, check_dtype=False
    )


def test_areas_and_steps_equal_those_of_single_curves():
    table = random_table()
    rows = seed_metrics(table, "WT").set_index(["method", "seed"])
    for (method, seed), of_run in table.groupby(["method", "seed"]):
        means = of_run.groupby(["domain", "work"])["dice"].mean()
        row = rows.loc[(method, seed)]
        for domain in ("target", "source"):
            assert row[f"{domain}_area"] == pytest.approx(
                retention_area(means[domain].index.to_numpy(), means[domain].to_numpy())
            )
        assert row["steps_to_90"] == pytest.approx(
            steps_to_fraction(means["target"].index.to_numpy(), means["target"].to_numpy())
        )


def test_a_run_s_metric_is_the_mean_of_its_patients():
    table = random_table()
    rows = seed_metrics(table, "WT")
    for group in group_runs(table, "WT"):
        of_group = rows[rows["method"] == group.method]
        for metric in PATIENT_METRICS:
            np.testing.assert_allclose(patient_values(group, metric).mean(axis=1), of_group[metric])


def test_intervals_draw_seeds_and_patients_and_compute_anew():
    # The same draws, but each resample put together and computed by itself.
    table, resamples = random_table(methods=("naive", "scratch")), 60
    generator = np.random.default_rng(4)
    draws = [draw_weights(size, resamples, generator).astype(int) for size in (3, 5, 7)]
    dice = {
        (method, domain): np.stack([one.pivot(index="work", columns="patient", values="dice") for _, one in seeds])
        for (method, domain), seeds in (
            (key, rows.groupby("seed")) for key, rows in table.groupby(["method", "domain"])
        )
    }
    steps = np.unique(table["work"])
    samples = []
    for seeds, target, source in zip(*draws, strict=True):
        drawn = [np.repeat(np.arange(len(counts)), counts) for counts in (seeds, target, source)]
        t = dice["naive", "target"][drawn[0]][:, :, drawn[1]].mean(axis=2)
        s = dice["naive", "source"][drawn[0]][:, :, drawn[2]].mean(axis=2)
        floor = dice["scratch", "target"][drawn[0], -1][:, drawn[1]].mean(axis=1)
        samples.append(
            {
                "target_after": t[:, -1].mean(),
                "forgetting": (s[:, 0] - s[:, -1]).mean(),
                "balanced_mean": (t[:, -1] + s[:, -1]).mean() / 2,
                "source_area": np.mean([retention_area(steps, curve) for curve in s]),
                "steps_to_90": np.mean([steps_to_fraction(steps, curve) for curve in t]),
                "forward_transfer": (t[:, 0] - floor).mean(),
            }
        )
    row = method_summary(table, "WT", resamples=resamples, seed=4).set_index("method").loc["naive"]
    for metric, values in pd.DataFrame(samples).items():
        ends = np.percentile(values, [2.5, 97.5])
        assert (row[f"{metric}_low"], row[f"{metric}_high"]) == pytest.approx(tuple(ends)), metric


def test_rows_depend_neither_on_their_order_nor_on_other_methods():
    table = random_table()
    whole = method_summary(table, "WT", resamples=40, seed=1)
    pd.testing.assert_frame_equal(
        method_summary(table.sample(frac=1.0, random_state=3), "WT", resamples=40, seed=1), whole
    )
    fewer = method_summary(table[table["method"] != "replay"], "WT", resamples=40, seed=1)
    # But for the tests against the best, which are corrected for all that there are.
    alone = [name for name in whole if not name.endswith("_p_best")]
    pd.testing.assert_frame_equal(fewer[alone], whole.loc[whole["method"] != "replay", alone].reset_index(drop=True))
    assert not method_summary(table, "WT", resamples=40, seed=2)["target_after_low"].equals(whole["target_after_low"])


def test_forward_transfer_needs_a_start_from_scratch():
    assert seed_metrics(BY_HAND, "WT", scratch="elsewhere")["forward_transfer"].isna().all()
    rows = seed_metrics(BY_HAND, "WT", scratch="floor").set_index(["method", "seed"])["forward_transfer"]
    assert rows["naive"].tolist() == pytest.approx([-0.05, 0.15])
    assert rows["floor"].isna().all()
    # Only of the same shots and seed.
    other = BY_HAND[(BY_HAND["method"] == "naive") | (BY_HAND["seed"] == 1)]
    assert seed_metrics(other, "WT").set_index(["method", "seed"]).loc["naive", "forward_transfer"].isna().tolist() == [
        True,
        False,
    ]
    apart = BY_HAND.assign(shots=BY_HAND["shots"].where(BY_HAND["method"] == "naive", 10))
    assert seed_metrics(apart, "WT")["forward_transfer"].isna().all()


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_intervals_cover_seeds_from_three_on(seeds):
    generator = np.random.default_rng(seeds)
    # Patients that do not differ, so that whatever an interval shows is of seeds.
    table = tidy(
        *(
            run("naive", seed, [0, 10], [[0.1] * 7, [level] * 7], [[0.9] * 7, [level] * 7])
            for seed, level in enumerate(generator.random(seeds))
        )
    )
    row = method_summary(table, "WT", resamples=200).iloc[0]
    for metric in ("target_after", "forgetting", "balanced_mean"):
        assert math.isnan(row[f"{metric}_low"]) == (seeds < 3), metric
    assert row["interval_over"] == ("patients and seeds" if seeds > 2 else "patients")
    assert math.isnan(row["spent_low"])


def test_the_best_is_tested_against_all():
    table = random_table(methods=("naive", "replay", "third", "better"), patients=8)
    lifted = table["dice"].where(table["method"] != "better", 0.75 + table["dice"] / 4)
    rows = method_summary(table.assign(dice=lifted), "WT", resamples=300).set_index("method")["balanced_mean_p_best"]
    assert math.isnan(rows["better"])
    assert (rows.drop("better") < 0.05).all()
    few = method_summary(table[table["seed"] < 2].assign(dice=lifted), "WT", resamples=50)
    assert few["balanced_mean_p_best"].isna().all()


def test_curves_align_marks_that_differ_in_step():
    rows = curves(BY_HAND, "WT", resamples=200)
    target = rows[(rows["method"] == "naive") & (rows["domain"] == "target")]
    assert target["step"].tolist() == [0, 105, 200]
    assert target["mean"].tolist() == pytest.approx([0.2, 0.35, 0.5])
    # In the middle the two patients are equal: resamples do not vary, and there is no interval.
    assert target["low"].isna().tolist() == target["high"].isna().tolist() == [False, True, False]
    known = target.dropna()
    assert ((known["low"] <= known["mean"]) & (known["mean"] <= known["high"])).all()
    # Both seeds begin with one network: two patients with 0.1 and 0.3 are all there is to draw.
    assert (target["low"].iloc[0], target["high"].iloc[0]) == pytest.approx((0.1, 0.3))


def test_runs_may_differ_in_length():
    table = tidy(
        run("naive", 0, [0, 10, 20], [[0.1, 0.1], [0.3, 0.3], [0.5, 0.7]], [[0.9, 0.9]] * 3),
        run("naive", 1, [0, 10], [[0.1, 0.1], [0.2, 0.4]], [[0.9, 0.9]] * 2),
    )
    rows = seed_metrics(table, "WT")
    assert rows["target_after"].tolist() == pytest.approx([0.6, 0.3])
    assert rows["spent"].tolist() == [20, 10]
    assert rows["target_area"].tolist() == pytest.approx([(0.2 + 0.45) / 2, 0.2])
    target = curves(table, "WT", resamples=100).query("domain == 'target'")
    assert target["mean"].tolist() == pytest.approx([0.1, 0.3, 0.6])
    assert target["step"].tolist() == [0, 10, 20]


def test_cases_of_a_patient_are_averaged_first():
    table = tidy(run("naive", 0, [0, 10], [[0.2, 0.8], [0.4, 0.6]], [[0.5], [0.5]]))
    again = table[table["patient"] == "target-1"].assign(case="second", dice=0.0)
    row = seed_metrics(pd.concat([table, again]), "WT").iloc[0]
    assert (row["target_before"], row["target_after"]) == pytest.approx(((0.2 + 0.4) / 2, (0.4 + 0.3) / 2))


def test_nothing_to_find_and_nothing_found_is_in_no_mean():
    empty = [[0.6, np.nan, 0.2], [0.5, np.nan, 0.1]]
    row = method_summary(tidy(run("naive", 0, [0, 10], empty, empty)), "WT", resamples=20).iloc[0]
    assert (row["n_target_patients"], row["source_before"], row["source_after"]) == (2, pytest.approx(0.4), 0.3)
    # Tumour seen where there is none costs as much as it does in `metaseg evaluate`: 1 before, 0 after.
    false = [[0.6, np.nan, 0.2], [0.5, 0.0, 0.1]]
    row = seed_metrics(tidy(run("naive", 0, [0, 10], empty, false)), "WT").iloc[0]
    assert row["forgetting"] == pytest.approx(1.8 / 3 - 0.6 / 3)


def test_small_tables_have_metrics_without_spread():
    row = method_summary(tidy(run("naive", 0, [0, 10], [[0.2], [0.4]], [[0.5], [0.3]])), "WT", resamples=20).iloc[0]
    assert row["forgetting"] == pytest.approx(0.2)
    for metric in METRICS:
        assert all(math.isnan(row[f"{metric}_{name}"]) for name in ("sd", "low", "high")), metric
    assert curves(tidy(run("naive", 0, [0], [[0.2]], [[0.5]])), "WT")["low"].isna().all()


def test_one_seed_draws_patients_alone():
    row = method_summary(random_table(seeds=1), "WT", resamples=200).iloc[0]
    assert row["target_after_low"] < row["target_after"] < row["target_after_high"]
    assert math.isnan(row["spent_low"])
    assert math.isnan(row["balanced_mean_sd"])


def test_a_domain_without_patients_has_no_metrics():
    table = random_table(domains=("target",))
    row = method_summary(table, "WT", resamples=50).iloc[0]
    assert row["n_source_patients"] == 0
    assert math.isnan(row["forgetting"])
    assert math.isnan(row["balanced_mean"])
    assert row["target_after_low"] < row["target_after_high"]
    assert set(curves(table, "WT", resamples=10)["domain"]) == {"target"}


def test_empty_tables_give_empty_metrics():
    nothing = pd.DataFrame(columns=list(TABLE_COLUMNS))
    for frame, full in (
        (seed_metrics(nothing, "WT"), seed_metrics(BY_HAND, "WT")),
        (method_summary(nothing, "WT"), method_summary(BY_HAND, "WT", resamples=5)),
        (curves(nothing, "WT"), curves(BY_HAND, "WT", resamples=5)),
    ):
        assert frame.empty
        assert list(frame.columns) == list(full.columns)


def test_regions_that_are_not_there_are_named():
    with pytest.raises(DataError, match="no region 'ET'"):
        method_summary(BY_HAND, "ET")
