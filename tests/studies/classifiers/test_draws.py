"""Bands and sizes of Hao et al. 2021: found by their settings, counted as in Table 5, and tabled as by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from metaseg.classify.acquire import choose
from metaseg.classify.active import read_sizes
from metaseg.config.io import load_config
from metaseg.config.studies import ClassifyCompareConfig
from metaseg.pictures.charts import chart_settings, new_figure
from metaseg.sampling import committee_score
from metaseg.studies.classifiers.draws import (
    FINAL_COLUMNS,
    band_steps,
    band_table,
    draw_charts,
    drawn_bands,
    drawn_sizes,
    size_table,
    with_validation,
)
from metaseg.studies.classifiers.plan import make_classifier_plan

ROOT = Path(__file__).resolve().parents[3]
PAPER = ROOT / "configs" / "paper"
BANDS = [(0.0, 0.3), (0.1, 0.4), (0.2, 0.5), (0.3, 0.6), (0.4, 0.7), (0.5, 0.8), (0.6, 0.9), (0.7, 1.0)]

needs_repository = pytest.mark.skipif(not PAPER.is_dir(), reason="needs the repository")


def table_5():
    lines = (ROOT / "tests" / "golden" / "hao2021_table5.csv").read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def plan(name, **changes):
    return make_classifier_plan(load_config(ClassifyCompareConfig, PAPER / f"{name}.yaml", {"out": "study", **changes}))


class Slices:
    """As many slices as the paper has; nothing but their number is asked for."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


def chosen_by(entry, probabilities):
    """The ranks, from 0, of what an entry chooses from what members say."""
    count = probabilities.shape[1]
    batch = read_sizes(entry, count).batch
    choice = choose(
        entry, lambda: None, Slices(count), None, batch, (0, 4, 2), lambda slices: probabilities, patches=None
    )
    ranks = np.empty(count, dtype=int)
    ranks[np.argsort(-committee_score(probabilities), kind="stable")] = np.arange(count)
    return ranks[choice.positions]


@needs_repository
@pytest.mark.parametrize(("file", "column", "total"), [
    ("hao2021-sizes", "imbalanced", 4060), ("hao2021-sizes-balanced", "balanced", 4870),
])  # fmt: skip
def test_each_size_draws_as_many_as_table_5_from_between_the_ends(file, column, total):
    entries = plan(file).entries
    said = np.random.default_rng(0).dirichlet([1.0, 1.0], size=(3, total))
    tenth = int(table_5()[0][column])
    for row in table_5():
        percent = round(100 * float(row["share"]))
        for series in ("drawn", "ranked"):
            if (label := f"{series}-{percent}") in entries:
                ranks = chosen_by(entries[label], said)
                assert len(set(ranks)) == int(row[column]), label
                assert ranks.min() >= tenth, label
                assert ranks.max() < total - tenth, label
                assert (ranks.max() == tenth + int(row[column]) - 1) == (series == "ranked" or percent == 80), label
        assert read_sizes(entries[f"random-{percent}"], total).initial == int(row[column])


@needs_repository
def test_bands_of_a_list_made_by_hand():
    """Ten slices, the first the least uncertain: each band holds the three that stand there in the list."""
    sure = np.linspace(0.99, 0.5, 10)
    said = np.broadcast_to(np.stack([sure, 1 - sure], axis=1), (3, 10, 2))
    work = plan("hao2021-bands")
    found = {label: sorted(chosen_by(work.entries[label], said).tolist()) for label in drawn_bands(work)}
    assert list(found.values()) == [list(range(first, first + 3)) for first in range(8)]
    assert [tuple(map(pytest.approx, ends)) for ends in drawn_bands(work).values()] == BANDS
    middle = chosen_by(work.entries["middle"], said)
    assert len(middle) == 3
    assert set(middle) <= set(range(1, 9))


@needs_repository
def test_a_band_is_compared_with_the_one_farther_out():
    steps = band_steps(plan("hao2021-bands"))
    assert steps["band-10-40"] == "band-0-30"
    assert steps["band-60-90"] == "band-70-100"
    assert set(steps) == {f"band-{10 * low}-{10 * low + 30}" for low in range(1, 7)}


@needs_repository
def test_series_of_sizes_are_found_by_their_settings():
    found = {}
    for draw in drawn_sizes(plan("hao2021-sizes")):
        found.setdefault(draw.series, {})[draw.entry] = draw.size
    assert set(found) == {"drawn", "ranked", "random"}
    tenths = [percent / 10 for percent in range(1, 9)]
    assert [list(of_series.values()) for of_series in found.values()] == [tenths, tenths[:7], tenths]
    assert drawn_sizes(plan("hao2021")) == []
    assert drawn_bands(plan("hao2021")) == drawn_bands(plan("hao2021-sizes")) == {}


