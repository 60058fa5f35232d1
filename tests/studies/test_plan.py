from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from metaseg.config.io import config_text, load_config
from metaseg.config.segmentation import MetatuneConfig, NaivetuneConfig
from metaseg.config.studies import CompareConfig, named_after
from metaseg.errors import UsageError
from metaseg.studies.plan import make_plan
from metaseg.studies.workers import Unit

METHODS = {"naive": {}, "ours": {"method": "maml", "order": "random", "inner-steps": 2, "title": "MAML"}}


def names(plan) -> list[str]:
    return [unit.name for unit in plan.units]


def test_cells_are_methods_by_shots_by_seeds_for_each_target(study, domains):
    plan = make_plan(
        study(targets={"a": domains["target"], "b": domains["target"]}, methods=METHODS, shots=[1, 2], seeds=2)
    )
    assert len(plan.units) == 2 * 2 * 2 * 2
    assert names(plan)[:5] == [
        "a/naive/shots-1/seed-0",
        "a/ours/shots-1/seed-0",
        "b/naive/shots-1/seed-0",
        "b/ours/shots-1/seed-0",
        "a/naive/shots-2/seed-0",
    ]
    # A study that is cut short is a whole one with fewer seeds.
    assert {unit.seed for unit in plan.units[:8]} == {0}
    assert str(plan.units[0].folder) == "cells/a/naive/shots-1/seed-0"


def test_settings_come_from_the_study_its_target_and_its_entry(study):
    config = study(methods=METHODS, seeds=[7], test_part="test")
    plan = make_plan(config)
    naive, ours = (plan.config(unit) for unit in plan.units)
    assert isinstance(naive, NaivetuneConfig)
    assert isinstance(ours, MetatuneConfig)
    assert (ours.method, ours.order, ours.inner_steps) == ("maml", "passive", 2)
    for cell in (naive, ours):
        assert (cell.seed, cell.shots, cell.budget, cell.marks, cell.slices) == (7, 2, 12, 2, 4)
        assert (cell.watch_cases, cell.test_part, cell.classes) == (0, "test", ("MET",))
        assert cell.from_run == config.from_run
    assert plan.entries["ours"].title == "MAML"
    assert plan.entries["naive"].title == "naive"


def test_shared_settings_of_one_family_leave_the_other_alone(study, domains):
    shared = domains["shared"] | {"batch_size": 2, "inner_steps": 3, "order": "hardest"}
    plan = make_plan(
        study(shared=shared, methods={"naive": {}, "maml": {}, "m2": {"method": "maml", "order": "active"}})
    )
    naive, maml, second = (plan.config(unit) for unit in plan.units)
    assert (naive.batch_size, maml.inner_steps) == (2, 3)
    assert (maml.order, second.order) == ("hardest", "active")


def test_a_search_stands_before_its_cells_and_never_names_the_test_part(study):
    plan = make_plan(study(methods=METHODS, trials=3, search_seed=99, seeds=2))
    assert names(plan) == [
        "met/naive/search", "met/ours/search", "met/naive/shots-2/seed-0", "met/ours/shots-2/seed-0",
        "met/naive/shots-2/seed-1", "met/ours/shots-2/seed-1",
    ]  # fmt: skip
    assert plan.needs(plan.units[2]) == (plan.units[0],)
    assert plan.needs(plan.units[5]) == (plan.units[1],)
    for unit in plan.units:
        if unit.kind == "search":
            config = plan.config(unit)
            assert (config.test_part, config.train_part, config.seed, config.marks) == ("val", "train", 99, 1)


def test_what_an_entry_sets_is_not_searched(study):
    methods = {
        "ewc": {},
        "fixed": {"method": "ewc", "learning_rate": 1e-3},
        "own": {"method": "ewc", "learning_rate": 1e-3, "search": {"learning_rate": {"low": 1e-4, "high": 1e-2}}},
        "none": {"method": "ewc", "search": {}},
    }
    plan = make_plan(study(methods=methods, trials=2))
    spaces = {label: set(entry.space) for label, entry in plan.entries.items()}
    assert spaces == {
        "ewc": {"learning_rate", "ewc_lambda"}, "fixed": {"ewc_lambda"}, "own": {"learning_rate"}, "none": set()
    }  # fmt: skip
    assert not plan.is_searched("none")
    assert [unit.label for unit in plan.units if unit.kind == "search"] == ["ewc", "fixed", "own"]


def test_entries_may_share_a_search(study):
    methods = {
        "active": {"method": "maml"}, "passive": {"method": "maml", "order": "passive", "search": "active"},
    }  # fmt: skip
    plan = make_plan(study(methods=methods, trials=2))
    assert [unit.label for unit in plan.units if unit.kind == "search"] == ["active"]
    passive = next(unit for unit in plan.cells if unit.label == "passive")
    assert plan.needs(passive) == (Unit("search", "met", "active"),)
    assert plan.config(passive, {"outer_learning_rate": 0.5}).order == "passive"


def test_an_oracle_order_gets_one_run_for_each_target(study, domains):
    plan = make_plan(
        study(
            targets={"a": domains["target"], "b": domains["target"]},
            methods={"oracle-order": {"method": "maml", "order": "oracle"}, "naive": {}},
        )
    )
    assert [name for name in names(plan) if "oracle/" in name or name.endswith("/oracle")] == ["a/oracle", "b/oracle"]
    cell = next(plan.cells)
    assert plan.needs(cell) == (Unit("oracle", "a"),)
    assert plan.config(cell).oracle == str(plan.folder / "cells/a/oracle")
    assert plan.config(Unit("oracle", "a")).test_part == "val"
    naive = next(unit for unit in plan.cells if unit.label == "naive")
    assert plan.needs(naive) == ()


