from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from metaseg.adapt.watch import read_marks
from metaseg.cases.splits import Split
from metaseg.errors import DataError, DataWarning, MetasegError, UsageError
from metaseg.studies.compare import run_compare
from metaseg.studies.plan import Plan

SEARCHED = {"trials": 1, "methods": {"naive": {}}}


@pytest.fixture
def folders(study, domains, tmp_path):
    """Settings of a study of two folders with a split each, as :func:`study` makes them."""
    both = Split.load(domains["split"])
    for cohort in ("HGG", "MET"):
        parts = {name: tuple(case for case in ids if cohort in case) for name, ids in both.parts.items()}
        own = {case: both.patients[case] for ids in parts.values() for case in ids}
        Split(0, None, parts, own).save(tmp_path / f"{cohort}.json")

    def make(shared=None, **changes):
        splits = {"split": str(tmp_path / "MET.json"), "source_split": str(tmp_path / "HGG.json")}
        return study(shared=domains["shared"] | splits | (shared or {}), **(SEARCHED | changes))

    make.both = both
    return make


def watched(run: Path, domain: str) -> set[str]:
    return {row["case"] for row in read_marks(run) if row["domain"] == domain}


def of(both: Split, part: str, cohort: str) -> set[str]:
    return {case for case in both.parts[part] if cohort in case}


def test_a_split_for_each_folder_gives_the_tables_of_one_for_both(folders, study, tmp_path):
    result = run_compare(folders())
    cell = result.study / "cells/met/naive/shots-2/seed-0"
    trial = next((result.study / "searches/met/naive/trials").iterdir())
    for domain, cohort in (("source", "HGG"), ("target", "MET")):
        assert watched(cell, domain) == of(folders.both, "test", cohort)
        rows = json.loads((trial / "patients.json").read_text())[domain]
        assert {row["case"] for row in rows} == of(folders.both, "val", cohort)
    one = run_compare(study(out=tmp_path / "one", **SEARCHED))
    assert (one.study / "results.csv").read_text() == (result.study / "results.csv").read_text()


def test_the_patient_that_chose_the_weights_is_never_counted(folders):
    # Without the source's split, the network's run tells whom it was trained and validated on.
    config = folders(shared={"source_split": None}, trials=0)
    result = run_compare(config)
    cell = result.study / "cells/met/naive/shots-2/seed-0"
    assert watched(cell, "source") == of(folders.both, "test", "HGG")
    # A cell of an earlier version counted it: its rows are in no table.
    (row,) = json.loads((Path(str(config.from_run)) / "patients.json").read_text())["val"]
    one = next(row for row in read_marks(cell) if row["domain"] == "source")
    marks = (cell / "marks.csv").read_text()
    added = [line for line in marks.splitlines(keepends=True) if one["case"] in line]
    marks += "".join(added).replace(one["case"], row["case"]).replace(one["patient"], row["patient"])
    (cell / "marks.csv").write_text(marks)
    assert row["case"] in watched(cell, "source")
    again = run_compare(config)
    assert again.results.equals(result.results)


def renamed(make, tmp_path, source: str, target: str) -> dict[str, str]:
    """Settings by which a case of the source's part and one of the target's are of one patient."""
    (first, *_), (second, *_) = sorted(of(make.both, source, "HGG")), sorted(of(make.both, target, "MET"))
    told = make.both.patients | {second: make.both.patients[first]}
    table = "case,patient\n" + "".join(f"{case},{patient}\n" for case, patient in told.items())
    (tmp_path / "patients.csv").write_text(table)
    split = Split.load(tmp_path / "MET.json")
    Split(0, None, split.parts, {case: told[case] for case in split.patients}).save(tmp_path / "MET.json")
    return {"patients": str(tmp_path / "patients.csv")}


