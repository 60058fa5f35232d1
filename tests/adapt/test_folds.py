from __future__ import annotations

import csv
import json
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.model_selection import LeaveOneOut

import metaseg
from metaseg.adapt import folds
from metaseg.adapt.folds import divide_shots
from metaseg.errors import RunError, UsageError
from metaseg.runs.folder import RunFolder
from metaseg.runs.networks import load_network, read_patients

TINY: dict[str, Any] = {
    "shots": "all",
    "slices": 4,
    "budget": 12,
    "marks": 1,
    "pictures": False,
    "verify_engine": False,
}
PLAIN = {name: value for name, value in TINY.items() if name != "verify_engine"}


def rows(run, name):
    return list(csv.DictReader((run / name).open()))


def weights(run):
    return torch.cat([p.flatten() for p in load_network(run).model.parameters()])


@pytest.fixture(scope="module")
def folded(pretrained, tmp_path_factory):
    """Five patients, all of them shots, cross-validated by leaving one out; no target patient is left to watch."""
    out = tmp_path_factory.mktemp("folded") / "r"
    return metaseg.naivetune(**pretrained, **PLAIN, folds="leave-one-out", out=out)


class TestLeaveOneOut:
    def test_each_patient_is_judged_once_by_a_network_that_was_not_tuned_on_it(self, folded):
        shots = {row.patient for row in read_patients(folded.run)["train"]}
        judged = [row for row in rows(folded.run, "cross_validation.csv") if row["domain"] == "target"]
        assert len(shots) == 5
        assert sorted({row["patient"] for row in judged}) == sorted(shots)
        for fold in {row["fold"] for row in judged}:
            [held_out] = {row["patient"] for row in judged if row["fold"] == fold}
            run = folded.run / "folds" / f"fold-{fold}"
            assert {row.patient for row in read_patients(run)["train"]} == shots - {held_out}
            chosen = {row["patient"] for row in rows(run, "selection.csv")}
            assert chosen
            assert held_out not in chosen

    def test_figures_are_the_folds_own_marks_and_their_means(self, folded):
        table = rows(folded.run, "cross_validation.csv")
        for row in table:
            marks = rows(folded.run / "folds" / f"fold-{row['fold']}", "marks.csv")
            ends = [m["dice"] for m in marks if m["case"] == row["case"] and m["region"] == row["region"]]
            assert [row["before"], row["after"]] == [ends[0], ends[-1]]
        found = folded.cross_validated
        assert found.folds == 5
        for name, mean in found.after.items():
            _, domain, region = name.split("/")
            dice = [float(r["after"]) for r in table if (r["domain"], r["region"]) == (domain, region) and r["after"]]
            assert mean == pytest.approx(np.mean(dice))
        lost = found.before["dice/source/WT"] - found.after["dice/source/WT"]
        assert found.forgetting["forgetting/WT"] == pytest.approx(lost)
        assert folded.table()["cross_validated"].notna().any()
        listed = RunFolder.open(folded.run).state.metrics
        assert listed["cross_validated/target/WT"] == found.after["dice/target/WT"]

    def test_the_network_of_the_run_is_tuned_on_all_as_without_folds(self, folded, pretrained, tmp_path, capsys):
        plain = metaseg.naivetune(**pretrained, **PLAIN, out=tmp_path / "r")
        assert "All target patients are tuned on" in capsys.readouterr().out
        assert torch.equal(weights(folded.run), weights(plain.run))
        assert plain.cross_validated is None
        assert set(plain.before) == {name for name in folded.before if name.startswith("dice/source/")}
        assert not torch.equal(weights(folded.run), weights(folded.run / "folds" / "fold-0"))

    def test_evaluate_judges_each_patient_by_its_fold(self, folded, pretrained, write_cases, tmp_path, capsys):
        settings = {"cache": pretrained["cache"], "tta": False, "surface": False, "pictures": 0, "jobs": 1}
        data = [pretrained["data"], write_cases("HGG", 5)]
        found = metaseg.evaluate(folded.run, data=data, out=tmp_path / "e", **settings)
        assert "5 cases are of patients that the network was tuned on" in capsys.readouterr().out
        after = found.cases[found.cases["network"] == "after"].set_index(["case", "target"])["dice"]
        for row in rows(folded.run, "cross_validation.csv"):
            if row["domain"] == "target":
                assert after[row["case"], row["region"]] == pytest.approx(float(row["after"] or "nan"), nan_ok=True)
        for mark in rows(folded.run, "marks.csv"):
            if mark["step"] == "12":
                assert after[mark["case"], mark["region"]] == pytest.approx(float(mark["dice"] or "nan"), nan_ok=True)
        groups = found.cohorts.groupby("cohort")["cross_validated"].unique()
        assert {name: list(kinds) for name, kinds in groups.items()} == {"MET": [True], "HGG": [False]}
        assert list(found.changes.groupby("cohort")["cross_validated"].first()) == [False, True]
        own = metaseg.evaluate(folded.run, data=data, out=tmp_path / "own", include_training=True, **settings)
        assert "cross_validated" not in own.cases
        assert own.cases.set_index("case")["trained_on"].groupby("case").first().sum() == 5 + 3

    def test_told_on_the_console(self, folded, capsys):
        folds.cross_validated_result(RunFolder.open(folded.run))
        told = capsys.readouterr().out
        assert "Cross-validated by 5 folds" in told
        for row in read_patients(folded.run)["train"]:
            assert row.patient in told


