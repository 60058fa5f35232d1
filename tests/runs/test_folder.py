from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from metaseg.config.io import dump_config
from metaseg.config.segmentation import MetatuneConfig, PretrainConfig
from metaseg.errors import ExistsError, RunError, UsageError, WriteError
from metaseg.runs.folder import RunFolder, RunLock, config_changes, is_locked, list_runs, run_status, saved_settings
from metaseg.runs.manifest import Manifest

CONFIG = PretrainConfig(epochs=3)


def make(path: Path, config: PretrainConfig = CONFIG, **flags: bool) -> RunFolder:
    return RunFolder.create(replace(config, out=path, **flags))


def test_created_run_can_be_opened(tmp_path: Path) -> None:
    with make(tmp_path / "deep" / "run") as run:
        run.write_json("metrics.json", {"dice": 0.5})
        assert run.checkpoints.is_dir()
    again = RunFolder.open(run.path)
    assert again.verb == "pretrain"
    assert again.finished
    assert replace(again.config(PretrainConfig), out=None) == CONFIG
    assert again.read_json("metrics.json") == {"dice": 0.5}


def test_runs_without_a_name_get_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [RunFolder.create(CONFIG) for _ in range(3)]
    names = {run.path.name for run in runs}
    assert len(names) == 3
    assert all(re.fullmatch(r"pretrain-\d{8}-\d{6}(-\d)?", name) for name in names)
    for run in runs:
        run.close()


def test_existing_run_is_not_touched_without_a_flag(tmp_path: Path) -> None:
    make(tmp_path / "run").close()
    with pytest.raises(ExistsError, match="holds a run already") as caught:
        make(tmp_path / "run")
    assert "--resume" in str(caught.value.remedy)
    assert "--overwrite" in str(caught.value.remedy)


def test_overwrite_replaces_all_of_a_run(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        (run.checkpoints / "last").write_text("old")
        run.write_json("old.json", 1)
        run.state.mark("train", 1)
    with make(tmp_path / "run", replace(CONFIG, epochs=9), overwrite=True) as run:
        assert sorted(path.name for path in run.path.iterdir()) == [".lock", "config.yaml", "state.json"]
        assert run.config(PretrainConfig).epochs == 9
        assert not run.state.is_done("train", 1)


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_that_is_no_run_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "precious.txt").write_text("keep")
    (tmp_path / "config.yaml").write_text("epochs: 1\n")
    with pytest.raises(ExistsError, match="holds no metaseg run"):
        make(tmp_path, overwrite=overwrite)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "precious.txt"]


def test_name_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ExistsError, match="belongs to a file"):
        make(tmp_path / "file")
    with pytest.raises(WriteError, match="a file stands where a folder should be"):
        make(tmp_path / "file" / "run")


