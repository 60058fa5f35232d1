from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from metaseg.cases.splits import Split
from metaseg.errors import TrainingError, UsageError
from metaseg.runs.folder import RunLock
from metaseg.runs.logs import read_log
from metaseg.studies import search as module
from metaseg.studies.cells import BusyError
from metaseg.studies.plan import Plan, make_plan
from metaseg.studies.preparation import prepare_study
from metaseg.studies.search import Parameter, open_database, spread_values
from metaseg.studies.workers import Unit

UNIT = Unit("search", "met", "naive")


def best_at(rate: float) -> float:
    """A Dice that is best, 0.9, at a learning rate of 1e-3."""
    return 0.9 - 0.2 * math.log10(rate / 1e-3) ** 2


@pytest.fixture
def plan(study):
    """A study whose region is known, and whose trials cost nothing unless a test makes them."""
    return make_plan(study(trials=9, region="ET"))


class Trials:
    """Trials that are computed from their learning rate; interrupted when their turn comes."""

    def __init__(self, stop_at: set[int] = frozenset(), diverge_above: float = math.inf) -> None:
        self.rates: list[float] = []
        self.stop_at, self.diverge_above = set(stop_at), diverge_above
        self.calls = 0

    def __call__(self, folder: Path, config, study: Path) -> None:
        self.calls += 1
        folder.mkdir(parents=True, exist_ok=True)
        if self.calls in self.stop_at:
            raise KeyboardInterrupt
        self.rates.append(config.learning_rate)
        if config.learning_rate > self.diverge_above:
            raise TrainingError("the loss became non-finite")
        after = {"dice/target/ET": best_at(config.learning_rate), "dice/source/ET": 0.5}
        result = {"spent": 8, "before": {}, "after": after, "forgetting": {}, "synthetic": True}
        (folder / "result.json").write_text(json.dumps(result))


def searched(monkeypatch, plan: Plan, trials: Trials) -> None:
    monkeypatch.setattr(module, "run_unit", trials)
    for _ in range(len(trials.stop_at) + 1):
        try:
            return plan.do(UNIT)
        except KeyboardInterrupt:
            continue


def test_interrupted_search_suggests_what_one_left_alone_does(monkeypatch, study, tmp_path):
    whole, cut = (make_plan(study(trials=9, region="ET", out=tmp_path / name)) for name in ("whole", "cut"))
    left_alone = Trials()
    searched(monkeypatch, whole, left_alone)
    interrupted = Trials(stop_at=set(random.Random(3).sample(range(1, 12), 3)))
    searched(monkeypatch, cut, interrupted)
    assert interrupted.calls == 12
    assert interrupted.rates == left_alone.rates
    assert len(set(left_alone.rates)) == 9
    for name in ("best.json", "trials.csv"):
        files = [plan.folder / UNIT.folder / name for plan in (whole, cut)]
        assert files[0].read_text() == files[1].read_text().replace(str(cut.folder), str(whole.folder))


def test_trial_0_has_the_entrys_own_values_and_the_best_wins(monkeypatch, plan):
    trials = Trials()
    searched(monkeypatch, plan, trials)
    assert trials.rates[0] == 3e-4
    best = max(trials.rates, key=best_at)
    assert plan.search(UNIT).found() == {"learning_rate": best}
    cell = plan.config(next(plan.cells), plan.search(UNIT).found())
    assert cell.learning_rate == best
    record = json.loads((plan.folder / UNIT.folder / "best.json").read_text())
    assert record["value"] == pytest.approx((best_at(best) + 0.5) / 2)
    rows = read_log(plan.folder / UNIT.folder / "trials.csv")
    assert [float(row["learning_rate"]) for row in rows] == trials.rates
    assert all(1e-4 <= rate <= 3e-3 for rate in trials.rates)


def test_early_trials_are_points_of_haltons_sequence_alike_for_all_methods():
    # Van der Corput by hand: 1/2, 1/4, 3/4 in base 2 and 1/3, 2/3, 1/9 in base 3.
    space = {
        "rate": Parameter("rate", low=1e-4, high=1e-2, log=True),
        "share": Parameter("share", low=0.0, high=0.9),
    }
    values = [spread_values(space, number) for number in (1, 2, 3)]
    assert [value["rate"] for value in values] == pytest.approx([1e-3, 10**-3.5, 10**-2.5])
    assert [value["share"] for value in values] == pytest.approx([0.3, 0.6, 0.1])
    choices = {"rank": Parameter("rank", choices=(2, 4, 8))}
    assert [spread_values(choices, number)["rank"] for number in (1, 2, 3)] == [4, 2, 8]


def test_early_trials_try_every_part_of_many_settings():
    space = {f"s{place}": Parameter(f"s{place}", 0, 1) for place in range(8)} | {"k": Parameter("k", choices=(3, 5))}
    values = [spread_values(space, number) for number in range(1, 8)]
    for place in range(8):
        assert sorted(int(7 * row[f"s{place}"]) for row in values) == list(range(7))
    assert {row["k"] for row in values} == {3, 5}
    assert Parameter("steps", low=1, high=5, whole=True).at(0.5) == 3


