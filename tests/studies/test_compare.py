from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from forked import SERVER

from metaseg.adapt.watch import Watch
from metaseg.cases.splits import Split
from metaseg.cli import main
from metaseg.config.io import dump_config, load_config
from metaseg.config.studies import CompareConfig
from metaseg.errors import DataError, MetasegError, RunError, TrainingError, UsageError
from metaseg.reports.analysis import read_segmentation
from metaseg.studies import workers
from metaseg.studies.compare import run_compare
from metaseg.studies.plan import Plan, make_plan
from metaseg.studies.preparation import prepare_study
from metaseg.studies.tables import read_study_table
from metaseg.studies.workers import do_units

TABLES = ("results.csv", "summary.csv", "pairwise.csv")
SEARCHED = {"trials": 2}


def tables(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in TABLES}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(domains, tmp_path_factory) -> Path:
    """A study that was left alone."""
    settings = {
        "from": domains["from"], "cache": domains["cache"], "targets": {"met": domains["target"]},
        "shared": domains["shared"], "shots": [2], "seeds": [0], "budget": 12, "marks": 2, "resamples": 100,
        "methods": {"naive": {}, "maml-active": {"method": "maml", "order": "active"}}, "threads": 1,
        "device": "cpu", "out": tmp_path_factory.mktemp("whole") / "study", **SEARCHED,
    }  # fmt: skip
    return run_compare(load_config(CompareConfig, None, settings)).study


def test_study_killed_three_times_has_the_tables_of_one_left_alone(study, whole, monkeypatch):
    mark, marks = Watch.mark, 0
    turns = sorted(random.SystemRandom().sample(range(1, 14), 3))
    print(f"interrupted at marks {turns}")

    def interrupted(watch: Watch, *arguments: Any) -> dict[str, float]:
        nonlocal marks
        marks += 1
        if marks in turns:
            raise KeyboardInterrupt
        return mark(watch, *arguments)

    monkeypatch.setattr(Watch, "mark", interrupted)
    config = study(**SEARCHED)
    for _ in turns:
        with pytest.raises(KeyboardInterrupt) as caught:
            run_compare(config)
        assert caught.value.__notes__ == ["To continue: give the same command again; what is done stays done."]
    result = run_compare(config)
    assert tables(result.study) == tables(whole)
    assert list(result.results.columns) == list(read_study_table(whole / "results.csv").columns)


def test_processes_side_by_side_give_the_same_tables(study, whole, monkeypatch):
    # A process that begins with nothing, and one that is forked.
    contexts = iter([multiprocessing.get_context("spawn"), SERVER])
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: next(contexts))
    assert tables(run_compare(study(jobs=2, **SEARCHED)).study) == tables(whole)
    assert next(contexts, None) is None


def test_done_study_runs_nothing_again(study, whole, monkeypatch, tmp_path):
    shutil.copytree(whole, tmp_path / "study")
    monkeypatch.setattr(Plan, "do", lambda plan, unit: pytest.fail(f"{unit.name} is done"))
    assert tables(run_compare(study(**SEARCHED)).study) == tables(whole)


def test_longer_study_runs_what_is_new(study, whole, monkeypatch, tmp_path):
    shutil.copytree(whole, tmp_path / "study")
    done = []
    do_unit = Plan.do
    monkeypatch.setattr(Plan, "do", lambda plan, unit: (done.append(unit.name), do_unit(plan, unit)))
    result = run_compare(study(seeds=2, **SEARCHED))
    assert done == ["met/naive/shots-2/seed-1", "met/maml-active/shots-2/seed-1"]
    assert set(result.results["seed"]) == {0, 1}
    # Back to one seed, the other's cells stay on disk and out of the tables.
    assert tables(run_compare(study(**SEARCHED)).study) == tables(whole)


def test_tables_hold_every_evaluation_of_test_patients_alone(whole, domains):
    table = read_study_table(whole / "results.csv")
    split = Split.load(domains["split"])
    assert set(table["case"]) == set(split.parts["test"])
    assert set(table["method"]) == {"naive", "maml-active"}
    assert dict(zip(table["method"], table["family"], strict=True)) == {"naive": "plain", "maml-active": "meta"}
    assert set(table["region"]) == {"WT", "TC", "ET"}
    cells = table.groupby("method")["work"].nunique()
    assert (cells == 3).all(), "before, and two marks"
    naive = pd.read_csv(whole / "cells/met/naive/shots-2/seed-0/marks.csv")
    assert len(naive) == len(table[table["method"] == "naive"])
    summary = pd.read_csv(whole / "summary.csv")
    assert set(zip(summary["method"], summary["shots"], strict=True)) == {("naive", 2), ("maml-active", 2)}
    assert load_config(CompareConfig, whole / "study.yaml").budget == 12


def test_command_line(study, whole, monkeypatch, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "study")
    dump_config(replace(study(**SEARCHED), out=None), tmp_path / "named.yaml")
    with pytest.raises(SystemExit) as caught:
        main.run(["compare", str(tmp_path / "named.yaml"), "--out", str(tmp_path / "study")])
    assert not caught.value.code
    printed = capsys.readouterr().out
    assert "2 of 2 cells are done" in printed
    assert f"metaseg report {tmp_path / 'study'}" in printed.replace("\n", "")
    assert "maml-active" in printed