def test_phantoms_are_the_same_for_every_seed(study):
    with warnings.catch_warnings():
        # The number is not ignored: the study makes so many.
        warnings.simplefilter("error")
        plan = make_plan(study(targets={"met": {"phantoms": "met", "phantom_cases": 8}}, shared={}, seeds=3))
    configs = [plan.config(unit) for unit in plan.units]
    assert len({config.data for config in configs}) == len({config.split for config in configs}) == 1
    assert configs[0].data == (plan.folder / "phantoms" / "met-8",)
    assert configs[0].source == (plan.folder / "phantoms" / "hgg-16",)
    assert configs[0].split == plan.folder / "phantoms" / "hgg-16+met-8.json"


def test_a_count_of_seeds_is_a_list_from_zero():
    assert load_config(CompareConfig, None, {"seeds": 3}).seeds == (0, 1, 2)
    assert load_config(CompareConfig, None, {"seeds": "3"}).seeds == (0, 1, 2)
    assert load_config(CompareConfig, None, {"seeds": [3]}).seeds == (3,)
    assert load_config(CompareConfig, None, {"seeds": "4,2"}).seeds == (4, 2)
    assert load_config(CompareConfig, None, {"shots": 5}).shots == (5,)


def test_settings_are_read_back_as_they_were(study, tmp_path):
    config = study(methods=METHODS, shots=[1, 2], seeds=[3], trials=4)
    (tmp_path / "study.yaml").write_text(config_text(config))
    assert load_config(CompareConfig, tmp_path / "study.yaml") == config


def test_the_study_is_named_after_its_settings_file(study):
    assert named_after(CompareConfig(), Path("configs/compare/cheng.yaml")).out == Path("studies/cheng")
    assert named_after(study(), Path("x.yaml")) == study()


WRONG = [
    ({"methods": {}}, "no methods"),
    ({"targets": {}}, "no targets"),
    ({"from": None}, "names no source network"),
    ({"pretrain": {}}, "both given"),
    ({"methods": {"naiv": {}}}, "did you mean 'naive'"),
    ({"methods": {"a/b": {"method": "naive"}}}, "'a/b'"),
    ({"methods": {"..": {"method": "naive"}}}, "'..'"),
    ({"methods": {"naive": {}, "Naive": {"method": "naive"}}}, "but for its case"),
    ({"methods": {"oracle": {"method": "maml", "order": "oracle"}}}, "maml-oracle"),
    ({"methods": {"naive": 3}}, "'3'"),
    ({"methods": {"naive": {"inner_steps": 2}}}, "other family"),
    ({"methods": {"maml": {"batch_size": 2}}}, "other family"),
    ({"methods": {"naive": {"lerning_rate": 2}}}, "lerning_rate"),
    ({"methods": {"naive": {"learning_rate": -1}}}, "met/naive: 'learning_rate' is -1"),
    ({"methods": {"naive": {"budget": 2}}}, "the study's to set"),
    ({"methods": {"naive": {"data": "x"}}}, "alike for all methods"),
    ({"methods": {"maml": {"order": "activ"}}}, "active"),
    ({"methods": {"maml": {"threshold": "half"}}}, "half"),
    ({"shared": {"shots": 3}}, "shared: 'shots'"),
    ({"shared": {"colour": 3}}, "colour"),
    ({"targets": {"met": {"batch_size": 3}}}, "batch_size"),
    ({"targets": {"met": {"phantoms": "glioma"}}, "shared": {}}, "glioma"),
    ({"targets": {"met": {"phantoms": "met"}}}, "omit 'phantoms'"),
    ({"targets": {"met": {"data": "x"}}, "shared": {}}, "has no split"),
    ({"targets": {"met": {"data": "x", "split": None}}}, "has no split"),
    ({"shots": [2, 2]}, "[2, 2]"),
    ({"shots": [0]}, "[0]"),
    ({"seeds": [-1]}, "[-1]"),
    ({"trials": 2, "search_seed": 0}, "search_seed"),
    ({"trials": 2, "search_part": "test"}, "search_part"),
    ({"trials": 2, "methods": {"naive": {"search": {"learning_rate": {"low": 1, "high": 1}}}}}, "low below high"),
    ({"trials": 2, "methods": {"replay": {"search": {"replay_fraction": [0.5, 1.5]}}}}, "replay: 'replay_fraction'"),
    ({"methods": {"naive": {}, "maml": {"search": "naive"}}}, "of the same family"),
    ({"methods": {"naive": {"search": "else"}}}, "'search' is 'else'"),
    ({"pretrain": {"epochs": 0}, "from": None}, "epochs"),
    ({"pretrain": {"out": "x"}, "from": None}, "pretrain: 'out'"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "named"), WRONG, ids=lambda value: value if isinstance(value, str) else None)
def test_wrong_settings_are_told_before_any_work(study, tmp_path, changes, named):
    with pytest.raises(UsageError) as caught:
        make_plan(study(**changes))
    assert named in str(caught.value)
    assert not (tmp_path / "study").exists()
