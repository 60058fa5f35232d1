from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metaseg.config import PretrainConfig
from metaseg.errors import RunError
from metaseg.runs.csv_log import CsvLog, cell, read_log
from metaseg.runs.events import EventLog, Selection, SelectionLog
from metaseg.runs.folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder.create(tmp_path / "run", "pretrain", PretrainConfig())
    run.close()
    return run


def log_steps(run: RunFolder, first: int, last: int, resume_step: int | None = None) -> None:
    with EventLog(run, resume_step) as events, SelectionLog(run, resume_step) as selection:
        for step in range(first, last + 1):
            events.scalars({"train/loss": 1 / (step + 3), "val/dice/ET": math.sin(step)}, step, epoch=step // 2)
            selection.add([Selection(step, "case-a", "a", 7, "learned", "support", 0, np.float32(1 / 3), 0.5)])


def test_interrupted_and_continued_run_has_the_same_tables(tmp_path: Path) -> None:
    whole = RunFolder.create(tmp_path / "whole", "pretrain", PretrainConfig())
    parts = RunFolder.create(tmp_path / "parts", "pretrain", PretrainConfig())
    log_steps(whole, 0, 9)
    log_steps(parts, 0, 6)
    for name in ("metrics.csv", "selection.csv"):
        with (parts.path / name).open("a") as stream:
            stream.write("7,3,tr")  # the kill came in the middle of a row
    log_steps(parts, 5, 9, resume_step=4)
    for name in ("metrics.csv", "selection.csv"):
        assert (parts.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_tensorboard_shows_no_step_twice(run: RunFolder) -> None:
    log_steps(run, 0, 6)
    log_steps(run, 5, 9, resume_step=4)
    accumulator = EventAccumulator(str(run.path))
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("train/loss")] == list(range(10))


def test_without_resume_the_table_begins_anew(run: RunFolder) -> None:
    log_steps(run, 0, 3)
    log_steps(run, 0, 1)
    assert [row["step"] for row in read_log(run.path / "metrics.csv")] == ["0", "0", "1", "1"]


def test_rows_are_on_the_disk_at_once(run: RunFolder) -> None:
    with EventLog(run) as events:
        events.scalars({"loss": 0.1}, 0)
        assert read_log(run.path / "metrics.csv") == [{"step": "0", "epoch": "", "name": "loss", "value": "0.1"}]


def test_nan_leaves_an_empty_cell(run: RunFolder) -> None:
    with EventLog(run) as events:
        events.scalars({"val/dice": float("nan")}, 3)
        events.image("overlay", np.zeros((8, 8, 3), np.uint8), 3)
        events.hyperparameters({"epochs": 3})
    assert read_log(run.path / "metrics.csv")[0]["value"] == ""


@pytest.mark.parametrize("value", [0.1, 1e-300, -1 / 3, np.float32(0.1), np.float64(2) / 3, 12345678901234567.0])
def test_floats_keep_all_their_digits(value: float) -> None:
    assert float(cell(value)) == float(value)


@pytest.mark.parametrize(("value", "text"), [(None, ""), (np.float32("nan"), ""), (np.int64(3), "3"), ("a", "a")])
def test_other_cells(value: object, text: str) -> None:
    assert cell(value) == text


def test_commas_and_quotes_survive_a_resume(tmp_path: Path) -> None:
    row = {"step": 1, "name": 'a,"b"'}
    CsvLog(tmp_path / "x.csv", ("step", "name")).close()
    for resume in (0, 1):
        log = CsvLog(tmp_path / "x.csv", ("step", "name"), resume)
        log.append([row] if resume == 0 else [])
        log.close()
    assert read_log(tmp_path / "x.csv") == [{"step": "1", "name": 'a,"b"'}]


def test_table_of_another_version_is_refused(tmp_path: Path) -> None:
    CsvLog(tmp_path / "x.csv", ("step", "old")).close()
    with pytest.raises(RunError, match="other columns"):
        CsvLog(tmp_path / "x.csv", ("step", "new"), resume_step=3)


def test_unreadable_table_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"step\n\xff\xfe\n")
    with pytest.raises(RunError, match="cannot be read"):
        CsvLog(tmp_path / "x.csv", ("step",), resume_step=3)


def test_unknown_column_is_a_mistake_of_the_program(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "x.csv", ("step",))
    with pytest.raises(ValueError, match="no such column: stop"):
        log.append([{"stop": 1}])
    log.close()