@pytest.mark.parametrize("changes", [{}, SEARCHED | {"budget": 16}], ids=["new", "changed"])
def test_dry_run_writes_nothing(study, whole, tmp_path, capsys, changes):
    if changes:
        shutil.copytree(whole, tmp_path / "study")
    before = files_of(tmp_path)
    run_compare(study(dry_run=True, **changes))
    assert files_of(tmp_path) == before
    printed = capsys.readouterr().out
    assert "maml (order=active)" in printed
    assert "left to do: 2 cells" in printed
    # 2 cells, and 2 trials of each of 2 searches.
    runs = 2 + (4 if changes else 0)
    assert f"{runs * (16 if changes else 12)} slice gradient evaluations" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"from": "nowhere"}, "there is no such run"),
        ({"region": "XT"}, "unknown region 'XT'"),
        ({"test_part": "tset"}, "did you mean 'test'?"),
        ({"shots": [9]}, "9 shots are asked for"),
        ({"targets": {"met": {"data": "nowhere"}}}, "does not exist"),
        ({"from": None, "pretrain": {"data": "nowhere"}}, "does not exist"),
        ({"trials": 2, "storage": "no-database"}, "the database of the search cannot be opened"),
        ({"methods": {"naiv": {}}}, "did you mean 'naive'?"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_dry_run_refuses_what_the_run_would_refuse(study, tmp_path, changes, message):
    with pytest.raises(MetasegError) as caught:
        run_compare(study(dry_run=True, **changes))
    assert message in str(caught.value)
    assert not (tmp_path / "study").exists()


def test_dry_run_of_a_done_study_says_so(study, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "study")
    run_compare(study(dry_run=True, **SEARCHED))
    assert "nothing: all is done" in capsys.readouterr().out
    run_compare(study(dry_run=True, seeds=3, **SEARCHED))
    printed = capsys.readouterr().out
    assert "left to do: 4 cells, 0 trials" in printed
    assert "about " in printed


def split_without(domains: dict[str, Any], tmp_path: Path, keep: Any) -> str:
    split = Split.load(domains["split"])
    parts = {name: tuple(case for case in ids if keep(name, case)) for name, ids in split.parts.items()}
    patients = {case: split.patients[case] for ids in parts.values() for case in ids}
    Split(0, None, {name: ids for name, ids in parts.items() if ids}, patients).save(tmp_path / "other.json")
    return str(tmp_path / "other.json")


def without_val(part: str, case: str) -> bool:
    return part != "val"


def without_source(part: str, case: str) -> bool:
    return "MET" in case


WRONG = [
    ({"shots": [4]}, None, "has 3 patients"),
    ({"trials": 2, "search_shots": 9}, None, "has 3 patients"),
    ({"trials": 2}, without_val, "unknown part of the split 'val'"),
    ({"trials": 2}, without_source, "would see the source patients"),
    ({"test_part": "exam"}, None, "unknown part of the split 'exam'"),
    ({"from": "nowhere/run"}, None, "nowhere/run"),
    ({"targets": {"met": {"data": "nowhere", "classes": ["MET"]}}}, None, "nowhere"),
    ({"device": "cuda:99"}, None, "cuda:99"),
    ({"methods": {"naive": {}}, "region": "XY"}, None, "'XY'"),
    ({"trials": 1, "storage": "nothing://host"}, None, "database"),
]


@pytest.mark.parametrize(("changes", "keep", "named"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_data_that_do_not_allow_the_plan_are_told_before_any_work(study, domains, tmp_path, changes, keep, named):
    shared = domains["shared"] | ({"split": split_without(domains, tmp_path, keep)} if keep else {})
    with pytest.raises(MetasegError) as caught:
        run_compare(study(shared=shared, **changes))
    assert isinstance(caught.value, UsageError | DataError | RunError)
    assert named in str(caught.value)
    assert not (tmp_path / "study" / "cells").exists()


def test_failed_unit_is_told_and_the_others_go_on(study, monkeypatch, capsys):
    do_unit = Plan.do

    def failing(plan, unit):
        if unit.label == "naive":
            raise TrainingError("the loss became non-finite", remedy="lower the rate")
        if unit.label == "maml-active" and unit.seed == 1:
            raise ValueError("a bug")
        do_unit(plan, unit)

    monkeypatch.setattr(Plan, "do", failing)
    with pytest.raises(RunError) as caught:
        run_compare(study(seeds=2))
    text = str(caught.value)
    assert "3 of 4 units failed" in text
    assert "met/naive/shots-2/seed-1: the loss became non-finite" in text
    assert "met/maml-active/shots-2/seed-1: ValueError: a bug" in text
    folder = study().out
    failures = json.loads((folder / "failures.json").read_text())
    assert [one["unit"] for one in failures if "Traceback" in one["details"]] == ["met/maml-active/shots-2/seed-1"]
    assert set(read_study_table(folder / "results.csv")["method"]) == {"maml-active"}
    assert "1 of 4 cells are done" in capsys.readouterr().out
    monkeypatch.setattr(Plan, "do", do_unit)
    run_compare(study(seeds=2))
    assert not (folder / "failures.json").exists()


def test_cells_of_a_failed_search_are_not_tried(study, monkeypatch):
    plan = make_plan(study(trials=1))
    tried = []

    def failing(plan, unit):
        tried.append(unit.name)
        if unit.kind == "search" and unit.label == "naive":
            raise UsageError("no such thing")

    monkeypatch.setattr(Plan, "do", failing)
    failures = do_units(plan, plan.units, Silent())
    assert [failure.unit.name for failure in failures] == ["met/naive/search", "met/naive/shots-2/seed-0"]
    assert tried == ["met/naive/search", "met/maml-active/search", "met/maml-active/shots-2/seed-0"]


def test_unit_of_another_process_is_taken_up_at_the_end(study, monkeypatch):
    plan = make_plan(study())
    tried = []

    def busy_at_first(plan, unit):
        tried.append(unit.label)
        if tried == ["naive"]:
            raise workers.BusyError

    monkeypatch.setattr(Plan, "do", busy_at_first)
    monkeypatch.setattr(workers.time, "sleep", lambda seconds: None)
    assert do_units(plan, plan.units, Silent()) == []
    assert tried == ["naive", "maml-active", "naive"]


class Silent:
    """A display that kills the first worker when it is given its first unit, if asked to."""

    def __init__(self, kill: bool = False) -> None:
        self.kill, self.ended = kill, []

    def begin(self, unit) -> None:
        if self.kill:
            self.kill = False
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    def end(self, unit, word="done") -> None:
        self.ended.append((unit.name, word))

    def note(self, text) -> None:
        pass


def test_worker_that_dies_loses_its_unit_alone(study, monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: SERVER)
    plan = prepare_study(make_plan(study(jobs=2, methods={"naive": {}}, seeds=2)))
    display = Silent(kill=True)
    failures = do_units(plan, plan.left_to_do(), display)
    assert [failure.unit.seed for failure in failures] == [0], failures
    assert "SIGKILL" in failures[0].error
    assert sorted(display.ended) == [
        ("met/naive/shots-2/seed-0", "failed"), ("met/naive/shots-2/seed-1", "done"),
    ]  # fmt: skip
    assert [unit.seed for unit in plan.left_to_do()] == [0]


def test_other_source_network_is_refused_once_there_are_cells(study, domains, tmp_path):
    shutil.copytree(domains["from"], tmp_path / "network")
    config = study(methods={"naive": {}}, **{"from": str(tmp_path / "network")})
    run_compare(config)
    weights = tmp_path / "network" / "checkpoints"
    for end in (".safetensors", ".json"):
        shutil.copy(weights / f"last{end}", weights / f"best{end}")
    content = bytearray((weights / "best.safetensors").read_bytes())
    content[-1] ^= 1
    (weights / "best.safetensors").write_bytes(content)
    with pytest.raises(MetasegError) as caught:
        run_compare(config)
    assert "network" in str(caught.value)


def test_study_of_phantoms_with_its_own_pretraining_and_an_oracle(study, tmp_path):
    config = study(
        **{"from": None},
        pretrain={
            "phantom_cases": 4, "epochs": 1, "slices_per_epoch": 8, "augment": "none", "image_size": 32,
            "model_options": {"channels": [4, 8], "strides": [2]},
        },
        targets={"met": {"phantom_cases": 4}},
        shared={"slices": 4, "image_size": 32},
        methods={"maml-oracle": {"method": "maml", "order": "oracle"}},
        cache=tmp_path / "cache",
    )  # fmt: skip
    result = run_compare(config)
    assert set(result.results["domain"]) == {"target", "source"}
    oracle = json.loads((result.study / "cells/met/oracle/patients.json").read_text())
    assert len(oracle["train"]) == 2
    assert prepare_study(make_plan(config)).left_to_do() == []
    # Other settings of the pretraining would make another study of it.
    changed = replace(config, pretrain={**(config.pretrain or {}), "epochs": 2})
    with pytest.raises(UsageError) as caught:
        run_compare(changed)
    assert "pretrain" in str(caught.value)


def test_all_patients_of_the_training_part_can_be_shots(study):
    config = study(methods={"naive": {}}, shots=[1, "all"], budget=4, marks=1)
    result = run_compare(config)
    assert sorted(result.results["shots"].unique()) == [1, 3]
    cell = result.study / "cells" / "met" / "naive" / "shots-all" / "seed-0"
    train = {row["patient"] for row in json.loads((cell / "patients.json").read_text())["train"]}
    split = Split.load(config.shared["split"])
    assert train == {split.patients[case] for case in split.parts["train"] if "MET" in case}
    assert {run.shots for run in read_segmentation([result.study]).tuned} == {1, 3}
    with pytest.raises(UsageError, match="'shots' names 3 and all, which are the same 3 patients of target met"):
        run_compare(study(methods={"naive": {}}, shots=[3, "all"]))
