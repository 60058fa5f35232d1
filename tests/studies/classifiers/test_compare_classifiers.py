"""A small study of classifiers on generated images: a bright disc on the left or on the right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_auc_score

from metaseg.cases.splits import Split
from metaseg.classify import active
from metaseg.config.classification import ClassifyTrainConfig
from metaseg.config.io import load_config
from metaseg.config.studies import ClassifyCompareConfig
from metaseg.errors import MetasegError, RunError, UsageError
from metaseg.runs.folder import RunFolder
from metaseg.runs.networks import load_classifier_network
from metaseg.studies import cells
from metaseg.studies.classifiers.compare import run_classify_compare, write_tables
from metaseg.studies.classifiers.plan import make_classifier_plan, with_split
from metaseg.studies.workers import Unit


@pytest.fixture(scope="module", autouse=True)
def _quick_pictures():
    """Drawing takes longer than all else here, and has tests of its own."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, stream, **options: stream.write(b"a picture"))
        patch.setattr("metaseg.inference.classification_files._draw", lambda *args: [])
        yield


SIDES = {"left": 6, "right": 17}


def write_discs(root: Path, first: int) -> Path:
    down, across = np.indices((24, 24))
    for side, middle in SIDES.items():
        (root / side).mkdir()
        for one in range(first, first + 14):
            rng = np.random.default_rng([one, middle])
            disc = (down - rng.integers(8, 16)) ** 2 + (across - middle) ** 2 < 16
            picture = np.clip(70 + 12 * rng.standard_normal((24, 24)) + 130 * disc, 1, 255)
            Image.fromarray(picture.astype(np.uint8)).save(root / side / f"{side}{one:02d}.png")
    return root


@pytest.fixture(scope="module")
def discs(tmp_path_factory) -> Path:
    return write_discs(tmp_path_factory.mktemp("discs"), 0)


@pytest.fixture(scope="module")
def disc_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("disc-cache")


@pytest.fixture(scope="module")
def make_study(discs, disc_cache) -> Callable[..., ClassifyCompareConfig]:
    """The settings of a small study; keywords change them."""

    def make(**changes: Any) -> ClassifyCompareConfig:
        settings: dict[str, Any] = {
            "shared": {
                "data": str(discs), "copies": "identical", "model": "lau-cnn", "input_size": 16, "batch_size": 8,
                "learning_rate": 0.01, "epochs": 1, "augment": "none", "batch": 5, "budget": 10,
            },
            "entries": {"full": {}, "random": {"verb": "active", "acquisition": "random"},
                        "margin": {"verb": "active", "acquisition": "margin", "title": "Margin"}},
            "seeds": [0, 1], "resamples": 200, "device": "cpu", "threads": 1, "cache": disc_cache,
        }  # fmt: skip
        return load_config(ClassifyCompareConfig, None, settings | changes)

    return make


@pytest.fixture(scope="module")
def finished(make_study, tmp_path_factory):
    return run_classify_compare(make_study(out=tmp_path_factory.mktemp("studies") / "study"))


@pytest.fixture
def study(finished, tmp_path):
    """A copy of a finished study, to be spoiled."""
    return shutil.copytree(finished.study, tmp_path / "study")


@pytest.fixture
def begun(monkeypatch):
    """Folders of the runs that are begun or continued."""
    seen, real = [], cells._run

    def spy(config, show):
        seen.append(("resumed" if config.resume else "begun", config.out.parent.name, config.seed))
        real(config, show)

    monkeypatch.setattr(cells, "_run", spy)
    return seen


