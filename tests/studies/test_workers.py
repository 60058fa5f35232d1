from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from metaseg.studies.plan import make_plan
from metaseg.studies.workers import Display, Pace, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def plan(study):
    return make_plan(study(seeds=2, trials=2))


def finished(plan, unit, seconds: float) -> None:
    folder = plan.folder / unit.folder
    folder.mkdir(parents=True)
    sessions = [{"started": "a", "wall_seconds": seconds / 2}, {"started": "b", "wall_seconds": seconds / 2}]
    (folder / "manifest.json").write_text(json.dumps({"sessions": sessions}))
    (folder / "result.json").write_text(json.dumps({"spent": plan.study.budget}))


def test_a_line_for_every_unit_that_ends(plan, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    naive, meta, other, *_ = plan.units
    with Display(plan, plan.units[:3]) as display:
        display.begin(naive)
        display.end(naive)
        display.begin(meta)
        display.end(meta, "left")
        display.begin(meta)
        display.end(meta, "failed")
        display.note("why it failed")
        display.begin(other)
        display.end(other, "found")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "3 of 6 units done before"
    assert lines[1].startswith("4/6  met/naive/search: done in ")
    assert lines[2].startswith("5/6  met/maml-active/search: failed in ")
    assert lines[3:] == ["why it failed", "6/6  met/naive/shots-2/seed-0: done by another process"]


def test_bars_on_a_terminal(plan, monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    unit = plan.units[0]
    with Display(plan, plan.units) as display:
        display.begin(unit)
        display.note("a word")
        display._refresh()
        display._live.refresh()
        display.end(unit)
    shown = stream.getvalue()
    assert "cells and searches" in shown
    assert "met/naive/search" in shown
    assert "a word" in shown
    assert "1/6" in shown


def test_time_left_follows_from_the_median_of_the_same_entry(plan):
    naive = [unit for unit in plan.cells if unit.label == "naive"]
    meta = [unit for unit in plan.cells if unit.label == "maml-active"]
    assert Pace(plan).seconds(meta) is None
    finished(plan, naive[0], 10.0)
    pace = Pace(plan)
    assert pace.seconds(naive[1:]) == 10.0
    # Of an entry that has no run yet, the median of all is what is known.
    assert pace.seconds(meta) == 20.0
    pace.add(meta[0], 30.0)
    assert pace.seconds(meta[1:]) == 30.0
    # A search is as many runs as it has trials.
    search = next(unit for unit in plan.units if unit.kind == "search" and unit.label == "naive")
    assert pace.seconds([search]) == 20.0
    pace.add(search, 4.0)
    assert pace.seconds(naive[1:]) == 6.0
    # With twice the budget, twice the time.
    longer = Pace(replace(plan, study=replace(plan.study, budget=2 * plan.study.budget)))
    assert longer.seconds(naive[1:]) == 20.0


def test_work_so_far_is_read_from_the_logs(plan):
    cell = next(plan.cells)
    assert plan.spent(cell) == 0
    folder = plan.folder / cell.folder
    folder.mkdir(parents=True)
    rows = [f"{step},,train/loss,0.{step}" for step in range(0, 400, 4)]
    (folder / "metrics.csv").write_text("step,epoch,name,value\n" + "\n".join(rows) + "\n40")
    assert plan.spent(cell) == 396
    search = plan.units[0]
    for number, steps in ((0, "12,,loss,1\n"), (1, "4,,loss,1\n")):
        trial = plan.folder / search.folder / "trials" / f"{number:03d}"
        trial.mkdir(parents=True)
        (trial / "metrics.csv").write_text("step,epoch,name,value\n" + steps)
    assert plan.spent(search) == 12 + 4


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5400, "1.5 h")])
def test_durations(seconds, text):
    assert duration(seconds) == text
