from __future__ import annotations

import json
from dataclasses import replace

import pytest

from metaseg.adapt.setup import draw_shots, prepare_setup
from metaseg.cases.splits import make_split
from metaseg.config.segmentation import MetatuneConfig, NaivetuneConfig
from metaseg.errors import DataError, RunError, UsageError
from metaseg.store.prepare import open_data


def config(pretrained, kind=MetatuneConfig, **changes):
    settings = {
        **pretrained,
        "data": (pretrained["data"],),
        "from_run": str(pretrained["from_run"]),
        "shots": 2,
        "slices": 4,
    }
    return kind(**(settings | changes))


class TestSetup:
    def test_all_methods_see_the_same_patients_and_slices(self, pretrained):
        one = prepare_setup(config(pretrained, seed=4))
        other = prepare_setup(config(pretrained, NaivetuneConfig, seed=4))
        for a, b in zip(one.shots, other.shots, strict=True):
            assert a.case.id == b.case.id
            assert a.slices.tolist() == b.slices.tolist()
        assert [case.id for case in one.target] == [case.id for case in other.target]

    def test_no_shot_is_watched_and_no_trained_patient_is_source(self, pretrained):
        setup = prepare_setup(config(pretrained))
        shots = {shot.case.patient for shot in setup.shots}
        assert shots.isdisjoint(case.patient for case in setup.target)
        assert len(setup.target) == 3
        patients = json.loads((pretrained["from_run"] / "patients.json").read_text())
        assert {case.id for case in setup.source} == {row["case"] for row in patients["val"]}
        assert setup.network.trained_patients.isdisjoint(case.patient for case in setup.source)

    def test_named_source_leaves_out_what_was_trained_on(self, pretrained, write_cases):
        setup = prepare_setup(config(pretrained, source=(write_cases("HGG", 5),)))
        assert setup.network.trained_patients.isdisjoint(case.patient for case in setup.source)
        assert len(setup.source) == 2

    def test_split_gives_shots_and_watched_cases(self, pretrained, tmp_path):
        store = open_data([pretrained["data"]], cache=pretrained["cache"])
        split = make_split(store.cases, parts={"train": 2, "test": 3}, stratify=None)
        split.save(tmp_path / "s.json")
        setup = prepare_setup(config(pretrained, split=tmp_path / "s.json"))
        assert {shot.case.id for shot in setup.shots} == set(split.parts["train"])
        assert {case.id for case in setup.target} == set(split.parts["test"])

    def test_split_of_the_target_alone_leaves_the_source_whole(self, pretrained, write_cases, tmp_path):
        store = open_data([pretrained["data"]], cache=pretrained["cache"])
        make_split(store.cases, parts={"train": 2, "test": 3}, stratify=None).save(tmp_path / "s.json")
        source = {"source": (write_cases("HGG", 5),), "split": tmp_path / "s.json"}
        for classes in ((), ("HGG",)):
            assert len(prepare_setup(config(pretrained, **source, source_classes=classes)).source) == 2

    def test_shots_differ_with_the_seed_and_bear_tumour(self, pretrained):
        store = open_data([pretrained["data"]], cache=pretrained["cache"])
        drawn = {tuple(shot.case.id for shot in draw_shots(store, 2, 4, seed)) for seed in range(8)}
        assert len(drawn) > 1
        for shot in draw_shots(store, 3, 4, 0):
            assert len(shot.slices) == 4
            assert (shot.case.areas()[shot.slices, 1:].sum(axis=1) > 0).all()

    def test_watch_cases_limits_what_is_evaluated(self, pretrained):
        assert len(prepare_setup(config(pretrained, watch_cases=1)).target) == 1
        assert len(prepare_setup(config(pretrained, watch_cases=0)).target) == 3


class TestBadInput:
    def test_more_shots_than_patients(self, pretrained):
        with pytest.raises(UsageError, match="--shots is 9, but the target has only 5 patients"):
            prepare_setup(config(pretrained, shots=9))

    def test_no_such_run(self, pretrained, tmp_path):
        with pytest.raises(RunError, match="no such run"):
            prepare_setup(config(pretrained, from_run=str(tmp_path / "none")))

    def test_other_modalities_than_the_network(self, pretrained):
        with pytest.raises(UsageError, match="differ from the network"):
            prepare_setup(config(pretrained, modalities=("t1",)))

    def test_whole_lesion_labels_for_a_subregion_network(self, pretrained):
        with pytest.raises(DataError, match="unexpected label values"):
            prepare_setup(config(pretrained, label_scheme="whole-lesion", cache=None))


class TestShots:
    def test_all_are_those_with_tumour_and_none_is_left_to_watch(self, pretrained, capsys):
        setup = prepare_setup(config(pretrained, shots="all"))
        assert len(setup.shots) == 5
        assert not len(setup.target)
        assert "All target patients are tuned on: none is left to watch, and --folds" in capsys.readouterr().out

    def test_all_of_a_part(self, pretrained, tmp_path):
        store = open_data([pretrained["data"]], cache=pretrained["cache"])
        split = make_split(store.cases, parts={"train": 3, "test": 2}, stratify=None)
        split.save(tmp_path / "s.json")
        setup = prepare_setup(config(pretrained, shots="all", split=tmp_path / "s.json"))
        assert {shot.case.id for shot in setup.shots} == set(split.parts["train"])
        assert {case.id for case in setup.target} == set(split.parts["test"])

    def test_too_few_names_the_split_and_its_part(self, pretrained, tmp_path):
        store = open_data([pretrained["data"]], cache=pretrained["cache"])
        make_split(store.cases, parts={"train": 3, "test": 2}, stratify=None).save(tmp_path / "s.json")
        with pytest.raises(UsageError, match="--shots is 5, but the target has only 3 patients") as caught:
            prepare_setup(config(pretrained, shots=5, split=tmp_path / "s.json"))
        assert caught.value.where == f"{tmp_path / 's.json'}, part 'train' with 3 of 5 patients"
        for remedy in ("--shots all", "--folds", "--train-part", "metaseg data split"):
            assert remedy in caught.value.remedy

    def test_too_few_without_a_split_names_the_data(self, pretrained):
        with pytest.raises(UsageError) as caught:
            prepare_setup(config(pretrained, shots=9))
        assert caught.value.where == str(pretrained["data"])
        assert "--shots all" in caught.value.remedy

    def test_no_patient_with_tumour(self, pretrained):
        store = open_data([pretrained["data"]], cache=pretrained["cache"])
        for shots in (1, "all"):
            with pytest.raises(UsageError, match="the target has no patients with tumour"):
                draw_shots(replace(store, cases=()), shots, 4, 0)


@pytest.mark.parametrize("name", ["split", "source_split", "patients", "source"])
def test_what_does_not_exist_is_refused_before_anything_is_trained(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("metaseg.adapt.setup.run_pretrain", lambda config: pytest.fail("it pretrains first"))
    value = (tmp_path / "nowhere",) if name == "source" else tmp_path / "nowhere"
    with pytest.raises(DataError, match=f"what --{name.replace('_', '-')} names does not exist") as caught:
        prepare_setup(NaivetuneConfig(**{name: value}))
    assert caught.value.where == tmp_path / "nowhere"