class TestRun:
    def test_all_cells_are_done_and_tabled(self, finished):
        assert finished.summary["entry"].tolist() == ["full", "random", "margin"]
        assert finished.summary["n_seeds"].tolist() == [2, 2, 2]
        assert finished.summary["labels"].dropna().tolist() == [10.0, 10.0]
        for name in ("summary.csv", "curves.csv", "pairwise.csv", "curves.png", "metrics.png", "split.json"):
            assert (finished.study / name).exists(), name
        assert set(finished.curves["labels"]) == {5, 10}

    def test_all_seeds_have_the_split_of_the_study(self, finished):
        split = Split.load(finished.study / "split.json")
        for run in finished.study.glob("cells/*/seed-*"):
            assert Split.load(run / "split.json").parts == split.parts
            tested = set(pd.read_csv(run / "test" / "predictions.csv")["case"])
            assert tested == set(split.parts["test"])

    def test_what_is_done_is_not_done_again(self, finished, study, make_study, begun):
        again = run_classify_compare(make_study(out=study))
        assert begun == []
        pd.testing.assert_frame_equal(again.summary, finished.summary)

    def test_a_new_entry_and_seed_are_added(self, study, make_study, begun):
        entries = {**make_study().entries, "entropy": {"verb": "active", "acquisition": "entropy"}}
        run_classify_compare(make_study(out=study, entries=entries))
        assert begun == [("begun", "entropy", 0), ("begun", "entropy", 1)]

    def test_an_entry_with_other_settings_is_done_again(self, study, make_study, begun):
        entries = {**make_study().entries, "margin": {"verb": "active", "acquisition": "margin", "epochs": 2}}
        run_classify_compare(make_study(out=study, entries=entries))
        assert begun == [("begun", "margin", 0), ("begun", "margin", 1)]

    def test_a_killed_cell_goes_on(self, finished, study, make_study, begun, monkeypatch):
        shutil.rmtree(study / "cells" / "margin" / "seed-1")
        real, calls = active.fit_round, []

        def interrupted(*args, **options):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(*args, **options)

        monkeypatch.setattr(active, "fit_round", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_classify_compare(make_study(out=study))
        monkeypatch.setattr(active, "fit_round", real)
        again = run_classify_compare(make_study(out=study))
        assert begun == [("begun", "margin", 1), ("resumed", "margin", 1)]
        pd.testing.assert_frame_equal(again.summary, finished.summary)
        pd.testing.assert_frame_equal(again.curves, finished.curves)

    def test_a_cell_that_fails_leaves_the_others(self, make_study, tmp_path):
        entries = {"full": {}, "bald": {"verb": "active", "acquisition": "committee"}}
        with pytest.raises(RunError):
            run_classify_compare(make_study(out=tmp_path / "study", entries=entries, seeds=[0]))
        assert (tmp_path / "study" / "summary.csv").exists()
        table = pd.read_csv(tmp_path / "study" / "summary.csv")
        assert table["entry"].tolist() == ["full"]

    def test_a_dry_run_writes_nothing(self, make_study, tmp_path, capsys, study):
        run_classify_compare(make_study(out=tmp_path / "none", dry_run=True))
        assert "margin: 2 cells, 0 done, 2 to do" in capsys.readouterr().out
        assert not (tmp_path / "none").exists()

    def test_new_splits_divide_for_each_seed(self, make_study, tmp_path):
        config = make_study(out=tmp_path / "study", entries={"full": {}}, new_splits=True)
        run_classify_compare(config)
        one, other = (
            json.loads(path.read_text()) for path in sorted((tmp_path / "study").glob("cells/full/*/split.json"))
        )
        assert one["parts"] != other["parts"]
        assert not (tmp_path / "study" / "split.json").exists()


class TestPlan:
    def test_seeds_come_first(self, make_study, tmp_path):
        work = make_classifier_plan(make_study(out=tmp_path / "study"))
        assert [cell.name for cell in work.units] == [
            "full/seed-0", "random/seed-0", "margin/seed-0", "full/seed-1", "random/seed-1", "margin/seed-1",
        ]  # fmt: skip
        assert work.titles == {"full": "full", "random": "random", "margin": "Margin"}
        assert work.config(Unit("cell", "", "margin", seed=1)).seed == 1

    def test_shared_settings_go_to_the_verbs_that_have_them(self, make_study, tmp_path):
        shared = {**make_study().shared, "strategy": "scratch", "patience": 3}
        work = make_classifier_plan(make_study(out=tmp_path / "study", shared=shared))
        assert work.entries["full"].transfer == "scratch"
        assert work.entries["full"].patience == 3
        assert work.entries["random"].acquisition == "random"
        assert work.entries["random"].budget == 10

    def test_a_split_of_ones_own_is_kept(self, make_study, tmp_path, finished):
        shared = {**make_study().shared, "split": str(finished.study / "split.json")}
        work = with_split(make_classifier_plan(make_study(out=tmp_path / "study", shared=shared)))
        assert {entry.split for entry in work.entries.values()} == {finished.study / "split.json"}
        assert not (tmp_path / "study").exists()

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"entries": {}}, "has no entries"),
            ({"entries": {"a/b": {}}}, "the entry's name 'a/b'"),
            ({"entries": {"a": "active"}}, "entry 'a' is 'active'"),
            ({"entries": {"a": {"verb": "evaluate"}}}, "entry 'a': verb evaluate"),
            ({"entries": {"a": {"epochs": 0}}}, "entry 'a': .*epochs"),
            ({"entries": {"a": {"epoch": 3}}}, "entry 'a': .*epoch"),
            ({"entries": {"a": {"seed": 3}}}, "entry 'a' sets 'seed'"),
            ({"entries": {"a": {"verb": "active", "ask": "x.csv"}}}, "entry 'a' sets 'ask'"),
            ({"shared": {"colour": 3}}, "shared: no setting 'colour'"),
            ({"baseline": "nobody"}, "entry of --baseline 'nobody'"),
        ],
    )
    def test_wrong_entries_are_told(self, make_study, tmp_path, changes, match):
        with pytest.raises(UsageError, match=match):
            run_classify_compare(make_study(out=tmp_path / "study", **changes))
        assert not (tmp_path / "study").exists()


