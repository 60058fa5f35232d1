"""A run killed with SIGKILL at a random moment and resumed ends with the same bits as one left alone (on the CPU)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from forked import kill_after, start

import metaseg
from metaseg.runs.networks import load_network


def kill_once_begun(arguments: list[str], run: Path, delay: float) -> None:
    """Start a verb in a process of its own and kill it ``delay`` seconds after its first saved state."""
    assert kill_after(start(arguments), run / "checkpoints" / "last.state.pt", delay), "was too quick to be killed"


def options(settings: dict[str, object]) -> list[str]:
    return [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def assert_same(one: Path, other: Path) -> None:
    first, second = load_network(one, "last").model.state_dict(), load_network(other, "last").model.state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()


@pytest.fixture
def delay() -> float:
    seconds = random.SystemRandom().uniform(0.0, 0.5)
    print(f"killed {seconds:.3f} s after the first state")
    return seconds


def test_pretrain(write_cases, tmp_path, delay):
    settings = {
        "data": write_cases(count=5), "cache": tmp_path / "cache", "epochs": 12, "slices_per_epoch": 24, "jobs": 1,
        "validate_every": 1, "batch_size": 4, "model_options": '{"channels": [4, 8], "strides": [2], "dropout": 0.2}',
    }  # fmt: skip
    metaseg.pretrain(**settings, out=tmp_path / "whole")
    kill_once_begun(["pretrain", *options(settings), "--out", str(tmp_path / "cut")], tmp_path / "cut", delay)
    metaseg.pretrain(config=tmp_path / "cut" / "config.yaml", out=tmp_path / "cut", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_metatune(write_cases, tmp_path, delay):
    source = metaseg.pretrain(
        data=write_cases(count=5), cache=tmp_path / "cache", out=tmp_path / "pre", epochs=1, slices_per_epoch=16,
        model_options={"channels": [4, 8], "strides": [2]},
    )  # fmt: skip
    settings = {
        "data": write_cases("MET", 5, centre=0.35), "cache": tmp_path / "cache", "jobs": 1, "shots": 3, "slices": 6,
        "budget": 120, "marks": 10, "watch_cases": 2, "order": "passive",
    }  # fmt: skip
    metaseg.metatune(**settings, from_run=source.run, out=tmp_path / "whole")
    arguments = ["metatune", "--from", str(source.run), *options(settings), "--out", str(tmp_path / "cut")]
    kill_once_begun(arguments, tmp_path / "cut", delay)
    metaseg.metatune(config=tmp_path / "cut" / "config.yaml", out=tmp_path / "cut", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "cut")
    assert (tmp_path / "whole" / "selection.csv").read_text() == (tmp_path / "cut" / "selection.csv").read_text()
