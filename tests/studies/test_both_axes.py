from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_rows import study_row

from metaseg.errors import UsageError
from metaseg.metrics.statistics import holm
from metaseg.studies.pairs import both_axes
from metaseg.studies.tables import BOTH_AXES_COLUMNS, TABLE_COLUMNS

AFTER = {
    "naive": (0.60, -0.20),
    "both": (0.62, -0.05),
    "learns-little": (0.50, -0.02),
    "forgets-much": (0.70, -0.15),
}
"""Target Dice at the end, and what is won on the source."""


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    base = {"target": np.full(8, 0.3), "source": generator.uniform(0.4, 0.8, 10)}
    rows = []
    for method, (after, gain) in AFTER.items():
        for seed in range(3):
            ends = {
                "target": after + generator.normal(0, 0.01, 8),
                "source": base["source"] + gain + generator.normal(0, 0.01, 10),
            }
            rows += [
                study_row(method, seed, step, domain, f"{domain}{p}", dice, family="plain")
                for domain in ("target", "source")
                for step, values in ((0, base[domain]), (100, ends[domain]))
                for p, dice in enumerate(values)
            ]
    return pd.DataFrame(rows, columns=TABLE_COLUMNS)


def by_patient(table: pd.DataFrame, method: str, domain: str, step: int) -> pd.Series:
    rows = table.query("method == @method and domain == @domain and work == @step")
    return rows.groupby("patient")["dice"].mean()


def lost(table: pd.DataFrame, method: str) -> pd.Series:
    return by_patient(table, method, "source", 0) - by_patient(table, method, "source", 100)


def test_only_a_method_that_wins_on_both_axes_wins(table: pd.DataFrame) -> None:
    frame = both_axes(table, "WT", ["naive"], resamples=50)
    assert list(frame.columns) == list(BOTH_AXES_COLUMNS)
    assert dict(zip(frame["method"], frame["both"], strict=True)) == {
        "both": True,
        "forgets-much": False,
        "learns-little": False,
    }


def test_metrics_and_tests_are_of_patients_averaged_over_seeds(table: pd.DataFrame) -> None:
    rows = both_axes(table, "WT", ["naive"], resamples=50).set_index("method")
    for method in ("both", "forgets-much", "learns-little"):
        row = rows.loc[method]
        gain = by_patient(table, method, "target", 100) - by_patient(table, "naive", "target", 100)
        excess = lost(table, method) - 0.5 * lost(table, "naive")
        assert row["gain"] == pytest.approx(gain.mean())
        assert row["gain_p"] == pytest.approx(stats.wilcoxon(gain).pvalue)
        assert row["forgotten"] == pytest.approx(lost(table, method).mean())
        assert row["forgotten_by_baseline"] == pytest.approx(lost(table, "naive").mean())
        spared = lost(table, "naive") - lost(table, method)
        assert row["spared"] == pytest.approx(spared.mean())
        assert row["spared_p"] == pytest.approx(stats.wilcoxon(spared).pvalue)
        assert row["excess"] == pytest.approx(excess.mean())
        assert row["excess_p"] == pytest.approx(stats.wilcoxon(excess).pvalue)
        assert row["excess_low"] < row["excess"] < row["excess_high"]
        assert (row["n_target_patients"], row["n_source_patients"]) == (8, 10)
    np.testing.assert_allclose(rows["gain_p_holm"], holm(rows["gain_p"].to_numpy()))
    np.testing.assert_allclose(rows["spared_p_holm"], holm(rows["spared_p"].to_numpy()))
    np.testing.assert_allclose(rows["excess_p_holm"], holm(rows["excess_p"].to_numpy()))


def test_share_decides_how_much_may_be_forgotten(table: pd.DataFrame) -> None:
    strict, lenient = (
        both_axes(table, "WT", ["naive"], fraction=share, resamples=50).set_index("method")["both"]
        for share in (0.1, 0.9)
    )
    assert not strict["both"]
    assert lenient["forgets-much"]


def test_every_baseline_has_its_rows_and_only_common_seeds_count(table: pd.DataFrame) -> None:
    fewer = table[~((table["method"] == "both") & (table["seed"] == 2))]
    frame = both_axes(fewer, "WT", ["naive", "both", "absent"], resamples=50)
    assert frame.groupby("baseline")["method"].count().to_dict() == {"naive": 3, "both": 3}
    common = fewer[fewer["seed"] < 2]
    gain = by_patient(common, "both", "target", 100) - by_patient(common, "naive", "target", 100)
    row = frame[(frame["baseline"] == "naive") & (frame["method"] == "both")].iloc[0]
    assert row["gain"] == pytest.approx(gain.mean())


def test_share_beyond_one_is_refused(table: pd.DataFrame) -> None:
    with pytest.raises(UsageError, match=r"a fraction of 1\.5"):
        both_axes(table, "WT", ["naive"], fraction=1.5)
