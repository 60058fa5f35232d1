"""Two processes on a CPU do what one does, to rounding: each verb is run by one, then by two.

The first of the two is this one, which reads the command line; it starts the other. That is done in earnest wherever a
process is lost or what is printed counts; elsewhere the other is forked, which saves its imports. All learn by SGD:
Adam divides a gradient by its size, and biases before a normalisation, whose gradient is zero but for rounding, so move
by chance.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from forked import ForkedCommand, start

from metaseg.cli.main import run as run_command
from metaseg.files import FileKind, read_json
from metaseg.runs import together
from metaseg.runs.networks import load_classifier_network, load_network
from metaseg.runs.training_state import load_training_state

linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes as Linux shows them")
TWO = ("--devices", "2")
META = ("--outer-optimizer", "sgd", "--outer-learning-rate", "0.01", "--rescore-tolerance", "0.01")
"""Of metatune: two tasks a step, a learned and an unlearned one."""


def command(*words: object) -> int:
    """Run a command line in this process; gives the exit code."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            run_command([str(word) for word in words])
    finally:
        signal.signal(signal.SIGTERM, before)
    return int(ended.value.code or 0)


def options(settings: dict[str, object]) -> list[str]:
    return [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def assert_close(one: Path, other: Path, load=load_network) -> None:
    first, second = (load(run, "last").model.state_dict() for run in (one, other))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-4, atol=1e-5, msg=name)
    metrics = [pd.read_csv(run / "metrics.csv") for run in (one, other)]
    pd.testing.assert_frame_equal(*metrics, rtol=1e-4, atol=1e-4)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process is forked from a server that has imported metaseg."""
    monkeypatch.setattr(together, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": ForkedCommand}))


@pytest.fixture(scope="module")
def common(write_cases, tmp_path_factory):
    root = tmp_path_factory.mktemp("processes")
    return root, {"cache": root / "cache", "jobs": 1}


@pytest.fixture(scope="module")
def pretraining(write_cases, common) -> dict[str, object]:
    # Batches of five: the shares of two processes differ.
    return common[1] | {
        "data": write_cases(count=5), "epochs": 3, "slices_per_epoch": 10, "batch_size": 5, "validate_every": 1,
        "val_fraction": 0.4, "optimizer": "sgd", "learning_rate": 0.02,
        "model_options": '{"channels": [4, 8], "strides": [2]}',
    }  # fmt: skip


@pytest.fixture(scope="module")
def source(pretraining, common) -> Path:
    out = common[0] / "pretrained"
    assert command("pretrain", *options(pretraining), "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def adaptation(write_cases, common, source) -> dict[str, object]:
    return common[1] | {
        "from": source, "data": write_cases("MET", 4, centre=0.35), "shots": 2, "slices": 6, "marks": 2, "budget": 24,
    }  # fmt: skip


@pytest.fixture(scope="module")
def tuned(adaptation, common) -> Path:
    out = common[0] / "tuned"
    assert command("metatune", *options(adaptation), *META, "--out", out) == 0
    return out


def test_pretrain(pretraining, source, tmp_path, capfd):
    assert command("pretrain", *options(pretraining), "--out", tmp_path / "two", *TWO) == 0
    assert_close(source, tmp_path / "two")
    said = capfd.readouterr().out
    assert said.count("to validate") == 1
    assert said.count("run: ") == 1
    assert os.listdir(tmp_path) == ["two"]


@pytest.mark.usefixtures("forked")
def test_naivetune(adaptation, tmp_path):
    # A penalty that every process computes, and a batch that two cannot share evenly.
    settings = options(
        adaptation
        | {
            "method": "l2-sp",
            "batch_size": 3,
            "l2_sp_alpha": 1.0,
            "optimizer": "sgd",
            "learning_rate": 0.01,
        }
    )
    for name, several in (("one", ()), ("two", TWO)):
        assert command("naivetune", *settings, "--out", tmp_path / name, *several) == 0
    assert_close(tmp_path / "one", tmp_path / "two")
    for table in ("selection.csv", "patients.json"):
        assert (tmp_path / "one" / table).read_text() == (tmp_path / "two" / table).read_text()
    marks = [pd.read_csv(tmp_path / name / "marks.csv") for name in ("one", "two")]
    pd.testing.assert_frame_equal(*marks, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("forked")
def test_metatune(adaptation, tuned, tmp_path):
    assert command("metatune", *options(adaptation), *META, "--out", tmp_path / "two", *TWO) == 0
    assert_close(tuned, tmp_path / "two")
    one, two = (pd.read_csv(run / "selection.csv") for run in (tuned, tmp_path / "two"))
    chosen = ["step", "case", "slice", "task", "role", "position"]
    pd.testing.assert_frame_equal(one[chosen], two[chosen])


@pytest.mark.usefixtures("forked")
def test_classify_train(write_cases, common, tmp_path):
    root = tmp_path / "both"
    root.mkdir()
    for cohort, centre in (("HGG", 0.5), ("LGG", 0.3)):
        (root / cohort).symlink_to(write_cases(cohort, 7, centre=centre))
    # Two blocks with batch normalisation: its statistics are those of both processes' slices.
    settings = options(common[1] | {
        "data": root, "model": "2d-cnn", "input_size": 32, "batch_size": 6, "epochs": 2,
        "augment": "light", "optimizer": "sgd",
    })  # fmt: skip
    for name, several in (("one", ()), ("two", TWO)):
        assert command("classify", "train", *settings, "--out", tmp_path / name, *several) == 0
    assert_close(tmp_path / "one", tmp_path / "two", load_classifier_network)


@pytest.mark.usefixtures("forked")
def test_predict_and_evaluate(tuned, write_cases, tmp_path):
    cases = write_cases("MET", 4, centre=0.35)
    for name, several in (("one", ()), ("two", TWO)):
        assert command("predict", tuned, cases, "--out", tmp_path / name, "--no-pictures", *several) == 0
        assert command("evaluate", tuned, "--out", tmp_path / f"{name}-metrics", *several) == 0
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    one, two = tmp_path / "one-metrics", tmp_path / "two-metrics"
    assert (one / "metrics.csv").read_text() == (two / "metrics.csv").read_text()
    metrics = [read_json(folder / "metrics.json", FileKind("metrics")) for folder in (one, two)]
    assert metrics[0] == metrics[1]
    for picture in (one / "pictures").iterdir():
        assert picture.read_bytes() == (two / "pictures" / picture.name).read_bytes()


@pytest.mark.usefixtures("forked")
def test_run_goes_on_with_another_number_of_processes(pretraining, source, tmp_path, monkeypatch):
    from metaseg.training.fitted_run import FitListener

    marks, out = FitListener.on_mark, tmp_path / "run"

    def until(last):
        def stops(self, step, model):
            if step == last:
                raise KeyboardInterrupt
            return marks(self, step, model)

        monkeypatch.setattr(FitListener, "on_mark", stops)

    # Marks at steps 2, 4 and 6: with one process to the first, with two to the second, and with one to the end.
    until(4)
    assert command("pretrain", *options(pretraining), "--out", out) == 130
    until(6)
    assert command("pretrain", "--out", out, "--resume", *TWO) == 130
    assert read_json(out / "state.json", FileKind("state"))["status"] == "stopped"
    monkeypatch.undo()
    assert command("pretrain", "--out", out, "--resume", "--devices", 1) == 0
    assert_close(source, out)


def child_of(pid: int, out: Path) -> int:
    """The process that a process has started, once the run has a saved state."""
    patience = time.monotonic() + 300
    while not (out / "checkpoints" / "last.state.pt").exists():
        assert time.monotonic() < patience
        time.sleep(0.05)
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [found for task in tasks for found in (task / "children").read_text().split()]
    # Other tests of this process may have left helpers of their own.
    (child,) = [int(found) for found in children if b"settings.yaml" in Path(f"/proc/{found}/cmdline").read_bytes()]
    return child


def assert_gone(pid: int) -> None:
    patience = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < patience
        time.sleep(0.05)


def assert_one_message(said: str, words: str, out: Path, status: str) -> None:
    assert "Traceback" not in said
    (message,) = [line for line in said.splitlines() if line.startswith("metaseg: ")]
    assert words in message
    assert "--resume" in said
    assert read_json(out / "state.json", FileKind("state"))["status"] == status
    # What is there can be gone on from.
    assert load_training_state(out / "checkpoints" / "last.state.pt")["step"] >= 2


@linux
@pytest.mark.parametrize(
    ("victim", "number", "code", "words", "status"),
    [
        ("other", signal.SIGKILL, 1, "process 1 of 2 was killed (SIGKILL)", "failed"),
        ("first", signal.SIGINT, 130, "interrupted", "stopped"),
    ],
)
def test_signal_ends_all_processes_with_one_message(pretraining, tmp_path, capfd, victim, number, code, words, status):
    out, children = tmp_path / "run", []

    def send() -> None:
        children.append(child_of(os.getpid(), out))
        os.kill(children[0] if victim == "other" else os.getpid(), number)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=send)
    thread.start()
    try:
        assert command("pretrain", *options(pretraining | {"epochs": 10000}), "--out", out, *TWO) == code
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    assert_gone(children[0])
    assert_one_message(capfd.readouterr().err, words, out, status)


@linux
def test_death_of_the_first_process_ends_the_others_with_one_message(pretraining, tmp_path):
    out = tmp_path / "run"
    words = ["pretrain", *options(pretraining | {"epochs": 10000}), "--out", str(out), *TWO]
    process = start(words, said=tmp_path / "said")
    child = child_of(process.pid, out)
    process.kill()
    process.join()
    assert_gone(child)
    assert_one_message((tmp_path / "said").read_text(), "the first process", out, "running")


STARTS_WHAT_ENDS_AT_ONCE = """
import subprocess, sys
from types import SimpleNamespace
from metaseg.runs import together

