from __future__ import annotations

import csv
import json
import shutil
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import metaseg
from metaseg.adapt import choice, folds
from metaseg.adapt.choice import best_row, judged_parts, read_choice, read_trials, thinned
from metaseg.adapt.methods.registry import chosen_settings, resolve_defaults, stages_of
from metaseg.adapt.setup import prepare_setup
from metaseg.config.segmentation import MetatuneConfig, NaivetuneConfig, TuneConfig
from metaseg.errors import TrainingError, UsageError
from metaseg.runs.folder import RunFolder
from metaseg.runs.networks import load_network, read_patients

TINY: dict[str, Any] = {"shots": 3, "slices": 4, "budget": 40, "marks": 1, "pictures": False, "gate": False}
dice = st.floats(0, 1)


def weights(run):
    return torch.cat([p.flatten() for p in load_network(run, "last").model.parameters()])


def rows(run, name="choice.csv"):
    return list(csv.DictReader((run / name).open()))


@pytest.fixture
def source(write_cases):
    return write_cases("HGG", 5)


@pytest.fixture(scope="module")
def chosen(pretrained, write_cases, tmp_path_factory):
    out = tmp_path_factory.mktemp("chosen") / "r"
    return metaseg.tune(**pretrained, source=write_cases("HGG", 5), **TINY, effort="quick", out=out)


class TestRule:
    @given(st.lists(st.tuples(dice, dice), min_size=1, max_size=8), dice, dice)
    def test_no_row_within_the_bound_has_a_higher_target(self, pairs, before, bound):
        table = pd.DataFrame(pairs, columns=["target", "source"]).assign(forgotten=lambda t: before - t["source"])
        taken = table.iloc[best_row(table, bound)]
        kept = table[table["forgotten"] <= bound]
        if len(kept):
            assert taken["forgotten"] <= bound
            assert taken["target"] == kept["target"].max()
        else:
            assert taken["forgotten"] == table["forgotten"].min()

    @given(st.lists(st.tuples(dice, dice), min_size=1, max_size=8))
    def test_balanced(self, pairs):
        table = pd.DataFrame(pairs, columns=["target", "source"]).assign(forgotten=0.0)
        assert table.iloc[best_row(table, 0, balance=True)].sum() == pytest.approx(table.sum(axis=1).max())

    def test_what_diverged_is_never_taken(self):
        nan = float("nan")
        table = pd.DataFrame({"target": [nan, 0.1], "source": [nan, 0.1], "forgotten": [nan, 0.9]})
        assert best_row(table, 0.05) == best_row(table, 0.05, balance=True) == 1
        with pytest.raises(ValueError, match="no row"):
            best_row(table.iloc[:1], 0.05)

    def test_without_a_source_the_target_alone_decides(self):
        table = pd.DataFrame({"target": [0.2, 0.4], "source": [np.nan] * 2, "forgotten": [np.nan] * 2})
        assert best_row(table, 0.0) == best_row(table, 0.0, balance=True) == 1


class TestSettings:
    def test_what_is_given_is_kept(self):
        assert chosen_settings(TuneConfig(effort="none")) == set()
        every = chosen_settings(TuneConfig())
        assert {"learning_rate", "recall_weight", "replay_fraction", "replay_weight", "interpolation"} <= every
        given = TuneConfig(learning_rate=0.1, interpolation=0.5, replay_weight=2.0)
        assert chosen_settings(given) == every - {"learning_rate", "interpolation", "replay_weight"}
        resolved = resolve_defaults(given)
        assert (resolved.learning_rate, resolved.recall_weight, resolved.ema) == (0.1, None, 0.99)
        assert resolve_defaults(TuneConfig(effort="none")).recall_weight == 0.7

    def test_nothing_to_choose_is_no_effort(self):
        settings = {name: value for stage in stages_of(TuneConfig()) for name, value in stage.values[0].items()}
        assert resolve_defaults(TuneConfig(**settings, interpolation=1.0)).effort == "none"
        assert resolve_defaults(TuneConfig(**settings)).effort == "normal"
        assert resolve_defaults(NaivetuneConfig()).effort == "none"

    def test_a_run_of_a_release_that_chose_nothing_goes_on(self, pretrained, source, tmp_path, monkeypatch, call):
        settings = {**pretrained, **TINY, "source": source, "marks": 4, "out": tmp_path / "r"}
        whole = metaseg.tune(**settings | {"out": tmp_path / "whole"}, effort="none")
        mark = metaseg.adapt.watch.Watch.mark

        def cut_off(self, model, spent, update):
            if spent > 20:
                raise KeyboardInterrupt
            return mark(self, model, spent, update)

        with monkeypatch.context() as patch:
            patch.setattr(metaseg.adapt.watch.Watch, "mark", cut_off)
            with pytest.raises(KeyboardInterrupt):
                metaseg.tune(**settings, effort="none")
        lines = (tmp_path / "r" / "config.yaml").read_text().splitlines(keepends=True)
        later = ("effort:", "forget_at_most:", "balance:", "val_part:", "replay_recall_weight:")
        (tmp_path / "r" / "config.yaml").write_text("".join(line for line in lines if not line.startswith(later)))
        assert len(lines) - len((tmp_path / "r" / "config.yaml").read_text().splitlines()) == len(later)
        state = json.loads((tmp_path / "r" / "state.json").read_text())
        (tmp_path / "r" / "state.json").write_text(json.dumps(state | {"settings": None}))
        assert call("tune", "--out", tmp_path / "r", "--resume")[0] == 0
        again = folds.cross_validated_result(RunFolder.open(tmp_path / "r"))
        assert (again.choice, again.after) == (None, whole.after)
        assert torch.equal(weights(again.run), weights(whole.run))

    def test_less_effort_tries_less(self):
        quick, normal = (chosen_settings(TuneConfig(effort=effort)) for effort in ("quick", "normal"))
        assert quick < normal
        assert chosen_settings(NaivetuneConfig(effort="quick")) == {"learning_rate", "interpolation"}
        assert "outer_learning_rate" in chosen_settings(MetatuneConfig(effort="quick"))


