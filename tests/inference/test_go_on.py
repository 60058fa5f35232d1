"""Predictions and evaluations that go on: what is done stays, and nothing of another network is mixed in."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from inference.conftest import Blind

from metaseg.config.segmentation import EvaluateConfig, PredictConfig
from metaseg.errors import DataWarning, UsageError
from metaseg.inference.evaluate import evaluate_network
from metaseg.inference.evaluation_files import FinishedCases
from metaseg.inference.predict import predict_cases


def predicted(workshop, **options):
    """Three cases, of which all but the last are predicted."""
    for name in ("a_1", "b_1", "c_1"):
        workshop.case("MET", name, label=False)
    network, out = workshop.network(), workshop.root / "out"
    values = {"tta": False, "pictures": False, "device": "cpu", "resume": True} | options
    given = PredictConfig(out=out, cases=(workshop.root / "data",), **values)
    predict_cases(network, given)
    before = contents(out)
    (out / "c_1.json").unlink()
    return network, given, before


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_resume_predicts_what_is_not_done(workshop, capsys):
    network, given, before = predicted(workshop, pictures=True)
    kept = (given.out / "a_1.json").stat().st_mtime_ns
    result = predict_cases(network, given)
    assert "2 of 3 cases were predicted before" in capsys.readouterr().out
    assert contents(given.out) == before
    assert (given.out / "a_1.json").stat().st_mtime_ns == kept
    assert [case.case for case in result.cases] == ["a_1", "b_1", "c_1"]
    assert result.cases[0].volumes == json.loads(before["a_1.json"])["volumes"]


@pytest.mark.parametrize("other", ["network", "tta", "probabilities", "precision"])
def test_resume_mixes_nothing_that_was_made_differently(workshop, other):
    network, given, _ = predicted(workshop)
    changed = {"tta": True, "probabilities": True, "precision": "bf16-mixed"}
    given = replace(given, **({other: changed[other]} if other in changed else {}))
    there = contents(given.out)
    with pytest.raises(UsageError, match=f"made differently .*{other}"):
        predict_cases(workshop.network() if other == "network" else network, given)
    assert contents(given.out) == there
    with pytest.raises(UsageError, match="contradict"):
        predict_cases(network, replace(given, overwrite=True))


@pytest.mark.parametrize("what", ["summary", "old summary", "label", "image"])
def test_resume_predicts_again_what_is_not_as_it_was(workshop, what):
    network, given, before = predicted(workshop)
    summary = given.out / "a_1.json"
    if what == "summary":
        summary.write_bytes(before["a_1.json"][:50])
    elif what == "old summary":
        summary.write_text(json.dumps({**json.loads(before["a_1.json"]), "made_from": None}))
    elif what == "label":
        (given.out / "a_1_pred.nii.gz").write_bytes(bytes(9))
    else:
        image = next((workshop.root / "data").rglob("a_1_flair*"))
        image.write_bytes(gzip.compress(gzip.decompress(image.read_bytes()), 1))
    with pytest.warns(DataWarning, match="the case a_1 is predicted again"):
        predict_cases(network, given)
    assert json.loads(summary.read_text())["volumes"] == json.loads(before["a_1.json"])["volumes"]
    if what != "image":
        assert contents(given.out) == before


def evaluated(workshop, **options):
    """An evaluation of four cases, whose files are kept, and that is then cut off after two of them."""
    for name, shift in (("a_1", 0), ("b_1", 2), ("c_1", 1), ("d_1", 0)):
        moved = (slice(6 + shift, 14 + shift), slice(7, 15), slice(3, 8))
        path = next(workshop.case("MET", name, edema=moved).glob("*_seg*"))
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.roll(np.asarray(image.dataobj), shift, axis=1), image.affine), path)
    values = {"out": workshop.root / "out", "cache": workshop.root / "cache", "device": "cpu", "jobs": 1}
    values |= {"tta": False, "surface": False, "pictures": 2, "data": (workshop.root / "data",)} | options
    given, networks = EvaluateConfig(**values), (workshop.network(), workshop.network(Blind()))
    whole = evaluate_network(*networks, replace(given, out=workshop.root / "whole"))
    return networks, given, whole


def cut_off(networks, given, monkeypatch, after: int = 2) -> None:
    add, left = FinishedCases.add, iter(range(after))

    def add_or_die(self, case, rows):
        if next(left, None) is None:
            raise KeyboardInterrupt
        add(self, case, rows)

    with monkeypatch.context() as patch:
        patch.setattr(FinishedCases, "add", add_or_die)
        with pytest.raises(KeyboardInterrupt):
            evaluate_network(*networks, given)


def test_evaluation_goes_on_to_the_same_files(workshop, monkeypatch):
    networks, given, whole = evaluated(workshop)
    cut_off(networks, given, monkeypatch)
    (file,) = given.out.iterdir()
    file.write_bytes(file.read_bytes() + b'{"question": "cut o' + bytes(20))
    with pytest.raises(UsageError, match="cut off here, with 2 cases done") as told:
        evaluate_network(*networks, given)
    assert "--resume" in told.value.remedy
    again = replace(given, resume=True)
    result = evaluate_network(*networks, again)
    pictures = [picture.name for picture in whole.pictures]
    assert [picture.name for picture in result.pictures] == pictures
    for name in ("metrics.csv", *(f"pictures/{name}" for name in pictures)):
        assert (given.out / name).read_bytes() == (whole.out / name).read_bytes(), name
    assert sorted(path.name for path in given.out.iterdir()) == ["metrics.csv", "metrics.json", "pictures"]
    calls = networks[0].model.calls
    finished = evaluate_network(*networks, again)
    assert networks[0].model.calls == calls
    assert finished.cases["dice"].tolist() == pytest.approx(result.cases["dice"].tolist(), nan_ok=True)


@pytest.mark.parametrize("other", ["network", "tta", "data", "seed"])
def test_evaluation_does_not_go_on_from_another(workshop, monkeypatch, other):
    networks, given, _ = evaluated(workshop, pictures=0)
    cut_off(networks, given, monkeypatch)
    again = replace(given, resume=True)
    if other == "network":
        networks = (workshop.network(), networks[1])
    elif other == "data":
        workshop.case("MET", "e_1")
    else:
        again = replace(again, **{other: {"tta": True, "seed": 5}[other]})
    with pytest.raises(UsageError, match="another one"):
        evaluate_network(*networks, again)
    with pytest.raises(UsageError, match="contradict"):
        evaluate_network(*networks, replace(again, overwrite=True))
    evaluate_network(*networks, replace(again, resume=False, overwrite=True))
    assert sorted(path.name for path in given.out.iterdir()) == ["metrics.csv", "metrics.json"]
