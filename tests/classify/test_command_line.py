"""Bad input through the command line: one clear message, an exit code, and nothing half-written."""

from __future__ import annotations

import re
from functools import partial

import pytest

from metaseg.classify.train import run_classify_train

from .conftest import write_images

TINY = [
    *("--model", "lau-cnn", "--input-size", "16", "--epochs", "1"),
    *("--copies", "identical", "--jobs", "1", "--device", "cpu"),
]


@pytest.fixture
def call(call, monkeypatch, tmp_path, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METASEG_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return partial(call, "classify")


def one_message(code, error, named):
    assert code in (1, 2)
    assert named in error
    assert "Traceback" not in error
    assert len(re.findall(r"metaseg: (?!warning)", error)) == 1


@pytest.fixture
def data(tmp_path):
    return write_images(tmp_path / "set", {"left": 8, "right": 8})


def truncated(data):
    file = data / "left" / "left03.png"
    file.write_bytes(file.read_bytes()[:150])
    return "left03.png"


def garbage(data):
    (data / "left" / "left03.png").write_bytes(b"no picture at all")
    return "left03.png"


def empty_image(data):
    (data / "left" / "left03.png").write_bytes(b"")
    return "left03.png"


def one_image_of_a_class(data):
    for file in sorted((data / "right").iterdir())[1:]:
        file.unlink()
    return "has no slice of class right"


def one_class(data):
    for file in (data / "right").iterdir():
        file.unlink()
    return "empty folders (1): right"


def nothing(data):
    for file in [*(data / "right").iterdir(), *(data / "left").iterdir()]:
        file.unlink()
    return "set"


@pytest.mark.parametrize("verb", ["train", "active"])
@pytest.mark.parametrize("spoil", [truncated, garbage, empty_image, one_image_of_a_class, one_class, nothing])
def test_spoiled_data(call, data, tmp_path, cache, verb, spoil):
    named = spoil(data)
    before = {path.name for path in (cache / "cases").iterdir()} if (cache / "cases").exists() else set()
    code, _, error = call(verb, "--data", data, "--out", tmp_path / "run", *TINY)
    one_message(code, error, named)
    assert not (tmp_path / "run").exists()
    left = {path.name for path in (cache / "cases").glob("*")} - before
    assert not [name for name in left if name.endswith(".part") or "left03" in name]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("train", "--data", "nowhere"), "nowhere"),
        (("train", "--model", "lau-cmm", "--data", "set"), "lau-cmm"),
        (("train", "--weights", "nothing.pth", "--data", "set"), "nothing.pth"),
        (("train", "--weights", "set", "--data", "set"), "holds no checkpoint"),
        (("train", "--strategy", "frezee", "--data", "set"), "freeze"),
        (("train", "--strategy", "freeze", "--data", "set"), "--weights"),
        (("train", "--label", "colour", "--data", "set"), "colour"),
        (("train", "--classes", "left,up", "--data", "set"), "up"),
        (("train", "--case-table", "nothing.csv", "--data", "set"), "nothing.csv"),
        (("train", "--split", "nothing.json", "--data", "set"), "nothing.json"),
        (("train", "--fold", "1", "--data", "set"), "--fold"),
        (("train", "--input-size", "4", "--data", "set"), "input-size"),
        (("train", "--slices-per-case", "none", "--data", "set"), "--slices-per-case"),
        (("train", "--resume", "--out", "nothing"), "nothing"),
        (("train", "--head-factor", "0"), "head-factor"),
        (("active", "--strategy", "activ", "--data", "set"), "aift"),
        (("active", "--batch", "-3", "--data", "set"), "batch"),
        (("active", "--budget", "0", "--data", "set"), "budget"),
        (("active", "--drop-top", "1.5", "--data", "set"), "drop-top"),
        (("active", "--committee-rates", "0.1,0.2", "--data", "set"), "committee-rates"),
        (("active", "--strategy", "committee", "--data", "set"), "--initial"),
        (("active", "--ask", "labels.csv", "--data", "set"), "--classes"),
        (("active", "--patch-fraction", "0", "--data", "set"), "patch_fraction"),
        (("evaluate", "nothing"), "nothing"),
        (("evaluate",), "RUN is missing"),
        (("predict", "nothing", "set"), "nothing"),
        (("predict", "set", "set"), "set"),
        (("compare",), "CONFIG is missing"),
    ],
    ids=lambda value: "-".join(value[:3]) if isinstance(value, tuple) else None,
)
def test_wrong_arguments(call, data, tmp_path, words, named):
    tiny = TINY if words[0] in ("train", "active") and "--model" not in words else []
    code, _, error = call(words[0], *tiny, *words[1:])
    one_message(code, error, named)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_train_evaluate_predict(call, data, tmp_path):
    assert call("train", "--data", data, "--out", "run", *TINY)[0] == 0
    code, out, _ = call("evaluate", "run", "--pictures", "1", "--resamples", "100", "--device", "cpu")
    assert code == 0
    assert "by slice" in out
    code, out, _ = call("predict", "run", data / "left" / "left00.png", "--out", "verdicts", "--device", "cpu")
    assert code == 0
    assert "left00: " in out
    assert "not for clinical use" in out
    code, _, error = call("predict", "run", data / "left" / "left00.png", "--out", "verdicts")
    one_message(code, error, "exists already")
    code, _, error = call("train", "--data", data, "--out", "run", *TINY)
    one_message(code, error, "--overwrite")


def test_asking_waits_with_exit_code_0(call, data, tmp_path):
    words = ("active", "--data", data, "--out", "run", "--classes", "left,right", "--ask", "labels.csv", *TINY)
    code, out, _ = call(*words, "--batch", "3", "--budget", "6", "--strategy", "margin")
    assert code == 0
    assert "metaseg classify active --out run --resume" in out
    code, _, error = call("active", "--out", "run", "--resume")
    one_message(code, error, "still lacks labels")
    text = (tmp_path / "labels.csv").read_text().splitlines()
    filled = [row.replace(",,", f",{row.partition('-')[0]},", 1) for row in text]
    (tmp_path / "labels.csv").write_text("\n".join(filled) + "\n")
    assert call("active", "--out", "run", "--resume")[0] == 0
    assert (tmp_path / "run" / "rounds" / "round-002.json").exists()


def test_a_network_of_other_modalities(call, train_config, patients, images, tmp_path):
    run = run_classify_train(train_config(data=patients, epochs=1, test=False)).run
    code, _, error = call("evaluate", run, "--data", images, "--out", "metrics")
    one_message(code, error, "t1ce")
    assert not (tmp_path / "metrics").exists()