@pytest.fixture(scope="module")
def folded(make_study, tmp_path_factory):
    """Three folds, of an entry that starts from a network of the study and one that goes on from its cells."""
    others = write_discs(tmp_path_factory.mktemp("others"), 50)
    shared = {name: value for name, value in make_study().shared.items() if name not in ("batch", "budget")}
    study = make_study(
        out=tmp_path_factory.mktemp("studies") / "folded",
        folds=3,
        seeds=[0],
        pretrain={"base": {**shared, "data": str(others), "transfer": "scratch"}},
        entries={
            "second": {"weights": "from:first", "transfer": "last-block"},
            "first": {"weights": "from:base", "transfer": "freeze"},
        },
    )
    return study, run_classify_compare(study)


@pytest.fixture
def folded_copy(folded, tmp_path):
    """A copy of that study, to be spoiled, and its settings."""
    settings, done = folded
    return replace(settings, out=shutil.copytree(done.study, tmp_path / "folded"))


class TestFolds:
    def test_every_picture_is_predicted_once_by_a_network_that_has_not_seen_it(self, folded):
        _, done = folded
        split = Split.load(done.study / "folds.json")
        for label in ("first", "second"):
            tested = []
            for fold in range(3):
                run = done.study / "cells" / label / "seed-0" / f"fold-{fold}"
                here = set(pd.read_csv(run / "test" / "predictions.csv")["case"])
                patients = json.loads((run / "patients.json").read_text())
                trained = {row["case"] for part in ("train", "val") for row in patients[part]}
                assert here == set(split.parts[f"fold-{fold}"])
                assert not here & trained
                assert here | trained == set(split.patients)
                tested += sorted(here)
            assert sorted(tested) == sorted(split.patients)

    def test_metrics_are_of_all_folds_together(self, folded):
        _, done = folded
        for row in done.summary.to_dict("records"):
            files = sorted(done.study.glob(f"cells/{row['entry']}/seed-0/*/test/predictions.csv"))
            table = pd.concat(map(pd.read_csv, files))
            assert len(files) == 3
            assert row["auc"] == pytest.approx(roc_auc_score(table["truth"] == "right", table["prob_right"]))
            assert row["accuracy"] == pytest.approx((table["truth"] == table["predicted"]).mean())
            right = table["truth"] == "right"
            assert row["recall_positive"] == pytest.approx((table["predicted"][right] == "right").mean())
            assert row["positive"] == "right"
            assert row["n_seeds"] == 1

    def test_the_table_tells_how_long_each_was_trained(self, folded):
        _, done = folded
        steps = {
            label: [json.loads(path.read_text())["steps"] for path in done.study.glob(f"cells/{label}/*/*/result.json")]
            for label in ("first", "second")
        }
        assert steps["first"] == steps["second"]
        mean = np.mean(steps["first"])
        table = done.summary.set_index("entry")
        assert table["steps"].to_dict() == {"first": mean, "second": mean}
        assert table["steps_before"].to_dict() == {"first": 0, "second": mean}

    def test_entries_start_from_the_study_s_networks(self, folded):
        _, done = folded
        for fold in range(3):
            second, first = (done.study / "cells" / label / "seed-0" / f"fold-{fold}" for label in ("second", "first"))
            assert RunFolder.open(first).config(ClassifyTrainConfig).weights == str(done.study / "pretrain" / "base")
            assert RunFolder.open(second).config(ClassifyTrainConfig).weights == str(first)
            one, other = (load_classifier_network(run, "last").model.state_dict() for run in (first, second))
            changed = {name.split(".")[1] for name, value in one.items() if not torch.equal(value, other[name])}
            assert changed == {"conv3", "dense1", "dense2", "fc"}

    def test_a_missing_fold_leaves_the_entry_out_until_it_is_done(self, folded, folded_copy, begun):
        _, done = folded
        shutil.rmtree(folded_copy.out / "cells" / "second" / "seed-0" / "fold-1")
        work = with_split(make_classifier_plan(folded_copy))
        assert write_tables(work).summary["entry"].tolist() == ["first"]
        again = run_classify_compare(folded_copy)
        assert begun == [("begun", "seed-0", 0)]
        pd.testing.assert_frame_equal(again.summary, done.summary)

    def test_what_started_from_a_network_that_was_made_anew_is_made_anew(self, folded, folded_copy, begun):
        first = {**folded_copy.entries["first"], "learning_rate": 0.02}
        changed = replace(folded_copy, entries={**folded_copy.entries, "first": first})
        done = run_classify_compare(changed)
        assert len(begun) == 6
        assert all(word == "begun" for word, _, _ in begun)
        work = with_split(make_classifier_plan(changed))
        assert all(work.is_done(unit) for unit in work.units)
        assert done.summary["n_seeds"].tolist() == [1, 1]

    def test_new_splits_draw_folds_for_each_seed(self, make_study, tmp_path):
        study = make_study(out=tmp_path / "study", folds=4, new_splits=True, entries={"full": {}})
        (tmp_path / "study").mkdir()
        work = with_split(make_classifier_plan(study))
        one, other = (Split.load(tmp_path / "study" / f"folds-seed-{seed}.json") for seed in (0, 1))
        assert one.parts != other.parts
        assert len(one.parts) == len(other.parts) == 4
        assert work.config(Unit("cell", "", "full", seed=1, fold=2)).split == tmp_path / "study" / "folds-seed-1.json"

    def test_other_folds_than_those_drawn_are_refused(self, folded_copy):
        with pytest.raises(UsageError, match="the split has 3 folds"):
            run_classify_compare(replace(folded_copy, folds=4))

    def test_copies_stay_together(self, discs, make_study, tmp_path):
        data = shutil.copytree(discs, tmp_path / "discs")
        for side in SIDES:
            shutil.copy(data / side / f"{side}00.png", data / side / f"{side}99.png")
        shared = {**make_study().shared, "data": str(data)}
        (tmp_path / "study").mkdir()
        with_split(make_classifier_plan(make_study(out=tmp_path / "study", folds=5, shared=shared, entries={"a": {}})))
        split = Split.load(tmp_path / "study" / "folds.json")
        assert len(split.patients) == 30
        for side in SIDES:
            of = {
                part for part, ids in split.parts.items() for name in ids if name.endswith((f"{side}00", f"{side}99"))
            }
            assert len(of) == 1

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"folds": 2, "entries": {"a": {}}}, "--folds 2"),
            ({"folds": 30, "entries": {"a": {}}}, "class left has 14 patients for 30 folds"),
            ({"folds": 5, "entries": {"a": {"verb": "active"}}}, "active learning in 5 folds"),
            ({"folds": 5, "entries": {"a": {"fold": 1}}}, "sets 'fold'"),
            ({"folds": 5, "entries": {"a": {}, "b": {"data": "elsewhere"}}}, "different data"),
            ({"entries": {"a": {"weights": "from:b"}}}, "network of the study, in weights of 'a', 'b'"),
            ({"entries": {"a": {"weights": "from:b"}, "b": {"weights": "from:a"}}}, "cannot start from"),
            ({"entries": {"a": {"weights": "from:a"}}}, "'a' cannot start from 'a'"),
            ({"entries": {"a": {"weights": "from:b"}, "b": {"model": "2d-cnn"}}}, "starts from 'b' .2d-cnn"),
            ({"entries": {"a": {}}, "pretrain": {"a": {}}}, "'a' is an entry and under 'pretrain'"),
            ({"entries": {"a": {}}, "pretrain": {"b/c": {}}}, "the pretrain's name 'b/c'"),
            ({"entries": {"a": {}}, "pretrain": {"b": {"epoch": 1}}}, "pretrain 'b': .*epoch"),
        ],
    )
    def test_what_cannot_be_is_told_before_anything_is_written(self, make_study, tmp_path, changes, match):
        with pytest.raises(MetasegError, match=match):
            run_classify_compare(make_study(out=tmp_path / "study", **changes, dry_run=True))
        assert not (tmp_path / "study").exists()


