from __future__ import annotations

from pathlib import Path

from metaseg.runs.state import RunState


def test_state_is_on_the_disk_after_every_change(tmp_path: Path) -> None:
    state = RunState.create(tmp_path / "state.json", "metatune")
    state.mark("tune", 3)
    state.mark("tune", "last")
    state.set_metrics({"target/dice": 0.5, "source/dice": float("nan")})
    state.set_status("stopped", "asked to")
    again = RunState.open(tmp_path / "state.json")
    assert again.verb == "metatune"
    assert again.done("tune") == ("3", "last")
    assert again.is_done("tune", 3)
    assert not again.is_done("other", 3)
    assert again.metrics == {"target/dice": 0.5, "source/dice": None}
    assert (again.status, again.reason) == ("stopped", "asked to")


def test_marking_twice_changes_nothing(tmp_path: Path) -> None:
    state = RunState.create(tmp_path / "state.json", "metatune")
    state.mark("tune", 1)
    before = state.path.read_bytes()
    state.mark("tune", 1)
    assert state.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
