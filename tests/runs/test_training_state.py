from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from metaseg.errors import DataWarning, RunError, TrainingError
from metaseg.runs.training_state import can_go_on, load_training_state, save_training_state


def train(steps: int, state: dict | None = None) -> tuple[dict, list[float]]:
    """A tiny training with Adam, dropout and a numpy generator: all kinds of state at once."""
    generator = np.random.Generator(np.random.PCG64(3))
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    if state is not None:
        net.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.bit_generator.state = state["numpy"]
        torch.set_rng_state(state["torch"])
    losses = []
    for _ in range(steps):
        loss = net(torch.from_numpy(generator.standard_normal((5, 3), dtype=np.float32))).square().sum()
        optimizer.zero_grad()
        (loss * torch.rand(())).backward()
        optimizer.step()
        losses.append(loss.item())
    parts = {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "numpy": generator.bit_generator.state,
        "torch": torch.get_rng_state(),
        "best": None,
        "losses": losses,
    }
    return parts, losses


def test_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    path = tmp_path / "last.state"
    _, whole = train(8)
    half, first = train(5)
    save_training_state(path, half)
    _, second = train(3, load_training_state(path))
    assert first + second == whole
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.state"]


@pytest.mark.parametrize("where", ["model", "optimizer"])
def test_state_that_is_not_finite_is_neither_saved_nor_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "last.state"
    state, _ = train(2)
    save_training_state(path, state)
    good = path.read_bytes()
    tensor = state["model"]["0.weight"] if where == "model" else state["optimizer"]["state"][1]["exp_avg_sq"]
    with torch.no_grad():
        tensor.view(-1)[0] = float("inf")
    with pytest.raises(TrainingError, match=rf"state\['{where}'\].* not finite"):
        save_training_state(path, state)
    assert path.read_bytes() == good
    with monkeypatch.context() as earlier:  # a release that saved it
        earlier.setattr("metaseg.runs.training_state.non_finite", lambda tensors: None)
        save_training_state(path, state)
    with pytest.raises(RunError, match=rf"diverged: state\['{where}'\]"):
        load_training_state(path)


@pytest.mark.parametrize("position", [0.0, 0.02, 0.3, 0.6, 0.99])
def test_flipped_bit_is_found(tmp_path: Path, position: float) -> None:
    path = tmp_path / "last.state"
    save_training_state(path, {"weights": torch.arange(500.0)})
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError) as caught:
        load_training_state(path)
    assert caught.value.where == path


@pytest.mark.parametrize("length", [0, 10, 40, 200, -1])
def test_cut_off_file_is_found(tmp_path: Path, length: int) -> None:
    path = tmp_path / "last.state"
    save_training_state(path, {"weights": torch.arange(500.0)})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RunError):
        load_training_state(path)


def test_missing_file_is_a_run_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot read"):
        load_training_state(tmp_path / "missing")


@pytest.mark.parametrize("value", [np.float64(1), np.zeros(2), {1, 2}, Path("x"), lambda: None])
def test_what_could_not_be_read_back_is_refused_when_written(tmp_path: Path, value: object) -> None:
    path = tmp_path / "last.state"
    save_training_state(path, {"step": 1})
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\]"):
        save_training_state(path, {"a": [0, value]})
    assert load_training_state(path) == {"step": 1}


def test_weights_without_a_state_are_told_of(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "last.state.pt"
    assert not can_go_on(path, True)
    assert not recwarn.list
    (tmp_path / "best.safetensors").touch()
    assert not can_go_on(path, False)
    with pytest.warns(DataWarning, match="begins again at step 0"):
        assert not can_go_on(path, True)
    save_training_state(path, {"step": 1})
    assert can_go_on(path, True)