def test_empty_folder_and_that_of_a_run_killed_at_birth_are_taken(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("1\n")
    (tmp_path / ".state.json.1.tmp").write_text("{")
    with make(tmp_path) as run:
        assert sorted(path.name for path in run.path.iterdir()) == [".lock", "config.yaml", "state.json"]


def test_overwrite_refuses_to_delete_what_the_run_reads(tmp_path: Path) -> None:
    out = tmp_path / "run"
    make(out).close()
    inside = MetatuneConfig(out=out, from_run=str(out / "checkpoints" / "best"))
    with pytest.raises(UsageError, match="from_run"):
        RunFolder.create(replace(inside, overwrite=True))
    with pytest.raises(UsageError, match="data"):
        RunFolder.create(PretrainConfig(out=out, data=(out / "store",), overwrite=True))
    assert (out / "state.json").exists()


def test_resume_takes_the_state_up(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.state.mark("train", 4)
    with pytest.raises(KeyboardInterrupt) as caught, run:
        raise KeyboardInterrupt
    assert caught.value.__notes__ == [f"To continue: metaseg pretrain --out {tmp_path / 'run'} --resume"]
    assert RunFolder.open(tmp_path / "run").state.status == "stopped"
    other = replace(CONFIG, jobs=7, cache=tmp_path, resume=True, out=tmp_path / "run")
    with make(tmp_path / "run", other, resume=True) as run:
        assert run.state.status == "running"
        assert run.state.is_done("train", 4)
        assert replace(run.config(PretrainConfig), out=None) == CONFIG


def test_run_begun_with_overwrite_can_be_resumed_with_its_own_settings(tmp_path: Path) -> None:
    make(tmp_path / "run").close()
    make(tmp_path / "run", replace(CONFIG, overwrite=True), overwrite=True).close()
    saved = RunFolder.open(tmp_path / "run").config(PretrainConfig)
    assert replace(saved, out=None) == CONFIG
    resumed = replace(saved, resume=True)
    make(tmp_path / "run", resumed).close()


def test_resume_removes_what_a_killed_writer_left(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    (run.checkpoints / ".last.safetensors.4711.tmp").write_bytes(b"half")
    (run.path / ".metrics.csv.4711.tmp").write_text("half")
    (run.checkpoints / "last.safetensors").write_bytes(b"whole")
    run.close()
    with make(tmp_path / "run", resume=True) as run:
        assert [file.name for file in run.checkpoints.iterdir()] == ["last.safetensors"]
        assert not list(run.path.glob("*.tmp"))


def test_finished_run_stays_finished_when_resumed(tmp_path: Path) -> None:
    with make(tmp_path / "run"):
        pass
    with make(tmp_path / "run", resume=True) as run:
        assert run.finished


def test_resume_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run to resume"):
        make(tmp_path / "missing", resume=True)
    assert not (tmp_path / "missing").exists()
    with pytest.raises(UsageError, match="needs the run"):
        RunFolder.create(replace(CONFIG, resume=True))
    with pytest.raises(UsageError, match="contradict"):
        make(tmp_path / "run", resume=True, overwrite=True)


def test_resume_of_another_verb_is_an_error(tmp_path: Path) -> None:
    make(tmp_path / "run").close()
    with pytest.raises(RunError, match="one of 'metaseg pretrain'"):
        RunFolder.create(MetatuneConfig(out=tmp_path / "run", resume=True))
    make(tmp_path / "run", resume=True).close()


def test_resume_with_other_settings_names_them(tmp_path: Path) -> None:
    make(tmp_path / "run").close()
    with pytest.raises(UsageError) as caught:
        make(tmp_path / "run", replace(CONFIG, epochs=4, device="cuda", data=(Path("a"), Path("b"))), resume=True)
    assert caught.value.found.endswith("data: empty -> a,b; device: auto -> cuda; epochs: 3 -> 4")
    make(tmp_path / "run", resume=True).close()


def test_changes_leave_out_what_changes_no_metric() -> None:
    assert config_changes(CONFIG, replace(CONFIG, out=Path("x"), jobs=3, resume=True, overwrite=True)) == []
    assert config_changes(CONFIG, replace(CONFIG, image_size=64)) == ["image_size: none -> 64"]


def test_error_in_the_block_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loss"), make(tmp_path / "run"):
        raise ValueError("the loss is NaN\nand more")
    state = RunFolder.open(tmp_path / "run").state
    assert (state.status, state.reason) == ("failed", "ValueError: the loss is NaN")


def fail(path: Path, *, mark: bool = False, checkpoint: bool = False) -> None:
    run = make(path)
    if mark:
        run.state.mark("train", 1)
    if checkpoint:
        (run.checkpoints / "last").write_text("weights")
    with pytest.raises(ValueError, match="no data"), run:
        raise ValueError("no data")


def test_run_that_failed_before_it_made_anything_is_replaced(tmp_path: Path) -> None:
    fail(tmp_path)
    make(tmp_path, replace(CONFIG, epochs=5)).close()
    assert RunFolder.open(tmp_path).config(PretrainConfig).epochs == 5


@pytest.mark.parametrize("made", ["mark", "checkpoint"])
def test_failed_run_that_made_something_is_kept(tmp_path: Path, made: str) -> None:
    fail(tmp_path, **{made: True})
    with pytest.raises(ExistsError, match="holds a run already"):
        make(tmp_path)


@pytest.mark.parametrize("name", ["missing", "empty", "file"])
def test_opening_what_is_no_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError) as caught:
        RunFolder.open(tmp_path / name)
    assert "state.json" in str(caught.value.expected)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 99}', "\x00"])
def test_damaged_state_is_a_run_error(tmp_path: Path, content: str) -> None:
    make(tmp_path).close()
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(RunError):
        RunFolder.open(tmp_path)
    make(tmp_path, overwrite=True).close()


def test_missing_json_is_a_run_error(tmp_path: Path) -> None:
    with make(tmp_path) as run, pytest.raises(RunError, match="cannot be read"):
        run.read_json("nothing.json")


def test_not_finite_numbers_are_no_json(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        run.write_json("a.json", {"x": 1})
        with pytest.raises(ValueError, match="JSON compliant"):
            run.write_json("a.json", {"x": float("nan")})
        assert run.read_json("a.json") == {"x": 1}


def test_second_writer_is_refused(tmp_path: Path) -> None:
    first = make(tmp_path)
    for flags in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(RunError, match="being written by process"):
            make(tmp_path, **flags)
    assert is_locked(tmp_path)
    first.close()
    assert not is_locked(tmp_path)
    make(tmp_path, resume=True).close()


HOLD = """
import os, sys, time
from pathlib import Path
from metaseg.config.segmentation import PretrainConfig
from metaseg.runs.folder import RunFolder
run = RunFolder.create(PretrainConfig(epochs=3, out=Path(sys.argv[1])))
if os.fork() == 0:
    print("held", flush=True)
    time.sleep(30)  # a worker that outlives its killed parent
    os._exit(0)
time.sleep(30)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_lock_of_a_killed_process_does_not_block(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"by process {process.pid}"):
            make(tmp_path, resume=True)
        process.kill()
        process.wait()
        assert run_status(RunFolder.open(tmp_path)) == "killed"
        make(tmp_path, resume=True).close()
    finally:
        _end_group(process.pid)
        process.stdout.close()


def _end_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def test_lock_object_releases_once(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.release()
    lock.release()
    RunLock(tmp_path).release()


def test_config_of_an_older_version_lacks_keys(tmp_path: Path) -> None:
    make(tmp_path).close()
    path = tmp_path / "config.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("patience")))
    assert replace(RunFolder.open(tmp_path).config(PretrainConfig), out=None) == CONFIG
    dump_config(CONFIG, path)


def damage(text: str) -> dict[str, str | None]:
    """What may become of a settings file."""
    return {
        "gone": None, "empty": "", "zeros": "\0" * len(text), "cut off": text[: len(text) // 2],
        "cut off at a line": text[: text.rindex("\n", 0, -1) + 1], "a comment": "# verb: pretrain\n",
        "of another verb": text.replace("verb: pretrain", "verb: metatune"),
        "edited": text.replace("epochs: 3", "epochs: 4"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", damage("verb: a\nb: c\n"))
def test_run_whose_settings_are_not_as_written_is_not_resumed(tmp_path: Path, kind: str) -> None:
    make(tmp_path).close()
    file = tmp_path / "config.yaml"
    text = damage(file.read_text())[kind]
    file.unlink() if text is None else file.write_text(text)
    for resume in (lambda: saved_settings(tmp_path, PretrainConfig), lambda: make(tmp_path, resume=True)):
        with pytest.raises(RunError) as caught:
            resume()
        assert caught.value.where == file
        assert "--overwrite" in str(caught.value.remedy)
    make(tmp_path, overwrite=True).close()
    make(tmp_path, resume=True).close()


def test_paths_among_the_settings_may_be_edited_where_data_are_moved(tmp_path: Path) -> None:
    before, after = (replace(CONFIG, data=(Path(name),)) for name in ("/here", "/there"))
    make(tmp_path, before).close()
    file = tmp_path / "config.yaml"
    text = file.read_text()
    file.write_text(text.replace("/here", "/there") + "# moved\n")
    make(tmp_path, after, resume=True).close()
    for wrong in ("[]", "[/there, /more]"):
        file.write_text(text.replace("data: [/here]", f"data: {wrong}"))
        assert file.read_text() != text
        with pytest.raises(RunError, match="not as it wrote them"):
            saved_settings(tmp_path, PretrainConfig)


@pytest.mark.parametrize("kind", ["empty", "zeros", "cut off", "a comment"])
def test_settings_of_an_earlier_version_must_be_settings(tmp_path: Path, kind: str) -> None:
    make(tmp_path).close()
    state, file = tmp_path / "state.json", tmp_path / "config.yaml"
    state.write_text(json.dumps({**json.loads(state.read_text()), "settings": None}))
    make(tmp_path, resume=True).close()
    file.write_text(str(damage(file.read_text())[kind]))
    with pytest.raises(RunError):
        make(tmp_path, resume=True)
    with pytest.raises(RunError):
        RunFolder.open(tmp_path).config(PretrainConfig)


class CutOffError(Exception):
    """As if the process had been killed."""


def test_overwrite_cut_off_at_any_step_is_taken_up_by_the_same_command(tmp_path: Path, monkeypatch) -> None:
    """Every change of a name in the folder is a step; before each of them the replacement is cut off once."""
    run, old_files = tmp_path / "run", ("best.safetensors", "last.safetensors", "last.state.pt")

    def stop_before(number: int):
        allowed = iter(range(number))

        def counted(change):
            def step(*args, **named):
                if next(allowed, None) is None:
                    raise CutOffError
                return change(*args, **named)

            return step

        return counted

    for number in range(40):
        shutil.rmtree(run, ignore_errors=True)
        with make(run) as old:
            for name in old_files:
                (old.checkpoints / name).write_text("old")
            old.write_json("result.json", {"old": 1})
            (run / "metrics.csv").write_text("step\n")
        with monkeypatch.context() as patch:
            counted = stop_before(number)
            patch.setattr(os, "unlink", counted(os.unlink))
            patch.setattr(os, "replace", counted(os.replace))
            patch.setattr(os, "rmdir", counted(os.rmdir))
            try:
                make(run, overwrite=True).close()
                break
            except CutOffError:
                left = {path.name for path in run.rglob("*")}
        gc.collect()
        if RunFolder.open(run).finished:
            assert {*old_files, "checkpoints", "result.json", "metrics.csv"} < left
        elif left & {*old_files, "checkpoints", "result.json", "metrics.csv"}:
            with pytest.raises(RunError):
                make(run, resume=True)
        with make(run, overwrite=True):
            assert sorted(path.name for path in run.iterdir()) == [".lock", "config.yaml", "state.json"]
    assert number > 10


def test_list_of_runs(tmp_path: Path) -> None:
    for name, synthetic in (("b", True), ("a/c", False)):
        with RunFolder.create(PretrainConfig(data=(Path("cases"),), out=tmp_path / name)) as run:
            Manifest(verb="pretrain", seed=0, device="cpu", synthetic=synthetic).save(run.path)
            run.state.set_metrics({"val/dice": 0.75})
    with pytest.raises(ValueError, match="no"), RunFolder.create(PretrainConfig(out=tmp_path / "failed")):
        raise ValueError("no")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "state.json").write_text("{")
    (tmp_path / "other").mkdir()
    rows = {row.path.relative_to(tmp_path).as_posix(): row for row in list_runs(tmp_path)}
    assert {name: row.status for name, row in rows.items()} == {
        "b": "finished",
        "a/c": "finished",
        "failed": "failed",
        "damaged": "damaged",
    }
    assert [name for name in rows if rows[name].started] == ["b", "a/c"]
    assert rows["b"].synthetic is True
    assert rows["b"].metrics == {"val/dice": 0.75}
    assert rows["b"].data == ("cases",)
    assert rows["failed"].reason == "ValueError: no"


def test_list_of_nothing(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "missing") == []
