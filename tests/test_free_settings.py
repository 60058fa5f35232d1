"""Every setting of every verb shapes results, or says why it does not; the others refuse a resume or make new cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metaseg.config import classification as config_classify
from metaseg.config import segmentation as config
from metaseg.config import studies as config_studies
from metaseg.config.classification import ClassifyActiveConfig, ClassifyTrainConfig
from metaseg.config.fields import FieldDescription, config_verb, describe_fields
from metaseg.config.io import load_config, shaping_values
from metaseg.config.segmentation import MetatuneConfig, NaivetuneConfig, PretrainConfig, TuneConfig
from metaseg.config.studies import ClassifyCompareConfig, ClassifySearchConfig, CompareConfig
from metaseg.errors import UsageError
from metaseg.runs.folder import RunFolder
from metaseg.studies.cells import NETWORK, check_inputs, relocatable
from metaseg.studies.classifiers.plan import make_classifier_plan, with_split
from metaseg.studies.classifiers.search import make_search
from metaseg.studies.plan import make_plan

RUNS = (PretrainConfig, NaivetuneConfig, TuneConfig, MetatuneConfig, ClassifyTrainConfig, ClassifyActiveConfig)
STUDIES = (CompareConfig, ClassifyCompareConfig, ClassifySearchConfig)
RUN_FIELDS = [(cls, field) for cls in RUNS for field in describe_fields(cls)]
STUDY_FIELDS = [(cls, field) for cls in STUDIES for field in describe_fields(cls)]


# Another folder is another study, and in a database that studies share their searches are kept apart.
KEPT = [(cls, field) for cls, field in STUDY_FIELDS if field.free and field.name not in ("out", "storage")]


def name_of(value: Any) -> str | None:
    return config_verb(value) if isinstance(value, type) else getattr(value, "name", None)


def candidates(field: FieldDescription) -> Iterator[Any]:
    """Values that a setting may have, whatever its type."""
    yield from field.choices
    kinds = {
        int: (1, 2, 17, 200),
        float: (0.125, 0.5, 2.0),
        bool: (True, False),
        str: ("another", "otsu", "module:function"),
        Path: ("/x",),
    }
    yield from kinds.get(field.annotation, ())
    if field.element is not None:
        yield from (["/x"], ["another"], [32, 48], [0.5, 0.25, 0.125])
    if field.is_mapping:
        yield {"another": 1}


def another(cls: type, field: FieldDescription, before: Any) -> Any:
    """A config in which one setting has another value."""
    for value in candidates(field):
        try:
            given = {item.name: getattr(before, item.name) for item in describe_fields(cls)}
            after = load_config(cls, None, given | {field.name: value})
        except UsageError:
            continue
        if getattr(after, field.name) != getattr(before, field.name):
            return after
    raise AssertionError(f"no other value of {field.name} is known to this test")


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> dict[type, Any]:
    """A run of each verb, begun with default settings."""
    found = {}
    for cls in RUNS:
        out = tmp_path_factory.mktemp("runs") / "run"
        found[cls] = load_config(cls, None, {"out": out})
        with RunFolder.create(found[cls]) as run:
            run.state.set_status("stopped")
    return found


@pytest.mark.parametrize(("cls", "field"), RUN_FIELDS, ids=name_of)
def test_a_run_goes_on_with_another_value_only_where_that_is_declared_free(begun, cls, field):
    folder = begun[cls].out
    out = folder / ".." / folder.name if field.name == "out" else folder
    changed = dataclasses.replace(another(cls, field, begun[cls]), out=out, resume=True, overwrite=False)
    if field.free:
        assert len(field.free.split()) > 3, "a reason is a sentence"
        RunFolder.check(changed)
    else:
        with pytest.raises(UsageError, match=rf"settings differ.*{field.option}: "):
            RunFolder.check(changed)


def compared(study: CompareConfig) -> Any:
    """What must be equal for results of a study to be kept: settings of cells, and of searches."""
    plan = make_plan(study)
    cells = {unit.name: shaping_values(relocatable(plan.config(unit), plan.folder)) for unit in plan.cells}
    searches = {unit.name: (plan.search(unit).digest(), study.trials) for unit in plan.units if unit.kind == "search"}
    return cells, searches


def compared_classifiers(study: ClassifyCompareConfig) -> Any:
    work = with_split(make_classifier_plan(study))
    cells = {
        cell.name: shaping_values(relocatable(work.config(cell), work.folder))
        for cell in work.units
        if cell.label not in work.searches
    }
    return cells, {label: (search.digest(), study.trials) for label, search in work.searches.items()}


WHAT_IS_KEPT = {
    CompareConfig: compared,
    ClassifyCompareConfig: compared_classifiers,
    ClassifySearchConfig: lambda study: make_search(study).digest(),
}
SEARCHED = {
    "entries": {"found": {"transfer": "freeze", "search": {"learning_rate": [1e-3, 1e-4]}, "split": "split.json"}},
    "trials": 3,
}
BEFORE: dict[tuple[type, str], Any] = {
    (ClassifyCompareConfig, name): SEARCHED for name in ("trials", "pruning", "search_seed")
}
"""What a study says besides, where a setting means nothing without it."""
OTHER_VALUES: dict[tuple[type, str], Any] = {
    (CompareConfig, "targets"): {"targets": {"met": {"data": "other", "split": "split.json"}}},
    (CompareConfig, "shared"): {"shared": {"split": "split.json", "slices": 7}},
    (CompareConfig, "methods"): {"methods": {"naive": {"optimizer": "sgd"}, "maml": {}}},
    (CompareConfig, "pretrain"): {"from": None, "pretrain": {"data": "HGG"}},
    (CompareConfig, "search_part"): {"search_part": "other"},
    (ClassifyCompareConfig, "shared"): {"shared": {"data": "pictures", "epochs": 3}},
    (ClassifyCompareConfig, "entries"): {"entries": {"chosen": {"verb": "active", "acquisition": "entropy"}}},
    (ClassifyCompareConfig, "baseline"): {"baseline": "chosen"},
    (ClassifyCompareConfig, "references"): {"references": ["chosen"]},
    (ClassifyCompareConfig, "pretrain"): {"pretrain": {"base": {"data": "others"}}},
    (ClassifyCompareConfig, "folds"): {"folds": 3, "entries": {"chosen": {"split": "split.json"}}},
    (ClassifySearchConfig, "shared"): {"shared": {"data": "pictures", "transfer": "scratch"}},
    (ClassifySearchConfig, "space"): {"space": {"learning_rate": [1e-3, 1e-4]}},
}


@pytest.fixture
def studies(tmp_path) -> dict[type, dict[str, Any]]:
    out = tmp_path / "study"
    out.mkdir()
    (out / "split.json").touch()
    target = {"data": "MET", "split": "split.json"}
    return {
        CompareConfig: {
            "from": "pre", "targets": {"met": target}, "methods": {"naive": {}, "maml": {}}, "seeds": [5], "trials": 3,
            "out": out,
        },
        ClassifyCompareConfig: {
            "shared": {"data": "pictures"}, "entries": {"chosen": {"verb": "active", "acquisition": "margin"}},
            "seeds": [5], "out": out,
        },
        ClassifySearchConfig: {"shared": {"data": "pictures", "transfer": "freeze"}, "out": out},
    }  # fmt: skip


@pytest.mark.parametrize(("cls", "field"), STUDY_FIELDS, ids=name_of)
def test_a_study_keeps_results_under_another_value_only_where_that_is_declared_free(studies, cls, field):
    before = load_config(cls, None, studies[cls] | BEFORE.get((cls, field.name), {}))
    if field.free:
        assert len(field.free.split()) > 3, "a reason is a sentence"
        return
    if (cls, field.name) in OTHER_VALUES:
        after = load_config(cls, None, studies[cls] | OTHER_VALUES[cls, field.name])
    else:
        after = another(cls, field, before)
    assert WHAT_IS_KEPT[cls](after) != WHAT_IS_KEPT[cls](before)


@pytest.mark.parametrize(("cls", "field"), KEPT, ids=name_of)
def test_what_is_free_in_a_study_leaves_its_cells_alone(studies, cls, field):
    before = load_config(cls, None, studies[cls])
    changed = OTHER_VALUES.get((cls, field.name))
    after = load_config(cls, None, studies[cls] | changed) if changed else another(cls, field, before)
    assert WHAT_IS_KEPT[cls](after) == WHAT_IS_KEPT[cls](before)


def test_every_verb_is_looked_at():
    modules = (config, config_classify, config_studies)
    found = {cls for module in modules for name, cls in vars(module).items() if name.endswith("Config")}
    stateless = {
        "EvaluateConfig",
        "PredictConfig",
        "ClassifyEvaluateConfig",
        "ClassifyPredictConfig",
        "ReportConfig",
        "PaperConfig",
    }
    assert {cls.__name__ for cls in found} == {cls.__name__ for cls in (*RUNS, *STUDIES)} | stateless


def test_two_strategies_never_share_a_search(studies):
    digests = {
        make_search(load_config(ClassifySearchConfig, None, studies[ClassifySearchConfig] | {
            "shared": {"data": "pictures", "transfer": strategy}
        })).digest()
        for strategy in ("freeze", "finetune", "scratch", "gradual-unfreeze")
    }  # fmt: skip
    assert len(digests) == 4


class TestInputs:
    def test_a_changed_file_under_the_same_name_is_refused_once_there_are_results(self, tmp_path):
        check_inputs(tmp_path, {NETWORK: "a", "split of target met": "b"}, has_results=False)
        check_inputs(tmp_path, {NETWORK: "a", "split of target met": "c"}, has_results=False)
        check_inputs(tmp_path, {NETWORK: "a", "split of target met": "c"}, has_results=True)
        with pytest.raises(UsageError, match=r"changed since .*: split of target met"):
            check_inputs(tmp_path, {NETWORK: "a", "split of target met": "b"}, has_results=True)

    def test_a_new_target_is_added_and_then_held_to(self, tmp_path):
        check_inputs(tmp_path, {"data of target a": "1"}, has_results=False)
        check_inputs(tmp_path, {"data of target a": "1", "data of target b": "2"}, has_results=True)
        with pytest.raises(UsageError, match="data of target b"):
            check_inputs(tmp_path, {"data of target b": "3"}, has_results=True)

    def test_studies_of_the_first_release_are_held_to_their_network(self, tmp_path):
        (tmp_path / "network.json").write_text('{"network": "best.safetensors", "sha256": "a"}')
        with pytest.raises(UsageError, match=NETWORK):
            check_inputs(tmp_path, {NETWORK: "b"}, has_results=True)
        check_inputs(tmp_path, {NETWORK: "a"}, has_results=True)
