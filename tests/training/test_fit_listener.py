from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from metaseg.config.segmentation import PretrainConfig
from metaseg.errors import DataWarning, RunError
from metaseg.models import ModelCard, build_classifier
from metaseg.models.checkpoint import load_classifier
from metaseg.runs.folder import RunFolder
from metaseg.runs.logs import EventLog, read_log
from metaseg.terminal import progress
from metaseg.training.fitted_run import FitListener, Training, smoothed_score
from metaseg.training.fitted_run import _drop_damaged_best as drop_damaged_best
from metaseg.training.fitted_run import _require_best as require_best
from metaseg.training.loop import LoopState


@pytest.fixture
def model() -> torch.nn.Module:
    return build_classifier("lau-cnn", 1, 2, seed=0, image_size=16)


@pytest.fixture
def listen(tmp_path, model):
    """Makes a listener to whom validations give the metrics of a list, one after another."""
    with contextlib.ExitStack() as stack:

        def make(found: list[dict[str, float]], patience: int = 0, **extra: Any) -> FitListener:
            run = stack.enter_context(RunFolder.create(PretrainConfig(out=tmp_path / "run")))
            card = ModelCard(
                name=model.name, in_channels=1, num_classes=2, modalities=("t1",), label_space="classes",
                options=model.options, normalisation={}, trained_on=("a",), synthetic=False, parent=None,
                task="classification", classes=("a", "b"),
            )  # fmt: skip
            coming: Iterator[dict[str, float]] = iter(found)
            training = Training(
                title="test",
                model=model,
                card=card,
                optimizer=None,
                plan=None,
                draw=None,
                objective=None,
                validate=lambda log: lambda network, step: next(coming),
                score=lambda values, before: values.get("auc/val", 0.0),
                steps_per_epoch=2,
                patience=patience,
                state=LoopState(extra=dict(extra)),
            )
            log, bar = stack.enter_context(EventLog(run)), stack.enter_context(progress("test", None))
            return FitListener(training, run, log, bar)

        yield make


def mark(listener: FitListener, model: torch.nn.Module, steps: int) -> list[bool]:
    """Marks, before each of which the weights become the number of the step."""
    answers = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            model.net.fc.bias.fill_(step)
        answers.append(listener.on_mark(step, model))
    return answers


def weights_of(listener: FitListener, name: str) -> float:
    return float(load_classifier(listener.run.checkpoints / name)[0].net.fc.bias[0].detach())


def auc(*values: float) -> list[dict[str, float]]:
    return [{"auc/val": value} for value in values]


def test_damaged_best_weights_are_dropped_with_a_warning_when_a_run_goes_on(listen, model):
    listener = listen(auc(0.5))
    mark(listener, model, 1)
    drop_damaged_best(listener.run)
    assert weights_of(listener, "best") == 1, "whole ones stay"
    weights = listener.run.checkpoints / "best.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.warns(DataWarning, match="best weights cannot be read and are dropped"):
        drop_damaged_best(listener.run)
    assert not weights.exists()


@pytest.mark.parametrize("file", ["best.safetensors", "best.json"])
def test_best_weights_that_vanish_are_told_of_and_kept_anew(listen, model, file):
    listener = listen(auc(0.9, 0.5, 0.7))
    mark(listener, model, 1)
    (listener.run.checkpoints / file).unlink()
    with pytest.warns(DataWarning, match="best weights, of step 1, have vanished: kept anew from step 1 on"):
        mark(listener, model, 2)
    assert listener.state.extra["best_step"] == 2
    assert weights_of(listener, "best") == 2
    require_best(listener.run, 2)


@pytest.mark.parametrize("file", ["best.safetensors", "best.json"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x")])
def test_no_run_is_finished_without_its_best_weights(listen, model, file, damage):
    listener = listen(auc(0.9, 0.5))
    mark(listener, model, 2)
    damage(listener.run.checkpoints / file)
    with pytest.raises(RunError, match="the best weights, of step 1, cannot be used") as caught:
        require_best(listener.run, 1)
    assert "checkpoints/last" in caught.value.remedy


def test_best_and_last_weights_are_kept(listen, model):
    listener = listen(auc(0.5, 0.9, 0.7, 0.9))
    assert mark(listener, model, 4) == [True] * 4
    assert weights_of(listener, "best") == 2
    assert weights_of(listener, "last") == 4
    assert listener.state.extra["best_step"] == 2
    assert load_classifier(listener.run.checkpoints / "best")[1].metrics == {"auc/val": 0.9}
    assert listener.run.state.metrics == {"auc/val": 0.9}


@pytest.mark.parametrize(("patience", "stopped_at"), [(0, None), (1, 3), (2, 6)])
def test_patience_counts_validations_without_a_better_metric(listen, model, patience, stopped_at):
    answers = mark(listen(auc(0.5, 0.6, 0.6, 0.7, 0.1, 0.2, 0.3), patience), model, 7)
    assert answers.index(False) + 1 == stopped_at if stopped_at else all(answers)


def test_without_validation_the_last_weights_are_the_best(listen, model):
    listener = listen([{}, {}, {}], patience=1)
    assert mark(listener, model, 3) == [True] * 3
    assert weights_of(listener, "best") == weights_of(listener, "last") == 3


def test_goes_on_from_what_the_state_remembers(listen, model):
    listener = listen(auc(0.6, 0.95), score=0.9, best_step=1, metrics={"auc/val": 0.9}, stale=0)
    for kind in ("safetensors", "json"):
        (listener.run.checkpoints / f"best.{kind}").touch()
    listener.on_mark(2, model)
    assert listener.state.extra["best_step"] == 1
    assert listener.state.extra["stale"] == 1
    listener.on_mark(3, model)
    assert listener.state.extra["best_step"] == 3


def test_the_mean_loss_of_an_epoch_is_logged(listen):
    listener = listen([])
    for step, loss in enumerate([1.0, 3.0, 5.0, 6.0], start=1):
        listener.on_step(step, {"loss": loss, "learning_rate": 0.1})
    rows = [row for row in read_log(listener.run.path / "metrics.csv") if row["name"] == "train/loss"]
    assert [(row["step"], row["epoch"], float(row["value"])) for row in rows] == [("2", "1", 2.0), ("4", "2", 5.5)]


@pytest.mark.parametrize(
    ("metrics", "before", "expected"),
    [
        ({}, 0.4, 0.0),
        ({"a": 0.4, "b": 0.8}, None, 0.6),
        ({"a": 0.4, "b": math.nan}, None, 0.2),
        ({"a": 1.0}, 0.5, 0.65),
    ],
)
def test_smoothed_score(metrics: Mapping[str, float], before: float | None, expected: float):
    assert smoothed_score(metrics, before) == pytest.approx(expected)
