"""The comparison of an engine's first gradient with learn2learn's: in the engines, and in a run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import metaseg
from metaseg.adapt.engines import BatchedEngine, InnerLoop, build_engine, difference_from_reference
from metaseg.errors import TrainingError, UsageError

INNER = InnerLoop(0.3, 2)
SMALL: dict[str, Any] = {"shots": 1, "slices": 8, "budget": 6, "marks": 1, "watch_cases": 1}


def recorded(run: Path) -> dict[str, Any]:
    [session] = json.loads((run / "manifest.json").read_text())["sessions"]
    engine: dict[str, Any] = session["engine"]
    return engine


@pytest.mark.parametrize("engine", ["functional", "batched"])
def test_the_difference_is_that_of_the_gradients_and_leaves_them_alone(lab, engine):
    model, tasks = lab.net(), lab.tasks()
    build_engine(engine).step(model, tasks, F.cross_entropy, INNER)
    assert difference_from_reference(model, tasks, F.cross_entropy, INNER) < 1e-12
    before = {name: grad.clone() for name, grad in lab.gradients(model).items()}
    norm = torch.cat([grad.flatten() for grad in before.values()]).norm()
    # An error along one weight, of a quarter of the gradient's norm.
    next(model.parameters()).grad.view(-1)[0] += 0.25 * norm
    assert difference_from_reference(model, tasks, F.cross_entropy, INNER) == pytest.approx(0.25)
    next(model.parameters()).grad.view(-1)[0] -= 0.25 * norm
    lab.assert_same(lab.gradients(model), before)
    model[0].bias.grad = None
    missing = float(before["0.bias"].norm() / norm)
    assert difference_from_reference(model, tasks, F.cross_entropy, INNER) == pytest.approx(missing)


def test_first_order_is_not_taken_for_second(lab):
    model, tasks = lab.net(), lab.tasks()
    build_engine("functional").step(model, tasks, F.cross_entropy, InnerLoop(0.3, 2, first_order=True))
    assert difference_from_reference(model, tasks, F.cross_entropy, INNER) > 0.02


def test_a_gradient_that_is_not_finite_has_no_difference(lab):
    model, tasks = lab.net(), lab.tasks()
    build_engine("functional").step(model, tasks, F.cross_entropy, INNER)
    next(model.parameters()).grad.view(-1)[0] = float("nan")
    assert difference_from_reference(model, tasks, F.cross_entropy, INNER) is None


@pytest.mark.parametrize(
    ("settings", "check"),
    [
        ({}, r"its gradient is learn2learn's to \S+ of its norm"),
        ({"method": "fomaml", "meta_batch": "patient"}, r"its gradient is learn2learn's to \S+ of its norm"),
        ({"engine": "learn2learn"}, "learn2learn itself"),
        ({"method": "anil"}, "not compared: learn2learn has no such step"),
        ({"verify_engine": False}, "not compared with learn2learn, as asked"),
    ],
)
def test_a_run_says_which_engine_computed_and_keeps_how_it_compares(pretrained, tmp_path, capfd, settings, check):
    engine = recorded(metaseg.metatune(**pretrained, **SMALL, **settings, out=tmp_path / "r").run)
    assert re.fullmatch(check, engine["check"])
    assert (engine["difference"] is not None) == check.startswith("its")
    assert engine["difference"] is None or engine["difference"] < 1e-5
    assert f"meta-step engine: {engine['name']} ({engine['why']}); {engine['check']}" in capfd.readouterr().err


def test_an_engine_that_disagrees_stops_the_run(pretrained, tmp_path, monkeypatch):
    step = BatchedEngine.step

    def wrong(self, model, tasks, loss, inner):
        result = step(self, model, tasks, loss, inner)
        for parameter in model.parameters():
            parameter.grad *= 1.25
        return result

    monkeypatch.setattr(BatchedEngine, "step", wrong)
    with pytest.raises(TrainingError, match=r"engine batched differs from learn2learn's by 0\.25") as caught:
        metaseg.metatune(**pretrained, **SMALL, out=tmp_path / "r")
    assert "--no-verify-engine" in caught.value.remedy
    assert json.loads((tmp_path / "r" / "state.json").read_text())["status"] == "failed"
    assert metaseg.metatune(**pretrained, **SMALL, verify_engine=False, out=tmp_path / "s").spent == 6


def test_without_learn2learn_a_run_goes_on(pretrained, tmp_path, monkeypatch):
    def missing() -> None:
        raise UsageError("learn2learn cannot be imported (No module named 'gym')")

    monkeypatch.setattr("metaseg.adapt.engines.learn2learn._import_maml", missing)
    engine = recorded(metaseg.metatune(**pretrained, **SMALL, out=tmp_path / "r").run)
    assert engine["check"].startswith("not compared: learn2learn cannot compute this step (learn2learn cannot be")
