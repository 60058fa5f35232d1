from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from metaseg.runs.manifest import Manifest, git_commit, portable_path, versions


def test_manifest_tells_how_the_run_was_made_and_nothing_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["/usr/local/bin/metaseg", "metatune", "--data", str(tmp_path / "cases"), str(Path.home() / "x")]
    monkeypatch.setattr(sys, "argv", words)
    manifest = Manifest(
        verb="metatune",
        seed=3,
        device="cpu",
        data_fingerprint="abc",
        synthetic=True,
        parent=str(tmp_path / "runs" / "pre"),
        patients=["a", "b"],
    )
    manifest.save(tmp_path)
    manifest.finish(tmp_path, best=0.5)
    record = json.loads((tmp_path / "manifest.json").read_text())
    assert record["command"] == ["metaseg", "metatune", "--data", "cases", "~/x"]
    assert record["parent"] == "runs/pre"
    assert record["synthetic"] is True
    assert record["best"] == 0.5
    assert record["patients"] == ["a", "b"]
    [session] = record["sessions"]
    assert session["started"] < session["ended"]
    assert session["wall_seconds"] >= 0
    assert 0 < session["peak_memory_mib"] < 1e6
    text = (tmp_path / "manifest.json").read_text()
    for name in (str(Path.home()), str(tmp_path), socket.gethostname()):
        assert name not in text


def test_each_resume_adds_a_session(tmp_path: Path) -> None:
    for count in (1, 2, 3):
        manifest = Manifest(verb="pretrain", seed=0, device="cpu")
        manifest.save(tmp_path)
        manifest.finish(tmp_path)
        manifest.finish(tmp_path)
        assert len(json.loads((tmp_path / "manifest.json").read_text())["sessions"]) == count


def test_versions_are_those_installed() -> None:
    assert versions()["torch"] == metadata.version("torch")
    assert re.fullmatch(r"3\.\d+\.\d+\S*", versions()["python"] or "")


def test_git_commit(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "one")
    assert git_commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == git("rev-parse", "HEAD") + "+changes"


def test_portable_leaves_other_texts_alone() -> None:
    assert [portable_path(text) for text in ("--epochs", "/elsewhere/x", "a/b", str(Path.cwd()))] == [
        "--epochs",
        "/elsewhere/x",
        "a/b",
        ".",
    ]
