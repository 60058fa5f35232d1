from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import isotonic_regression

from metaseg.pictures.charts import LIGHT, chart_settings, spread
from metaseg.reports.analysis import find_roles
from metaseg.reports.blocks import interval, number, p_value
from metaseg.reports.charts import MOST_PATIENTS, paired_figure, retention_figure, trajectory_figure
from metaseg.reports.figures import css_variables, svg_of
from metaseg.reports.inputs import ReportRun


def run_of(label: str, verb: str, **settings: object) -> ReportRun:
    return ReportRun(Path(label), verb, "finished", "met", label, 5, 0, settings, {}, {})


def curves(methods: tuple[str, ...]) -> pd.DataFrame:
    rows = [
        {"method": method, "domain": domain, "step": step, "mean": mean, "low": mean - 0.05, "high": mean + 0.05}
        for number_, method in enumerate(methods)
        for domain, slope in (("target", 0.001), ("source", -0.0005))
        for step in (0, 50, 100)
        for mean in (0.4 + slope * step * (1 + number_ / len(methods)),)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("seed", range(5))
def test_names_move_as_little_as_possible(seed):
    rng = np.random.default_rng(seed)
    values, gap = np.sort(rng.uniform(0, 1, 12)), 0.07
    # Least squares under a least distance is isotonic regression of the values less their gaps.
    offsets = gap * np.arange(12)
    assert spread(values.tolist(), gap) == pytest.approx(isotonic_regression(values - offsets).x + offsets)


def test_names_stay_on_the_chart():
    placed = spread([0.0, 0.0, 0.01, 0.99, 1.0, 1.0], 0.1, low=0.0, high=1.0)
    assert placed == pytest.approx([0.0, 0.1, 0.2, 0.8, 0.9, 1.0])
    assert spread([], 0.1) == []


def test_every_colour_of_a_chart_follows_the_page():
    with chart_settings():
        svg = svg_of(
            retention_figure(curves(("naive", "b")), ["target"], {"naive": "naive", "b": "other"}, "ET"), "c1", "x"
        )
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert set(re.findall(r"var\(--(\w+)\)", svg)) <= set(LIGHT)
    assert "var(--naive)" in svg
    assert "://" not in svg
    assert all(f"--{role}:" in css_variables(dark) for role in LIGHT for dark in (False, True))
    assert len(set(LIGHT.values())) == len(LIGHT)


def test_names_in_a_chart_are_escaped():
    name = '<script>"&$x'
    with chart_settings():
        svg = svg_of(retention_figure(curves((name,)), ["source"], {name: "best"}, "ET"), "c1", f"Dice of {name}")
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg
    assert 'aria-label="Dice of &lt;script&gt;&quot;&amp;$x"' in svg


def test_trajectory_names_every_method():
    methods = tuple(f"method-{letter}" for letter in "abcdefghijklmnopqrst")
    colours, families = dict.fromkeys(methods, "other"), dict.fromkeys(methods, "plain") | {methods[0]: "meta"}
    with chart_settings():
        svg = svg_of(trajectory_figure(curves(methods), colours, families, "ET"), "c1", "x")
    assert all(f">{method}<" in svg for method in methods)


def test_worst_patient_is_on_top_and_of_many_the_best_are_left_out():
    pairs = pd.DataFrame({"patient": [f"p{n:02d}" for n in range(50)], "first": 0.5, "second": np.linspace(1, 0, 50)})
    with chart_settings():
        metric = paired_figure(pairs, "naive", "active", "ET", "x")
    (axis,) = metric.axes
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels[0] == "p49"
    assert len(labels) == MOST_PATIENTS
    assert axis.yaxis_inverted()


def test_papers_methods_are_known_by_their_settings():
    runs = [
        run_of("tuned", "naivetune", method="naive"),
        run_of("shuffled", "metatune", method="maml", order="random", replay="none"),
        run_of("farthest", "metatune", method="maml", order="active", replay="none"),
        run_of("farthest-replay", "metatune", method="maml", order="active", replay="learned"),
        run_of("zero", "naivetune", method="scratch"),
    ]
    roles = find_roles([run.method for run in runs], "farthest-replay", runs)
    assert roles.paper == {"naive": "tuned", "passive": "shuffled", "active": "farthest"}
    assert roles.reference == "tuned"
    assert roles.colours["farthest-replay"] == "best"
    assert roles.floors == {"zero"}
    assert roles.shown[0] == "tuned"
    assert len(set(roles.colours.values())) == 5


def test_of_many_methods_only_those_with_a_part_are_coloured():
    methods = ["naive", "active", *(f"m{n}" for n in range(18))]
    roles = find_roles(methods, "active", [])
    assert [method for method, role in roles.colours.items() if role != "other"] == ["naive", "active"]
    assert roles.shown == ("naive", "active")


def test_numbers_are_written_with_a_real_minus_and_no_negative_zero():
    assert [number(value, sign=True) for value in (-0.1234, 0.1, -0.0001, math.nan)] == [
        "−0.123",
        "+0.100",
        "0.000",
        "–",
    ]
    assert number(12.0, 0) == "12"
    assert [p_value(value) for value in (0.0004, 0.0311, 1.0, math.nan)] == ["< 0.001", "0.031", "1.000", "–"]
    row = pd.Series({"area_low": -0.02, "area_high": 0.3})
    assert interval(row, "area") == "−0.020 to 0.300"
