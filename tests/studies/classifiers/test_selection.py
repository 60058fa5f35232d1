from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from metaseg.classify.rounds import Round, round_patterns
from metaseg.pictures.charts import LIGHT, new_figure
from metaseg.sampling import PATTERNS, prediction_patterns
from metaseg.studies.classifiers.selection import (
    ChoosingRun,
    class_shares,
    histogram_round,
    mean_fractions,
    pattern_table,
    pool_fractions,
    selection_charts,
    write_selection,
)
from metaseg.studies.workers import Unit

CANDIDATES, CHOSEN = 30, 4
TITLES = {"aift": "AIFT", "random": "by chance"}


def patches_of(seed: int, number: int) -> np.ndarray:
    rng = np.random.default_rng([seed, number])
    positive = rng.beta(*rng.uniform(0.1, 4, size=(2, CANDIDATES, 1)), size=(CANDIDATES, 9))
    return np.stack([1 - positive, positive], axis=2)


def record(seed: int, number: int, with_patterns: bool) -> Round:
    labels = [(seed + number + place) % 3 % 2 for place in range(CANDIDATES)]
    names = [f"slice-{place}" for place in range(CANDIDATES)]
    found = round_patterns(patches_of(seed, number), np.arange(CANDIDATES), names, labels) if with_patterns else None
    chosen = (tuple(names[:CHOSEN]), (None,) * CHOSEN, tuple(labels[:CHOSEN]))
    return Round(number, *chosen, labelled=CHOSEN * number, checkpoint="last", patterns=found)


@pytest.fixture
def runs() -> list[ChoosingRun]:
    return [
        ChoosingRun(
            Unit("cell", "", label, seed=seed),
            [record(seed, number, label == "aift") for number in (1, 2)],
            ("low", "high"),
            {"low": 30, "high": 10},
            synthetic=True,
        )
        for label in TITLES
        for seed in (1, 0)
    ]


def test_classes_of_each_round_beside_the_pool(runs):
    table = class_shares(runs)
    assert len(table) == 2 * 2 * 2 * 2
    for run in runs:
        for one in run.rounds:
            rows = table[(table["entry"] == run.cell.label) & (table["seed"] == run.cell.seed)]
            rows = rows[rows["round"] == one.number].set_index("class")
            assert rows.loc["high", "slices"] == sum(one.labels)
            assert rows.loc["low", "fraction"] == pytest.approx(1 - sum(one.labels) / CHOSEN)
            assert rows["pool_fraction"].to_dict() == {"low": 0.75, "high": 0.25}
            assert set(rows["labels"]) == {CHOSEN * one.number}


def test_the_pool_of_an_earlier_run_is_not_known(runs):
    old = [ChoosingRun(run.cell, run.rounds, run.classes, {}, run.synthetic) for run in runs]
    assert class_shares(old)["pool_fraction"].isna().all()
    assert pool_fractions(class_shares(old), TITLES) == {}
    assert set(pool_fractions(class_shares(runs), TITLES)) == set(TITLES.values())


def test_patterns_are_counted_of_the_ends_and_of_all(runs):
    table = pattern_table(runs)
    assert set(table["entry"]) == {"aift"}
    for seed in (0, 1):
        letters = prediction_patterns(patches_of(seed, 2))
        rows = table[(table["seed"] == seed) & (table["round"] == 2)]
        for candidates, known in (("first", letters[:10]), ("last", letters[-10:]), ("all", letters)):
            counts = rows[rows["candidates"] == candidates].set_index("pattern")
            assert list(counts.index) == list(PATTERNS)
            expected = pd.Series(known).value_counts().reindex(list(PATTERNS), fill_value=0)
            assert counts["slices"].to_dict() == expected.to_dict()
            assert counts["fraction"].sum() == pytest.approx(1)


def test_means_are_over_seeds(runs):
    shares = class_shares(runs)
    found = mean_fractions(shares, "class", TITLES)["AIFT"]
    assert found.loc[1, "high"] == pytest.approx(np.mean([sum(record(seed, 1, False).labels) / 4 for seed in (0, 1)]))
    assert found.sum(axis=1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(("wanted", "number"), [(1, 1), (2, 2), (3, 2)])
def test_the_round_wanted_or_the_last_before_it_of_the_first_seed(runs, wanted, number):
    [(label, (run, drawn))] = histogram_round(runs, wanted).items()
    assert (label, run.cell.seed, drawn.number) == ("aift", 0, number)


def drawn(runs, name: str) -> Figure:
    [chart] = [chart for chart in selection_charts(runs, TITLES, 2) if chart.name == name]
    figure, axes = new_figure(*chart.size, *chart.grid)
    chart.draw(axes)
    return figure


def test_histograms_are_red_for_the_positive_class_and_hold_all_patches(runs):
    figure = drawn(runs, "pattern_histograms")
    first, last = figure.axes
    kept = record(0, 2, True).patterns
    for axis, candidates in ((first, kept.first), (last, kept.last)):
        bars = np.array([bar.get_height() for bar in axis.patches]).reshape(len(candidates), -1)
        counts = [np.histogram(one.probabilities, bins=10, range=(0, 1))[0] for one in candidates]
        assert np.allclose(bars / bars.sum(axis=1, keepdims=True), np.array(counts) / 9)
        colours = [axis.patches[10 * place].get_facecolor() for place in range(len(candidates))]
        red = [tuple(round(255 * part) for part in colour[:3]) == hexed(LIGHT["worse"]) for colour in colours]
        assert red == [one.label == 1 for one in candidates]
        assert [text.get_text() for text in axis.texts] == [one.pattern for one in candidates]


def hexed(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def test_shares_have_a_bar_for_each_round_and_the_pool(runs):
    panel = drawn(runs, "class_shares").axes[0]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["1", "2", "pool"]
    assert [bar.get_height() for bar in panel.patches][:3] == pytest.approx(
        [*mean_fractions(class_shares(runs), "class", TITLES)["AIFT"]["low"], 0.75]
    )


def test_files(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda self, stream, **options: stream.write(b"a picture"))
    write_selection(runs, tmp_path, TITLES, 3)
    names = {path.name for path in tmp_path.iterdir() if path.suffix != ".parquet"}
    assert names == {
        "class_shares.csv", "class_shares.png", "patterns.csv", "patterns.png", "pattern_histograms.png",
    }  # fmt: skip


def test_nothing_of_trainings_alone(tmp_path):
    write_selection([], tmp_path, TITLES, 3)
    assert not list(tmp_path.iterdir())


def test_entries_without_patches_have_classes_alone(runs, tmp_path):
    assert [chart.name for chart in selection_charts(runs[2:], TITLES, 3)] == ["class_shares"]