class TestParts:
    def setup_of(self, pretrained, source, tmp_path, **settings):
        settings = {**TINY, **pretrained, "data": (pretrained["data"],), "source": (source,), **settings}
        return prepare_setup(TuneConfig(**settings, effort="normal"), draws_from_source=True)

    def test_whom_a_part_is_judged_by_it_does_not_see(self, pretrained, source, tmp_path):
        setup = self.setup_of(pretrained, source, tmp_path)
        assert {case.patient for case in setup.choosers} == load_network(pretrained["from_run"]).seen.validated
        parts = judged_parts(setup, 5)
        assert len(parts) == 3
        for part in parts:
            tuned_on = {shot.case.patient for shot in part.shots} | {case.patient for case in part.source_cases}
            assert tuned_on.isdisjoint(case.patient for case in [*part.target, *part.source])
        assert sorted(case.id for part in parts for case in part.target) == sorted(s.case.id for s in setup.shots)

    def test_slices_are_held_out_of_one_or_two_patients(self, pretrained, source, tmp_path):
        setup = self.setup_of(pretrained, source, tmp_path, shots=2)
        parts = judged_parts(setup, 2)
        for number, shot in enumerate(setup.shots):
            held_out = [part.target.cases[number].outlined.tolist() for part in parts]
            assert sorted(number for part in held_out for number in part) == shot.slices.tolist()
            for part, judged in zip(parts, held_out, strict=True):
                assert set(part.shots[number].slices.tolist()) == set(shot.slices.tolist()) - set(judged)

    def test_trained_patients_judge_where_none_validated(self, pretrained, source, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("metaseg.adapt.setup.source_to_choose_by", lambda *arguments: [])
        setup = self.setup_of(pretrained, source, tmp_path)
        assert "without rehearsing them" in capsys.readouterr().out
        assert len(setup.choosers) == 1
        for part in judged_parts(setup, 2):
            assert {case.id for case in setup.choosers}.isdisjoint(case.id for case in part.source_cases)
            assert len(part.source_cases) == len(setup.source_cases) - 1

    def test_a_long_scan_judges_by_slices_over_its_length(self, pretrained, source, tmp_path, monkeypatch):
        monkeypatch.setattr(choice, "MOST_SLICES", 3)
        case = self.setup_of(pretrained, source, tmp_path).shots[0].case
        view = thinned(case)
        assert view.outlined.tolist() == [0, round((case.num_slices - 1) / 2), case.num_slices - 1]
        assert len(case.outlined) == case.num_slices


class TestRun:
    def test_every_stage_is_tried_and_told(self, chosen):
        table = pd.DataFrame(rows(chosen.run)).drop(columns="stage").apply(pd.to_numeric, errors="coerce")
        trials = table.groupby("trial")[["recall_weight", "replay_fraction", "replay_weight"]].first()
        assert trials.iloc[:3].to_numpy().tolist() == [[0.7, 0.25, 0.7], [0.5, 0.25, 0.7], [0.85, 0.25, 0.7]]
        assert trials.iloc[3:, 1:].to_numpy().tolist() == [[0.5, 1.0], [0.25, 0.3]]
        mean = table.groupby("trial")[["target", "source"]].apply(lambda part: part.mean(axis=1).max())
        taken = trials.loc[mean.idxmax()].to_dict()
        assert chosen.choice["settings"] == taken
        assert chosen.choice["slice_gradients"] == 5 * 2 * 24
        recalls = mean.iloc[:3].to_numpy()
        assert set(trials.iloc[3:, 0]) == {trials.iloc[int(recalls.argmax()), 0]}

    def test_the_network_is_tuned_with_what_was_chosen(self, chosen, pretrained, source, tmp_path):
        way = chosen.choice["way_back"]["interpolation"]
        given = {**chosen.choice["settings"], "interpolation": way, "effort": "none"}
        plain = metaseg.tune(**pretrained, source=source, **TINY, **given, out=tmp_path / "r")
        assert torch.equal(weights(chosen.run), weights(plain.run))
        assert chosen.after == plain.after
        assert plain.choice is None

    def test_the_way_back_keeps_the_rule_on_this_network(self, chosen):
        ways = pd.DataFrame(chosen.choice["ways"])
        taken = ways.iloc[best_row(ways, 0.05)]
        assert taken["interpolation"] == chosen.choice["way_back"]["interpolation"]
        # Here all patients that validated the pretraining are watched and choose.
        before = chosen.before["dice/source/WT"]
        regions = [name for name in chosen.after if name.startswith("dice/source/")]
        forgotten = np.mean([chosen.before[name] - chosen.after[name] for name in regions])
        assert before is not None
        assert taken["forgotten"] == pytest.approx(forgotten, abs=1e-6)

    def test_who_chose_is_known(self, chosen, pretrained):
        validated = load_network(pretrained["from_run"]).seen.validated
        assert {row.patient for row in read_patients(chosen.run)["val"]} == validated
        assert load_network(chosen.run).seen.validated == validated

    def test_read_back_and_reported(self, chosen, tmp_path):
        trials = read_trials(chosen.run)
        assert (len(trials), trials["chosen"].sum()) == (5, 1)
        taken = trials[trials["chosen"]].iloc[0]
        assert taken["settings"] == choice.settings_text(chosen.choice["settings"])
        assert [taken[name] for name in choice.METRICS] == [pytest.approx(chosen.choice[n]) for n in choice.METRICS]
        assert read_choice(chosen.run) == chosen.choice
        assert read_trials(tmp_path) is read_choice(tmp_path) is None
        page = metaseg.report(chosen.run, out=tmp_path / "page.html", worst=0, figures=False).page.read_text()
        assert "Choice of settings" in page
        assert "240 slice gradients beside the run" in page

    def test_killed_anywhere_it_makes_the_same_choice(self, chosen, pretrained, source, tmp_path, monkeypatch):
        finish, calls = metaseg.adapt.watch.Watch.finish, []

        def cut_off(*arguments):
            calls.append(1)
            if len(calls) in (2, 7, 14):
                raise KeyboardInterrupt
            finish(*arguments)

        monkeypatch.setattr(metaseg.adapt.watch.Watch, "finish", cut_off)
        settings = {**pretrained, **TINY, "source": source, "effort": "quick", "out": tmp_path / "r"}
        for resume in (False, True, True):
            with pytest.raises(KeyboardInterrupt):
                metaseg.tune(**settings, resume=resume)
        again = metaseg.tune(**settings, resume=True)
        assert again.choice == chosen.choice
        assert torch.equal(weights(again.run), weights(chosen.run))
        assert (again.run / "choice.csv").read_text() == (chosen.run / "choice.csv").read_text()

    def test_what_diverges_is_passed_over(self, pretrained, source, tmp_path, monkeypatch, capsys):
        tune_inside = choice.tune_inside

        def diverge(session, name, config, *others):
            if name.startswith(diverging):
                raise TrainingError("the loss became nan")
            return tune_inside(session, name, config, *others)

        monkeypatch.setattr(choice, "tune_inside", diverge)
        settings = {**pretrained, **TINY, "effort": "quick", "learning_rate": None}
        diverging = "choice/trial-1/"
        run = metaseg.naivetune(**settings, out=tmp_path / "a")
        assert "trial-1/fold-0: the loss became nan" in capsys.readouterr().out
        assert run.choice["settings"]["learning_rate"] != 1e-4
        diverging = "choice/trial"
        with pytest.raises(TrainingError, match="every tuning of the choice diverged"):
            metaseg.naivetune(**settings, out=tmp_path / "b")

    def test_patients_whom_the_network_knows_judge_nothing(self, pretrained, source, tmp_path):
        known = tmp_path / "HGG"
        for row in read_patients(pretrained["from_run"])["train"]:
            shutil.copytree(source / row.case, known / row.case)
        settings = {**pretrained, **TINY, "data": known, "source": source, "effort": "quick", "out": tmp_path / "r"}
        with pytest.warns(UserWarning, match="not watched"), pytest.raises(UsageError, match="none of them can judge"):
            metaseg.tune(**settings)

    def test_from_random_weights_there_is_no_way_back(self, pretrained, tmp_path):
        run = metaseg.naivetune(**pretrained, **TINY, method="scratch", effort="quick", out=tmp_path / "r")
        assert "way_back" not in run.choice
        assert {row["interpolation"] for row in rows(run.run)} == {"1.0"}

    def test_meta_tuning_chooses_likewise(self, pretrained, tmp_path):
        settings = {**pretrained, **TINY, "verify_engine": False, "first_order": True, "forget_at_most": 1.0}
        run = metaseg.metatune(**settings, effort="quick", interpolation=0.5, out=tmp_path / "r")
        assert set(run.choice["settings"]) == {"outer_learning_rate"}
        assert "way_back" not in run.choice
        assert json.loads((run.run / "result.json").read_text())["choice"] == run.choice