@pytest.mark.parametrize(
    ("source", "target", "named"),
    [
        ("train", "test", "the network has seen 1 patient"),
        ("train", "val", "is in part .train. as source and in part .val. as target"),
        ("val", "test", "the network has seen 1 patient"),
        ("test", "train", "is in part 'test' as source and in part 'train' as target"),
        ("test", "val", "is in part 'test' as source and in part 'val' as target"),
    ],
)
def test_one_patient_in_both_folders_is_refused_by_the_dry_run_and_by_the_run(
    folders, tmp_path, monkeypatch, source, target, named
):
    config = folders(shared=renamed(folders, tmp_path, source, target), dry_run=True)
    with pytest.raises(DataError, match=named) as dry:
        run_compare(config)
    monkeypatch.setattr(Plan, "do", lambda plan, unit: pytest.fail("it runs"))
    with pytest.raises(DataError) as caught:
        run_compare(folders(shared={"patients": str(tmp_path / "patients.csv")}))
    assert str(caught.value) == str(dry.value)


WRONG = [
    ({"source_split": None}, {}, "would see the source patients"),
    ({"source_split": "nowhere.json"}, {}, "the split file does not exist"),
    ({"source": [], "source_split": None}, {"trials": 0, "from": None}, "chose the network's weights"),
    ({}, {"from": None, "region": "XY"}, "'XY'"),
    ({}, {"from": None, "fold": 0}, "--fold without --split"),
    ({}, {"from": None, "val_part": "train"}, "to be trained and validated on"),
    ({}, {"from": None, "val_part": "valid"}, "unknown part of the split 'valid'"),
    ({"modalities": ["t2"]}, {"from": None}, "differ from the network's"),
    ({}, {"from": None, "weights": "nowhere.pth"}, "cannot read the weights"),
    ({}, {"from": None, "weights": "imagenet"}, "no ImageNet weights for network 'unet'"),
    ({}, {"from": None, "model_options": {"chanels": [4]}}, "wrong option of network 'unet': chanels"),
    ({}, {"trials": 0, "test_part": "train"}, "part 'train' is to be tuned on and judged by"),
]


@pytest.mark.parametrize(
    ("shared", "changes", "named"), WRONG, ids=lambda value: value if isinstance(value, str) else ""
)
def test_dry_run_refuses_what_would_be_wrong(folders, domains, tmp_path, shared, changes, named):
    changes = dict(changes)
    if "from" in changes:
        split = None if "fold" in changes or "source" in shared else str(tmp_path / "HGG.json")
        changes["pretrain"] = {"data": domains["shared"]["source"], "split": split}
        of_pretraining = ("fold", "val_part", "weights", "model_options")
        changes["pretrain"] |= {name: changes.pop(name) for name in of_pretraining if name in changes}
    with pytest.raises(MetasegError) as caught:
        run_compare(folders(shared=shared, dry_run=True, **changes))
    assert named in str(caught.value)


def test_a_pretraining_to_come_is_checked_against_the_target(folders, domains, tmp_path):
    pretrain = {"data": domains["shared"]["source"], "split": str(tmp_path / "HGG.json")}
    shared = renamed(folders, tmp_path, "train", "test")
    with pytest.raises(DataError, match="the network has seen 1 patient"):
        run_compare(folders(shared=shared, dry_run=True, pretrain=pretrain, **{"from": None}))


def test_source_patients_who_chose_the_weights_are_judged_by_with_a_warning_alone(folders, domains, tmp_path):
    settings = {"from": None, "pretrain": {"data": domains["shared"]["source"], "split": str(tmp_path / "HGG.json")}}
    settings |= {"trials": 0, "dry_run": True}
    with pytest.warns(DataWarning, match="are of patients who chose the network's weights"):
        run_compare(folders(test_part="val", **settings))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_compare(folders(**settings))


def test_a_changed_split_is_told_by_the_dry_run(folders, tmp_path):
    config = folders(trials=0)
    run_compare(config)
    file = tmp_path / "HGG.json"
    split = Split.load(file)
    Split(1, None, split.parts, split.patients).save(file)
    with pytest.raises(UsageError, match="split of the source of target met"):
        run_compare(folders(trials=0, dry_run=True))
