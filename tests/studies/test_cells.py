from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from metaseg.errors import UsageError
from metaseg.runs.folder import RunFolder, RunLock
from metaseg.studies.cells import BusyError, changes_of, run_unit, seconds_of, state_of
from metaseg.studies.plan import make_plan


@pytest.fixture(scope="module")
def finished(domains, tmp_path_factory):
    """A study folder with one finished cell; to be copied."""
    from metaseg.config.io import load_config
    from metaseg.config.studies import CompareConfig

    folder = tmp_path_factory.mktemp("finished") / "study"
    settings = {
        "from": domains["from"], "cache": domains["cache"], "targets": {"met": domains["target"]},
        "shared": domains["shared"], "methods": {"naive": {}}, "shots": [2], "seeds": [0], "budget": 12, "marks": 2,
        "device": "cpu", "out": folder,
    }  # fmt: skip
    plan = make_plan(load_config(CompareConfig, None, settings))
    unit = plan.units[0]
    run_unit(folder / unit.folder, plan.config(unit), folder)
    return plan


@pytest.fixture
def cell(finished, tmp_path):
    """The finished cell in a study folder of its own: (folder, wanted settings, study folder)."""
    plan, study = finished, tmp_path / "study"
    shutil.copytree(plan.folder, study)
    unit = plan.units[0]
    return study / unit.folder, replace(plan.config(unit), out=study / unit.folder), study


@pytest.fixture
def calls(monkeypatch):
    """What is asked of the verbs, without doing it."""
    found = []
    monkeypatch.setattr("metaseg.adapt.naivetune.run_naivetune", found.append)
    return found


def test_finished_cell_is_done_and_left_alone(cell, calls):
    assert state_of(*cell) == "done"
    run_unit(*cell)
    assert calls == []
    assert (seconds_of(cell[0]) or 0) > 0


def test_changed_settings_have_it_done_again(cell, calls):
    folder, config, study = cell
    wanted = replace(config, learning_rate=0.5)
    assert state_of(folder, wanted, study) == "changed"
    run_unit(folder, wanted, study)
    assert calls == [replace(wanted, overwrite=True)]


def test_settings_on_which_no_metric_depends_change_nothing(cell, tmp_path):
    folder, config, study = cell
    assert state_of(folder, replace(config, jobs=7, cache=tmp_path), study) == "done"


def test_cut_off_cell_is_continued(cell, calls):
    folder, config, study = cell
    RunFolder.open(folder).state.set_status("stopped")
    assert state_of(folder, config, study) == "cut off"
    run_unit(folder, config, study)
    assert [(call.resume, call.overwrite, call.out) for call in calls] == [(True, False, folder)]


def test_cell_cut_off_before_its_first_state_begins_anew(cell, calls):
    folder, config, study = cell
    RunFolder.open(folder).state.set_status("stopped")
    (folder / "checkpoints" / "last.state.pt").unlink()
    run_unit(folder, config, study)
    assert calls == [replace(config, overwrite=True)]


def test_cell_that_cannot_be_continued_is_done_again(cell):
    folder, config, study = cell
    metrics = (folder / "marks.csv").read_bytes()
    RunFolder.open(folder).state.set_status("stopped")
    state = folder / "checkpoints" / "last.state.pt"
    state.write_bytes(state.read_bytes()[:100])
    run_unit(folder, config, study)
    assert state_of(folder, config, study) == "done"
    assert (folder / "marks.csv").read_bytes() == metrics


@pytest.mark.parametrize("name", ["state.json", "config.yaml"])
@pytest.mark.parametrize("content", ["{", None], ids=["cut off", "gone"])
def test_damaged_cell_is_done_again(cell, calls, name, content):
    folder, config, study = cell
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    expected = "missing" if (name, content) == ("state.json", None) else "damaged"
    assert state_of(folder, config, study) == expected
    if expected == "damaged":
        run_unit(folder, config, study)
        assert calls == [replace(config, overwrite=True)]


def test_cell_at_work_is_left_to_its_process(cell, calls):
    folder, config, study = cell
    RunFolder.open(folder).state.set_status("running")
    lock = RunLock(folder)
    assert state_of(folder, config, study) == "locked"
    lock.release()
    assert state_of(folder, config, study) == "cut off"


def test_cell_that_another_process_begins_meanwhile_is_busy(cell, monkeypatch):
    folder, config, study = cell
    shutil.rmtree(folder)
    folder.mkdir(parents=True)
    locks = []

    def quicker(wanted):
        locks.append(RunLock(folder))
        RunFolder.create(wanted)

    monkeypatch.setattr("metaseg.adapt.naivetune.run_naivetune", quicker)
    with pytest.raises(BusyError):
        run_unit(folder, config, study)


def test_wrong_data_do_not_delete_a_cut_off_cell(cell, monkeypatch):
    folder, config, study = cell
    RunFolder.open(folder).state.set_status("stopped")

    def without_data(wanted):
        raise UsageError("the disk is not mounted")

    monkeypatch.setattr("metaseg.adapt.naivetune.run_naivetune", without_data)
    with pytest.raises(UsageError):
        run_unit(folder, config, study)
    assert state_of(folder, config, study) == "cut off"


def test_a_study_may_be_moved_and_named_otherwise(finished, cell, monkeypatch):
    folder, config, study = cell
    recorded = RunFolder.open(folder).config(type(config))
    assert recorded.out != config.out
    assert state_of(*cell) == "done"
    # Paths within the study, as of a network that it pretrained, move with it.
    old = replace(recorded, from_run=str(finished.folder / "pretrain"))
    new = replace(config, from_run=str(study / "pretrain"))
    assert changes_of(old, new, folder, study) == []
    assert changes_of(old, replace(new, from_run=str(study / "other")), folder, study) != []
    # The same place, written from another working directory.
    monkeypatch.chdir(study.parent)
    assert changes_of(recorded, replace(config, split=config.split), folder, study) == []
    assert state_of(folder.relative_to(study.parent), config, study.relative_to(study.parent)) == "done"
