from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from metaseg.cli import examination
from metaseg.cli.examination import CheckResult
from metaseg.cli.runs import metric_lines
from metaseg.config.segmentation import PretrainConfig
from metaseg.runs.folder import RunFolder
from metaseg.runs.manifest import Manifest

Call = Callable[..., tuple[int, str, str]]


def test_runs_are_listed(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    assert "no runs in runs" in call("runs")[1]
    with RunFolder.create(PretrainConfig(out=Path("runs/[a]"))) as run:
        Manifest(verb="pretrain", seed=0, device="cpu", synthetic=True).save(run.path)
        run.state.set_metrics({"dice/val/ET": 0.7512})
    code, text, _ = call("runs")
    assert code == 0
    for part in ("runs/[a]", "pretrain", "finished", "val  ET 0.751", "synthetic"):
        assert part in text
    [row] = json.loads(call("runs", "runs", "--json")[1])
    assert row["path"] == "runs/[a]"
    assert row["metrics"] == {"dice/val/ET": 0.7512}


def test_doctor_tells_what_works(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METASEG_CACHE", str(tmp_path / "cache"))
    code, text, _ = call("doctor", "--json")
    content = json.loads(text)
    found = {check["name"]: check for check in content["checks"]}
    assert content["ok"] is (code == 0)
    for name in ("torch", "learn2learn", "cpu: training step", "cpu: meta-step", "cache folder"):
        assert found[name]["ok"], found[name]
    assert str(tmp_path) in found["cache folder"]["found"]
    assert not (tmp_path / "cache").exists()


def test_doctor_ends_with_1_if_something_is_broken(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        examination, "examine", lambda: [CheckResult("a", True, "fine"), CheckResult("bb", False, "broken: mend it")]
    )
    code, text, _ = call("doctor")
    assert code == 1
    assert text == "ok   a   fine\nBAD  bb  broken: mend it\n"


def test_one_broken_check_does_not_stop_the_others() -> None:
    def broken() -> str:
        raise OSError("no\nway")

    assert examination._attempt("x", broken) == CheckResult("x", False, "no way")


def test_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(examination.tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match="cannot be written"):
        examination._writable(tmp_path / "x")


def test_metrics_of_a_domain_share_a_line() -> None:
    metrics = {"dice/target/WT": 0.7071, "dice/target/ET": 0.64, "forgetting/ET": -0.01, "dice/source/ET": None}
    assert metric_lines(metrics) == ["target  WT 0.707  ET 0.640", "forgetting  ET -0.010"]
