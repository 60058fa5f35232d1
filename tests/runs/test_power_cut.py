"""A power cut: what was not brought to the disk is lost, and what goes on from a saved state finds all before it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import metaseg
from metaseg.runs.folder import RunFolder
from metaseg.runs.logs import EventLog, read_log
from metaseg.runs.training_state import load_training_state, save_training_state


class Disk:
    """Remembers what fsync has brought to the disk: contents by file, and names by folder."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.contents: dict[int, bytes] = {}
        self.names: dict[Path, dict[str, int]] = {}
        self.fsync = os.fsync
        self.cuts: list[tuple[dict[int, bytes], dict[Path, dict[str, int]]]] = []
        patch.setattr(os, "fsync", self._fsync)

    def _fsync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self.names[path] = {file.name: file.stat().st_ino for file in path.iterdir() if file.is_file()}
        else:
            self.contents[os.fstat(descriptor).st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()
        self.cuts.append((dict(self.contents), dict(self.names)))

    def after(self, cut: int, folder: Path, into: Path) -> Path:
        """The folder as it is found when the power was cut after so many calls; files without content are zeros."""
        contents, names = self.cuts[cut]
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir()
        for path, files in names.items():
            if path.is_relative_to(folder):
                (into / path.relative_to(folder)).mkdir(parents=True, exist_ok=True)
                for name, inode in files.items():
                    (into / path.relative_to(folder) / name).write_bytes(contents.get(inode, bytes(64)))
        return into


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    return Disk(monkeypatch)


def test_saved_state_finds_all_rows_before_it(disk: Disk, tmp_path: Path) -> None:
    run = RunFolder.create(metaseg.config.segmentation.PretrainConfig(out=tmp_path / "run"))
    state = run.checkpoints / "last.state.pt"
    with EventLog(run) as log:
        for step in range(1, 5):
            log.scalars({"a": step / 3, "b": 0.1}, step)
            save_training_state(state, {"step": step, "rows": log.sync()})
    run.close()
    steps = set()
    for cut in range(len(disk.cuts)):
        found = disk.after(cut, tmp_path / "run", tmp_path / "found")
        if (found / "checkpoints" / "last.state.pt").exists():
            saved = load_training_state(found / "checkpoints" / "last.state.pt")
            rows = [row for row in read_log(found / "metrics.csv") if int(row["step"]) <= saved["step"]]
            assert len(rows) == saved["rows"] == 2 * saved["step"]
            steps.add(saved["step"])
    assert steps == {1, 2, 3, 4}


def test_pretraining_survives_a_power_cut(disk: Disk, write_cases, tmp_path: Path) -> None:
    settings = {
        "data": write_cases(count=5), "cache": tmp_path / "cache", "jobs": 1, "epochs": 3, "slices_per_epoch": 8,
        "batch_size": 4, "validate_every": 1, "model_options": {"channels": [4, 8], "strides": [2]},
    }  # fmt: skip
    whole = metaseg.pretrain(**settings, out=tmp_path / "whole").run
    cuts, resumed, tried = list(disk.cuts), set(), set()
    for cut in range(len(cuts)):
        disk.cuts = cuts
        found = disk.after(cut, whole, tmp_path / "found")
        state = found / "checkpoints" / "last.state.pt"
        if not (found / "config.yaml").exists() or not state.exists():
            continue
        saved = load_training_state(state)
        rows = [row for row in read_log(found / "metrics.csv") if int(row["step"]) <= saved["step"]]
        assert len(rows) == saved["extra"]["rows"]
        tried.add(saved["step"])
        if saved["step"] == 2 and not resumed:
            resumed.add(cut)
            metaseg.pretrain(config=found / "config.yaml", out=found, resume=True)
            for name in (
                "metrics.csv",
                "patients.json",
                "checkpoints/best.safetensors",
                "checkpoints/last.safetensors",
            ):
                assert (found / name).read_bytes() == (whole / name).read_bytes(), name
    assert tried == {2, 4, 6}
    assert resumed