def test_target_objective_ignores_the_source(monkeypatch, study):
    plan = make_plan(study(trials=2, region="ET", objective="target"))
    searched(monkeypatch, plan, Trials())
    record = json.loads((plan.folder / UNIT.folder / "best.json").read_text())
    assert record["value"] == pytest.approx(best_at(record["values"]["learning_rate"]))


def test_diverged_trial_counts_as_the_worst(monkeypatch, plan):
    trials = Trials(diverge_above=3e-4)
    searched(monkeypatch, plan, trials)
    rows = read_log(plan.folder / UNIT.folder / "trials.csv")
    assert len(rows) == 9
    lost = [row for row in rows if float(row["learning_rate"]) > 3e-4]
    assert lost
    assert all(float(row["value"]) == 0 and row["diverged"] == "1" for row in lost)
    assert plan.search(UNIT).found() == {"learning_rate": max(r for r in trials.rates if r <= 3e-4)}


def test_more_trials_go_on_from_those_there_are(monkeypatch, plan):
    fewer = replace(plan, study=replace(plan.study, trials=3))
    first = Trials()
    searched(monkeypatch, fewer, first)
    assert plan.search(UNIT).found() is None
    more = Trials()
    searched(monkeypatch, plan, more)
    assert (len(first.rates), len(more.rates)) == (3, 6)
    # Going back takes the best of the first three again, without a trial.
    again = Trials()
    searched(monkeypatch, fewer, again)
    assert again.calls == 0
    assert fewer.search(UNIT).found() == {"learning_rate": max(first.rates, key=best_at)}


def test_trials_of_an_earlier_search_are_cleared_away(monkeypatch, plan, study):
    searched(monkeypatch, plan, Trials())
    other = make_plan(study(trials=2, region="ET", budget=16))
    searched(monkeypatch, other, Trials())
    assert len(list((other.folder / UNIT.folder / "trials").iterdir())) == 2
    assert plan.search(UNIT).found() is None


def test_whatever_shapes_a_search_is_in_its_digest(plan, study):
    changes = [
        {"budget": 16}, {"objective": "target"}, {"search_seed": 5}, {"search_shots": 1}, {"search_part": "other"},
        {"methods": {"naive": {"batch_size": 2}}}, {"methods": {"naive": {"search": {"learning_rate": [1e-3]}}}},
    ]  # fmt: skip
    digests = [make_plan(study(trials=9, region="ET", **change)).search(UNIT).digest() for change in changes]
    assert len({plan.search(UNIT).digest(), *digests}) == len(changes) + 1
    same = [{"trials": 4}, {"seeds": [5]}, {"marks": 7}, {"out": plan.folder / "elsewhere"}, {"jobs": 2}]
    assert {make_plan(study(**({"trials": 9, "region": "ET"} | change))).search(UNIT).digest() for change in same} == {
        plan.search(UNIT).digest()
    }


def test_another_process_at_the_search_is_left_alone(monkeypatch, plan):
    folder = plan.folder / UNIT.folder
    folder.mkdir(parents=True)
    lock = RunLock(folder)
    with pytest.raises(BusyError):
        searched(monkeypatch, plan, Trials())
    lock.release()
    searched(monkeypatch, plan, Trials())


@pytest.mark.parametrize("url", ["sqlite:////nowhere/at/all.db", "no-url", "nothing://host/name"])
def test_database_that_cannot_be_reached(study, url):
    with pytest.raises(UsageError) as caught:
        open_database(make_plan(study(trials=2, storage=url)).folder, url)
    assert "database" in str(caught.value)


def test_no_trial_sees_a_test_patient(study, domains):
    plan = prepare_study(make_plan(study(trials=2)))
    plan.do(UNIT)
    split = Split.load(domains["split"])
    test = {split.patients[case] for case in split.parts["test"]}
    trials = sorted((plan.folder / UNIT.folder / "trials").iterdir())
    assert [trial.name for trial in trials] == ["000", "001"]
    for trial in trials:
        patients = json.loads((trial / "patients.json").read_text())
        seen = {row["patient"] for part in ("train", "target", "source") for row in patients[part]}
        assert patients["target"]
        assert patients["source"]
        assert seen
        assert not seen & test
        marked = {row["patient"] for row in read_log(trial / "marks.csv")}
        assert marked
        assert not marked & test
        shots = {row["case"] for row in patients["train"]}
        assert shots <= set(split.parts["train"])
        assert {row["case"] for row in patients["target"]} <= set(split.parts["val"])
        # Of a trial only what is small is kept.
        assert not (trial / "checkpoints").exists()
        assert not list(trial.glob("events.out.*"))
    cell = plan.config(next(plan.cells), plan.search(UNIT).found())
    assert cell.test_part == "test"