class TestFolds:
    def test_divided_as_scikit_learn_does(self):
        left_out = [tuple(test.tolist()) for _, test in LeaveOneOut().split(range(4))]
        assert divide_shots(4, "leave-one-out") == left_out
        assert sorted(number for fold in divide_shots(7, 3) for number in fold) == list(range(7))
        assert {len(fold) for fold in divide_shots(7, 3)} == {2, 3}

    def test_killed_anywhere_it_goes_on_to_the_same_figures(self, pretrained, tmp_path, monkeypatch):
        settings = {**pretrained, **TINY, "shots": 3, "folds": 3}
        whole = metaseg.metatune(**settings, out=tmp_path / "whole")
        calls = []
        tune = metaseg.adapt.metatune.Watch.finish

        def cut_off(*arguments):
            calls.append(1)
            if len(calls) in (1, 3, 5):
                raise KeyboardInterrupt
            tune(*arguments)

        monkeypatch.setattr(metaseg.adapt.metatune.Watch, "finish", cut_off)
        for resume in (False, True, True):
            with pytest.raises(KeyboardInterrupt) as caught:
                metaseg.metatune(**settings, out=tmp_path / "r", resume=resume)
            assert caught.value.__notes__ == [f"To continue: metaseg metatune --out {tmp_path / 'r'} --resume"]
        again = metaseg.metatune(**settings, out=tmp_path / "r", resume=True)
        assert len(calls) == 3 + 4
        assert (again.cross_validated, again.after) == (whole.cross_validated, whole.after)
        for name in ("cross_validation.csv", "marks.csv", "patients.json", "folds/fold-1/selection.csv"):
            assert (tmp_path / "r" / name).read_text() == (tmp_path / "whole" / name).read_text()
        assert torch.equal(weights(tmp_path / "r"), weights(tmp_path / "whole"))
        assert len(json.loads((tmp_path / "r" / "manifest.json").read_text())["sessions"]) == 4

    def test_whom_the_pretraining_saw_judges_no_fold(self, pretrained, write_cases, tmp_path):
        settings = pretrained | PLAIN | {"data": [pretrained["data"], write_cases("HGG", 5)], "slices": 2}
        with pytest.warns(UserWarning, match="who are not watched"):
            run = metaseg.naivetune(**settings, folds=2, out=tmp_path / "r").run
        judged = {row["patient"] for row in rows(run, "cross_validation.csv") if row["domain"] == "target"}
        assert judged.isdisjoint(load_network(pretrained["from_run"]).trained_patients)
        assert len(judged) == 7

    @pytest.mark.parametrize(("shots", "count", "told"), [(1, "leave-one-out", "1 patient"), (3, 4, "3 patients")])
    def test_too_few_shots(self, pretrained, tmp_path, shots, count, told):
        with pytest.raises(UsageError, match=f"--folds {count}, but the network is tuned on {told}"):
            metaseg.naivetune(**pretrained | PLAIN | {"shots": shots}, folds=count, out=tmp_path / "r")
        assert not (tmp_path / "r").exists()

    def test_a_damaged_table_is_told(self, folded, tmp_path):
        (tmp_path / "cross_validation.csv").write_text("fold,domain\n0,target\n")
        with pytest.raises(RunError, match="lacks the column"):
            folds.read_cross_validation(tmp_path)
