from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metaseg.config.segmentation import PretrainConfig
from metaseg.errors import DataWarning, RunError
from metaseg.runs.folder import RunFolder
from metaseg.runs.logs import CsvLog, EventLog, Selection, SelectionLog, cell, read_log


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder.create(PretrainConfig(out=tmp_path / "run"))
    run.close()
    return run


def log_steps(run: RunFolder, first: int, last: int, resume_step: int | None = None) -> None:
    with EventLog(run, resume_step) as events, SelectionLog(run, resume_step) as selection:
        for step in range(first, last + 1):
            events.scalars({"train/loss": 1 / (step + 3), "val/dice/ET": math.sin(step)}, step, epoch=step // 2)
            selection.add([Selection(step, "case-a", "a", 7, "learned", "support", 0, np.float32(1 / 3), 0.5)])


def test_interrupted_and_continued_run_has_the_same_tables(tmp_path: Path) -> None:
    whole = RunFolder.create(PretrainConfig(out=tmp_path / "whole"))
    parts = RunFolder.create(PretrainConfig(out=tmp_path / "parts"))
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


def test_run_that_begins_anew_shows_nothing_of_its_first_attempt(run: RunFolder) -> None:
    log_steps(run, 0, 3)
    log_steps(run, 0, 2)
    accumulator = EventAccumulator(str(run.path))
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("train/loss")] == [0, 1, 2]


def gone(path: Path) -> None:
    path.unlink()


def zeros(path: Path) -> None:
    path.write_bytes(bytes(len(path.read_bytes())))


def half_zeros(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) // 2))


def shorter(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(True)[:3]))


def no_row(path: Path) -> None:
    lines = path.read_text().splitlines(True)
    path.write_text("".join(lines[:2] + lines[3:]))


@pytest.mark.parametrize("damage", [gone, zeros, half_zeros, shorter, no_row])
def test_rows_that_are_lost_are_told_of(run: RunFolder, damage: Callable[[Path], None]) -> None:
    log_steps(run, 0, 4)
    with EventLog(run, 4) as events:
        expected = events.sync()
    assert expected == 10
    damage(run.path / "metrics.csv")
    with pytest.warns(DataWarning, match=r"of 10 rows of metrics.csv up to step 4 are lost"):
        log_with = EventLog(run, 4, expected)
    log_with.scalars({"train/loss": 0.5}, 5)
    assert log_with.sync() == 11  # so that the gap is told of again at the next resume
    log_with.close()
    assert read_log(run.path / "metrics.csv")[-1]["step"] == "5"


@pytest.mark.parametrize("kept", [4, 2])
def test_zeros_beyond_the_saved_state_are_dropped_without_a_word(run: RunFolder, kept: int) -> None:
    log_steps(run, 0, kept)
    with EventLog(run, kept) as events:
        expected = events.sync()
    whole = (run.path / "metrics.csv").read_bytes()
    (run.path / "metrics.csv").write_bytes(whole + b"5,2,train/loss,0.1\n6,3,tr" + bytes(300) + b"\n" + bytes(9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EventLog(run, kept, expected).close()
    assert (run.path / "metrics.csv").read_bytes() == whole


def test_table_of_an_earlier_version_that_is_gone_is_told_of(run: RunFolder) -> None:
    with pytest.warns(DataWarning, match="the rows of metrics.csv up to step 7 are lost"):
        EventLog(run, 7).close()


def test_table_that_is_deleted_while_it_grows_is_written_again(run: RunFolder) -> None:
    with EventLog(run) as events:
        events.scalars({"loss": 0.25}, 0)
        (run.path / "metrics.csv").unlink()
        with pytest.warns(DataWarning, match="was deleted while the run wrote it"):
            assert events.sync() == 1
        events.scalars({"loss": 0.5}, 1)
    assert [row["value"] for row in read_log(run.path / "metrics.csv")] == ["0.25", "0.5"]


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


def test_columns_that_came_later_stay_empty_in_earlier_rows(tmp_path: Path) -> None:
    with CsvLog(tmp_path / "x.csv", ("step", "old")) as log:
        log.append([{"step": 1, "old": 2}, {"step": 5, "old": 3}])
    with CsvLog(tmp_path / "x.csv", ("step", "new", "old"), resume_step=3) as log:
        log.append([{"step": 4, "new": 7, "old": 8}])
    assert (tmp_path / "x.csv").read_text() == "step,new,old\n1,,2\n4,7,8\n"


def test_unreadable_table_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"step\n\xff\xfe\n")
    with pytest.raises(RunError, match="cannot be read"):
        CsvLog(tmp_path / "x.csv", ("step",), resume_step=3)


def test_unknown_column_is_a_mistake_of_the_program(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "x.csv", ("step",))
    with pytest.raises(ValueError, match="no such column: stop"):
        log.append([{"stop": 1}])
    log.close()