SPACE = {"learning_rate": [0.003, 0.01, 0.03], "model_options.units1": {"low": 8, "high": 32}}


@pytest.fixture(scope="module")
def searched(make_study, tmp_path_factory):
    entries = {"plain": {}, "tuned": {"title": "Tuned", "search": SPACE}}
    study = make_study(out=tmp_path_factory.mktemp("searched") / "study", entries=entries, trials=3, seeds=[0])
    return study, run_classify_compare(study)


class TestSearch:
    def test_cells_run_with_the_best_of_the_trials(self, searched):
        folder = searched[1].study
        trials = pd.read_csv(folder / "searches" / "tuned" / "trials.csv")
        best = json.loads((folder / "searches" / "tuned" / "best.json").read_text())
        assert trials["trial"].tolist() == [0, 1, 2]
        assert trials.loc[0, "learning_rate"] == 0.01, "as given"
        assert trials.loc[0, "model_options.units1"] == 32, "the network's 64, or what lies nearest"
        assert best["value"] == trials["value"].max()
        run = load_config(ClassifyTrainConfig, folder / "cells" / "tuned" / "seed-0" / "config.yaml")
        row = trials.loc[best["trial"]]
        assert (run.learning_rate, run.model_options) == (
            row["learning_rate"], {"units1": row["model_options.units1"]},
        )  # fmt: skip
        plain = load_config(ClassifyTrainConfig, folder / "cells" / "plain" / "seed-0" / "config.yaml")
        assert (plain.learning_rate, plain.model_options) == (0.01, {})

    def test_trials_never_see_the_test_part(self, searched):
        folder = searched[1].study
        trials = list((folder / "searches" / "tuned" / "trials").iterdir())
        assert len(trials) == 3
        for run in trials:
            assert not (run / "test").exists()
            assert load_config(ClassifyTrainConfig, run / "config.yaml").seed == 1000

    def test_what_was_found_is_tabled(self, searched):
        table = pd.read_csv(searched[1].study / "searches.csv")
        assert table["setting"].tolist() == list(SPACE)
        trials = pd.read_csv(searched[1].study / "searches" / "tuned" / "trials.csv")
        assert set(table["value_given"]) == {trials["value"][0]}
        assert set(table["value_found"]) == {trials["value"].max()}

    def test_what_is_done_is_not_done_again_and_the_dry_run_knows(self, searched, begun, capsys):
        run_classify_compare(replace(searched[0], dry_run=True))
        told = capsys.readouterr().out
        assert told.count("1 done, 0 to do") == 2
        assert "best learning_rate=" in told
        run_classify_compare(searched[0])
        assert begun == []

    def test_more_trials_go_on_where_the_search_ended(self, searched, tmp_path, begun):
        shutil.copytree(searched[1].study, tmp_path / "study")
        run_classify_compare(replace(searched[0], out=tmp_path / "study", trials=4))
        assert next(seed for _, _, seed in begun) == 1000
        assert sum(seed == 1000 for _, _, seed in begun) == 1
        assert json.loads((tmp_path / "study" / "searches" / "tuned" / "best.json").read_text())["trials"] == 4

    def test_a_search_that_was_cut_off_goes_on(self, searched, tmp_path, monkeypatch, begun):
        spy, study = cells._run, replace(searched[0], out=tmp_path / "study")

        def cut_off(config, show):
            if len(begun) == 2:
                raise KeyboardInterrupt
            spy(config, show)

        monkeypatch.setattr(cells, "_run", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run_classify_compare(study)
        monkeypatch.setattr(cells, "_run", spy)
        again = run_classify_compare(study)
        assert len(begun) == 3 + 2
        pd.testing.assert_frame_equal(again.summary, searched[1].summary)

    def test_without_trials_nothing_is_searched(self, make_study, tmp_path):
        entries = {"tuned": {"search": SPACE}}
        plan = make_classifier_plan(make_study(out=tmp_path / "study", entries=entries))
        assert not plan.searches
        assert plan.entries["tuned"].model_options == {}

    @pytest.mark.parametrize(
        ("entry", "changes", "match"),
        [
            ({"search": {"epoch": [1]}}, {}, "entry 'one': search: 'epoch' is no setting to search"),
            ({"search": {"model_options.units3": [1, 2]}}, {}, "model_options.units3"),
            ({"search": {"model_options.dropout": [0.1, 1.5]}}, {}, "dropout: Input should be less than 1"),
            ({"search": {"model": ["lau-cnn"], "model_options.units1": [8]}}, {}, "'model' is searched together"),
            ({"search": {"learning_rate": 0.1}}, {}, "the space of 'learning_rate' is 0.1"),
            ({"search": "other"}, {}, "the space of entry 'one': search is 'other'"),
            ({"search": {}}, {}, "entry 'one': search is empty"),
            ({"search": {}, "verb": "active"}, {}, "an entry with verb active"),
            ({"search": {}}, {"new_splits": True}, "beside new_splits: it would see patients that are tested"),
            ({"search": SPACE}, {"folds": 3}, "beside folds"),
        ],
    )
    def test_wrong_searches_are_told(self, make_study, tmp_path, entry, changes, match):
        with pytest.raises(UsageError, match=match):
            run_classify_compare(make_study(out=tmp_path / "study", entries={"one": entry}, trials=2, **changes))
        assert not (tmp_path / "study").exists()


class TestDryRun:
    def test_knows_what_is_done_on_the_study_own_division(self, finished, make_study, capsys):
        run_classify_compare(make_study(out=finished.study, dry_run=True))
        assert capsys.readouterr().out.count("2 done, 0 to do") == 3

    @pytest.mark.parametrize("seeds", [(3, 3), (-1, 2)])
    def test_refuses_seeds_that_are_none_or_stand_twice(self, make_study, seeds):
        with pytest.raises(UsageError, match=r"(?s)'seeds' is .* that differ"):
            make_classifier_plan(make_study(seeds=seeds))

    @pytest.mark.parametrize(
        ("space", "message"),
        [
            ({"weights": ["none", "from:one"]}, "cannot read the weights"),
            ({"weights": ["none", "imagenet"]}, "no ImageNet weights for the classifier"),
            ({"transfer": ["scratch", "freeze"]}, "--transfer freeze without --weights"),
        ],
        ids=str,
    )
    def test_refuses_values_of_a_search_that_no_trial_could_take(self, make_study, tmp_path, space, message):
        entry = {"model": "2d-cnn", "transfer": "scratch" if "transfer" in space else "finetune", "search": space}
        study = make_study(entries={"one": entry}, out=tmp_path / "study", dry_run=True, trials=2)
        with pytest.raises(MetasegError, match=f"(?s)entry 'one': .*{message}"):
            run_classify_compare(study)

    def test_refuses_folds_of_entries_on_different_phantoms(self, make_study, tmp_path):
        entries = {name: {"phantoms": name} for name in ("four-class", "yes-no")}
        study = make_study(shared={}, entries=entries, out=tmp_path / "study", folds=3)
        with pytest.raises(UsageError, match="'folds' divides the patients of one set"):
            make_classifier_plan(study)

    def test_refuses_a_search_whose_split_has_no_validation_part(self, make_study, finished, tmp_path):
        split = json.loads((finished.study / "split.json").read_text())
        split["parts"]["train"] += split["parts"].pop("val")
        (tmp_path / "split.json").write_text(json.dumps(split))
        entry = {"search": SPACE, "split": str(tmp_path / "split.json")}
        study = make_study(entries={"one": entry}, out=tmp_path / "study", dry_run=True, trials=2)
        with pytest.raises(UsageError, match="entry 'one': there is no validation part"):
            run_classify_compare(study)

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ({"data": "nowhere"}, "does not exist"),
            ({"classes": ["left", "up"]}, "unknown class of --classes 'up'"),
            ({"label": "colour"}, "--label colour"),
            ({"model": "mobilenetv"}, "unknown classifier 'mobilenetv'"),
            ({"weights": "nowhere.pth"}, "cannot read the weights"),
            ({"split": "nowhere.json"}, "nowhere.json"),
            ({"fold": 2}, "--fold without --split"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
    )
    def test_refuses_what_the_run_would_refuse_and_writes_nothing(self, make_study, tmp_path, entry, message):
        study = make_study(entries={"one": entry}, out=tmp_path / "study", dry_run=True)
        with pytest.raises(MetasegError) as caught:
            run_classify_compare(study)
        assert message in str(caught.value)
        assert not (tmp_path / "study").exists()


COMMITTEE = {
    "verb": "active", "acquisition": "committee", "initial": 0.3, "batch": 0.3, "budget": 1, "rounds": 2, "rank": "all",
    "fit": "reset", "fit_on": "chosen",
}  # fmt: skip
TOP, CHANCE = COMMITTEE | {"drop_bottom": 0.5}, COMMITTEE | {"draw": "random", "drop_top": 0.1}


class TestSharedRanking:
    """Cells that differ in the draw alone take the ranking of the first of them."""

    @pytest.fixture
    def fits(self, monkeypatch):
        seen, real = [], active.fit_round
        monkeypatch.setattr(active, "fit_round", lambda *args, **named: seen.append(1) or real(*args, **named))
        return seen

    def test_one_committee_ranks_for_all_of_a_seed(self, make_study, tmp_path, fits):
        entries = {"top": TOP, "chance": CHANCE, "other": CHANCE | {"learning_rate": 0.02}}
        together = run_classify_compare(make_study(out=tmp_path / "together", entries=entries, seeds=[0]))
        assert len(fits) == 5 + 1 + 5
        alone = run_classify_compare(make_study(out=tmp_path / "alone", entries={"chance": CHANCE}, seeds=[0]))
        assert len(fits) == 11 + 5
        files = ("curve.csv", "metrics.csv", "test/predictions.csv", "rounds/uncertainty-002.csv")
        for name in files:
            cell = Path("cells", "chance", "seed-0", name)
            assert (together.study / cell).read_text() == (alone.study / cell).read_text(), name

    def test_what_is_done_stays_done_when_an_entry_comes_before_it(self, make_study, tmp_path, fits):
        run_classify_compare(make_study(out=tmp_path / "study", entries={"chance": CHANCE}, seeds=[0]))
        both = {"top": TOP, "chance": CHANCE}
        run_classify_compare(make_study(out=tmp_path / "study", entries=both, seeds=[0]))
        assert len(fits) == 10
        run_classify_compare(make_study(out=tmp_path / "study", entries=both, seeds=[0]))
        assert len(fits) == 10