@pytest.fixture
def study(tmp_path):
    """Three bands, and three sizes of two series; the metric of each seed and part is made up."""
    drawn = {"verb": "active", "acquisition": "committee", "initial": 0.3, "rounds": 2, "rank": "all", "fit": "reset",
             "fit_on": "chosen", "drop_top": 0.1, "drop_bottom": 0.1, "budget": 1.0}  # fmt: skip
    bands = {
        f"band-{low}": {"drop_top": low / 100, "drop_bottom": (70 - low) / 100, "batch": 0.3} for low in (0, 20, 70)
    }
    entries = {
        "all": {"verb": "train"},
        **{label: drawn | changes for label, changes in bands.items()},
        **{f"chance-{size}": drawn | {"batch": size / 100, "draw": "random"} for size in (20, 30, 40)},
        **{f"first-{size}": drawn | {"batch": size / 100} for size in (20, 30, 40)},
    }
    settings = {"entries": entries, "seeds": [0, 1, 2], "out": tmp_path / "study"}
    return make_classifier_plan(load_config(ClassifyCompareConfig, None, settings))


@pytest.fixture
def finals(study):
    rows = []
    for number, label in enumerate(study.entries):
        for seed in range(3):
            for part, above in (("val", 0.1), ("test", 0.0)):
                value = 0.5 + 0.02 * number + 0.01 * seed * (number % 3) + above
                learned = float("nan") if label == "all" else 30.0
                rows.append((label, seed, part, learned, learned, value, value, value, value))
    return pd.DataFrame(rows, columns=list(FINAL_COLUMNS))


def test_validation_and_steps_join_the_summary(study, finals):
    table = with_validation(study, pd.DataFrame({"entry": list(study.entries)}), finals).set_index("entry")
    assert table.loc["all", "val_auc"] == pytest.approx(0.6)
    # Entry 2 above entry 1: 0.02, and 0.01 a seed more.
    steps = np.array([0.02, 0.03, 0.04])
    half = t.ppf(0.975, 2) * steps.std(ddof=1) / np.sqrt(3)
    row = table.loc["band-20"]
    assert (row["auc_step"], row["val_auc_step"]) == pytest.approx((0.03, 0.03))
    assert (row["auc_step_low_seeds"], row["auc_step_high_seeds"]) == pytest.approx((0.03 - half, 0.03 + half))
    assert table.loc[["all", "band-0", "band-70", "chance-30"], "auc_step"].isna().all()


def test_bands_stand_with_what_is_drawn_by_chance(study, finals):
    table = band_table(study, finals)
    assert table["entry"].tolist() == ["band-0", "band-20", "band-70", "chance-30"]
    assert table[["low", "high"]].to_numpy().tolist() == [[0, 0.3], [0.2, 0.5], [0.7, 1.0], [0.1, 0.9]]
    assert table["n_seeds"].tolist() == [3] * 4


def test_sizes_stand_against_chance_inside_the_trimmed_ranking(study, finals):
    table = size_table(study, finals).set_index("entry")
    assert table["series"].tolist() == ["chance"] * 3 + ["first"] * 3
    assert table.loc["first-30", "against"] == "chance-30"
    # Three entries later: 0.06 above on every seed.
    assert table.loc["first-30", "difference"] == pytest.approx(0.06)
    assert table.loc["first-30", "difference_sd_seeds"] == pytest.approx(0.0, abs=1e-9)
    assert table.loc[["chance-20", "chance-30", "chance-40"], "against"].isna().all()


def test_charts_show_each_point_and_the_baseline(study, finals):
    charts = {chart.name: chart for chart in draw_charts(study, finals)}
    assert list(charts) == ["bands", "sizes", "parts"]
    with chart_settings():
        axes = {}
        for name, chart in charts.items():
            _, (axes[name],) = new_figure(*chart.size)
            chart.draw([axes[name]])
    lines = {line.get_label(): line for line in axes["sizes"].get_lines()}
    assert lines["all"].get_ydata()[0] == pytest.approx(0.5)
    points = [container.lines[0].get_xydata().tolist() for container in axes["sizes"].containers]
    assert points[1] == [pytest.approx([size, 0.5 + 0.02 * number + 0.01 * (number % 3)]) for size, number in
                         ((20, 7), (30, 8), (40, 9))]  # fmt: skip
    assert [tick.get_text() for tick in axes["bands"].get_xticklabels()] == ["0-30", "20-50", "70-100"]
    assert len(axes["parts"].patches) == 2 * len(study.entries)


def test_a_study_without_bands_or_sizes_has_neither(study, finals):
    few = finals[finals["entry"] == "all"]
    assert band_table(study, few).empty
    assert size_table(study, few).empty
    assert [chart.name for chart in draw_charts(study, few)] == ["parts"]