def start(command, **how):
    return subprocess.Popen([sys.executable, "-S", "-c", ""], **how)

together.SECONDS_TO_NOTICE = 0.2
together.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": start})
"""


def test_a_process_that_ends_without_a_failure_before_the_others_ends_the_run_too(pretraining, tmp_path):
    words = ["pretrain", *options(pretraining), "--out", tmp_path / "run", *TWO]
    process = start(words, said=tmp_path / "said", first=STARTS_WHAT_ENDS_AT_ONCE)
    process.join(120)
    assert process.exitcode == 1
    said = (tmp_path / "said").read_text()
    (message,) = [line for line in said.splitlines() if line.startswith("metaseg: ")]
    assert message.startswith("metaseg: process 1 died (code 0)")


def test_only_the_first_process_asks_whether_a_run_is_finished(source, monkeypatch):
    from metaseg.config.io import load_config
    from metaseg.config.segmentation import PretrainConfig
    from metaseg.runs import session
    from metaseg.runs.together import BOUND

    class GoesOn(Exception):
        pass

    def together(*_):
        raise GoesOn

    monkeypatch.setattr(session, "together", together)
    config = load_config(PretrainConfig, source / "config.yaml", {"out": source, "resume": True})
    asked = [config, lambda: None, lambda *_: None, lambda run: run.path]
    assert session.run_session(*asked) == source
    monkeypatch.setenv(BOUND, "1")
    with pytest.raises(GoesOn):
        session.run_session(*asked)
