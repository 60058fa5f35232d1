"""Predictions and evaluations that go on: what is done stays, and nothing of another network is mixed in."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from metaseg.config import PredictConfig
from metaseg.errors import DataWarning, UsageError
from metaseg.evaluation.predict import predict_cases


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
