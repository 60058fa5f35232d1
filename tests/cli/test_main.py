from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metaseg import __version__, verbs
from metaseg.cli import main
from metaseg.cli.output import explain
from metaseg.cli.verbs import expand_lists
from metaseg.config.classification import ClassifyActiveConfig, ClassifyEvaluateConfig, ClassifyTrainConfig
from metaseg.config.io import dump_config
from metaseg.config.segmentation import EvaluateConfig, MetatuneConfig, PredictConfig, PretrainConfig
from metaseg.config.studies import ClassifyCompareConfig, ClassifySearchConfig, CompareConfig
from metaseg.errors import DataError, TrainingError
from metaseg.runs.folder import RunFolder
from metaseg.verbs import VERBS

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METASEG_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    return call


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Configs with which verbs were called, in place of the verbs themselves."""
    configs: list[Any] = []

    def fake(name: str) -> SimpleNamespace:
        return SimpleNamespace(**{verb.function.partition(":")[2]: configs.append for verb in VERBS})

    monkeypatch.setattr(verbs, "import_module", fake)
    return configs


def act(monkeypatch: pytest.MonkeyPatch, action: Callable[[Any], None]) -> None:
    """Let ``metaseg pretrain`` do ``action``."""
    monkeypatch.setattr(verbs, "import_module", lambda name: SimpleNamespace(run_pretrain=action))


@pytest.mark.parametrize(
    ("words", "config"),
    [
        (["pretrain"], PretrainConfig()),
        (["pretrain", "--epochs", "3", "--learning-rate", "1e-4"], PretrainConfig(epochs=3, learning_rate=1e-4)),
        (["pretrain", "--data", "a", "b", "--epochs=4"], PretrainConfig(data=(Path("a"), Path("b")), epochs=4)),
        (["pretrain", "--data", "a", "--data", "b"], PretrainConfig(data=(Path("a"), Path("b")))),
        (
            ["pretrain", "--data=a", "--model-options", '{"a": [1]}'],
            PretrainConfig(data=(Path("a"),), model_options={"a": [1]}),
        ),
        (
            ["pretrain", "--modalities", "t1,t2", "--window", "64,80"],
            PretrainConfig(modalities=("t1", "t2"), window=(64, 80)),
        ),
        (["metatune", "--from", "runs/a", "--first-order"], MetatuneConfig(from_run="runs/a", first_order=True)),
        (
            ["metatune", "--no-first-order", "--source", "s", "t", "--data", "d"],
            MetatuneConfig(source=(Path("s"), Path("t")), data=(Path("d"),)),
        ),
        (
            ["evaluate", "runs/a", "--data", "x", "y", "--no-tta"],
            EvaluateConfig(run="runs/a", data=(Path("x"), Path("y")), tta=False),
        ),
        (
            ["evaluate", "--data", "x", "--no-surface", "runs/a"],
            EvaluateConfig(run="runs/a", data=(Path("x"),), surface=False),
        ),
        (
            ["predict", "runs/a", "c1", "c2", "--out", "o"],
            PredictConfig(run="runs/a", cases=(Path("c1"), Path("c2")), out=Path("o")),
        ),
        (
            ["classify", "train", "--data", "a", "b", "--slices-per-case", "HGG=10,LGG=30"],
            ClassifyTrainConfig(data=(Path("a"), Path("b")), slices_per_case=("HGG=10", "LGG=30")),
        ),
        (
            [
                "classify",
                "active",
                "--acquisition",
                "committee",
                "--initial",
                "0.3",
                "--committee-rates",
                "1e-2,1e-3,1e-4",
            ],
            ClassifyActiveConfig(acquisition="committee", initial=0.3, committee_rates=(1e-2, 1e-3, 1e-4)),
        ),
        (
            ["classify", "evaluate", "runs/a", "--data", "x", "y"],
            ClassifyEvaluateConfig(run="runs/a", data=(Path("x"), Path("y"))),
        ),
    ],
)
def test_options_reach_the_verb(call: Call, done: list[Any], words: list[str], config: object) -> None:
    code, _, error = call(*words)
    assert (code, error) == (0, "")
    assert done == [config]


@pytest.mark.parametrize(
    ("words", "config"),
    [
        (["pretrain", "--strategy", "ddp", "--val-share=0.2"], PretrainConfig(processes="ddp", val_fraction=0.2)),
        (["metatune", "--no-learned-inner-rates"], MetatuneConfig()),
        (["classify", "train", "--strategy", "scratch"], ClassifyTrainConfig(transfer="scratch")),
        (["classify", "active", "--strategy", "bald"], ClassifyActiveConfig(acquisition="bald")),
    ],
)
def test_options_of_earlier_releases_are_read(call: Call, done: list[Any], words: list[str], config: object) -> None:
    assert call(*words)[::2] == (0, "")
    assert done == [config]


def test_every_field_of_every_verb_has_an_option(call: Call) -> None:
    for verb in VERBS:
        code, text, _ = call(*verb.words.split(), "--help-all")
        assert code == 0
        for field in verb.fields:
            assert field.flag in text, (verb.name, field.name)


def test_help_shows_the_options_that_matter_and_where_the_others_are(call: Call) -> None:
    for verb in VERBS:
        text = call(*verb.words.split(), "--help")[1]
        shown = {field.name for field in verb.fields if re.search(rf"^  {field.flag}\b", text, re.MULTILINE)}
        assert shown == {field.name for field in verb.fields if field.common or field.argument}
        assert 4 <= len(shown) <= 17, verb.name
        rare = len(verb.fields) - len(shown)
        assert (f"{rare} more options: metaseg {verb.words} --help-all" in text) == (rare > 0)


def test_config_file_sets_and_options_win(call: Call, done: list[Any], tmp_path: Path) -> None:
    dump_config(PretrainConfig(epochs=7, batch_size=3), tmp_path / "c.yaml")
    assert call("pretrain", "--config", "c.yaml", "--epochs", "9")[0] == 0
    assert done == [PretrainConfig(epochs=9, batch_size=3)]


def test_resume_takes_the_settings_of_the_run(call: Call, done: list[Any], tmp_path: Path) -> None:
    RunFolder.create(PretrainConfig(epochs=7, out=tmp_path / "r")).close()
    assert call("pretrain", "--out", "r", "--resume")[0] == 0
    assert done == [PretrainConfig(epochs=7, out=Path("r"), resume=True)]


def test_resume_of_another_verbs_run_leaves_the_settings_alone(call: Call, done: list[Any], tmp_path: Path) -> None:
    RunFolder.create(PretrainConfig(epochs=7, out=tmp_path / "r")).close()
    assert call("metatune", "--out", "r", "--resume")[0] == 0
    assert done == [MetatuneConfig(out=Path("r"), resume=True)]


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["pretrin"], 2, "pretrain"),
        (["pretrain", "--epoch", "3"], 2, "--epoch"),
        (["pretrain", "--epochs"], 2, "metaseg pretrain --help"),
        (["pretrain", "surplus"], 2, "surplus"),
        (["pretrain", "--epochs", "0"], 2, "'epochs' is '0'"),
        (["pretrain", "--epochs", "many"], 2, "a whole number of at least 1"),
        (["pretrain", "--seed", "-1"], 2, "'seed' is '-1'"),
        (["pretrain", "--optimizer", "adamx"], 2, "did you mean 'adamw'"),
        (["pretrain", "--config", "missing.yaml"], 2, "missing.yaml"),
        (["pretrain", "--model-options", "{"], 2, "no JSON"),
        (["pretrain", "--data", ""], 2, "'data' is empty"),
        (["metatune", "--from", ""], 2, "'from' is empty"),
        (["evaluate"], 2, "RUN is missing"),
        (["predict", "run"], 2, "CASES is missing"),
        (["runs", "missing"], 1, "no such folder"),
        (["data", "check", "missing"], 1, "does not exist"),
        (["data", "nonsense"], 2, "No such command"),
        (["classify", "nonsense"], 2, "No such command"),
        (["classify", "trian"], 2, "train"),
        (["classify", "train", "--epoch", "3"], 2, "metaseg classify train --help"),
        (["classify", "train", "--strategy", "thaw"], 2, "'transfer' is 'thaw'"),
        (["classify", "compare"], 2, "a YAML file with settings of 'metaseg classify compare'"),
        (["data", "check"], 2, "DATA"),
        (["data", "split", "missing", "--parts", "a=x"], 2, "--parts"),
        (["data", "split", "missing", "--stratify", "age"], 2, "--stratify"),
        (["data", "phantoms", "out", "--size", "huge"], 2, "--size"),
        (["--nonsense"], 2, "--nonsense"),
    ],
)
def test_bad_input_gives_one_message_and_an_exit_code(
    call: Call, done: list[Any], words: list[str], code: int, part: str
) -> None:
    found, _, error = call(*words)
    assert found == code
    assert part in error
    assert error.count("metaseg: ") == (code != 0)
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("error", "code", "parts"),
    [
        (DataError("no cases", where="x", remedy="look"), 1, ["metaseg: no cases", "in:       x", "to do:    look"]),
        (TrainingError("the loss is NaN"), 1, ["the loss is NaN"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (main.Terminated("SIGTERM"), 143, ["ended by the system"]),
        (MemoryError(), 1, ["out of memory", "--batch-size, --image-size, --window"]),
        (
            type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory\nmore"),
            1,
            ["CUDA out of memory", "--batch-size"],
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), 1, ["out of memory", "--image-size"]),
        (OSError(28, "No space left on device"), 1, ["the disk is full", "make room there"]),
        (OSError(122, "Disk quota exceeded"), 1, ["quota", "make room there"]),
        (OSError(5, "Input/output error"), 1, ["the disk reports an error"]),
        (OSError(24, "Too many open files", "/x/y"), 1, ["too many files are open", "ulimit -n", "/x/y"]),
        (FileNotFoundError(2, "No such file or directory", "/x/y"), 1, ["No such file", "/x/y"]),
        (PermissionError(13, "Permission denied", "/x/y"), 1, ["permission is denied", "/x/y"]),
        (ZeroDivisionError("by zero\nand so on"), 1, ["unexpected ZeroDivisionError: by zero", "METASEG_DEBUG=1"]),
        (ImportError(), 1, ["unexpected ImportError: no further word"]),
    ],
)
def test_every_exception_becomes_one_message(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, parts: list[str]
) -> None:
    def action(config: object) -> None:
        raise error

    act(monkeypatch, action)
    found, _, text = call("pretrain")
    assert found == code
    assert text.count("metaseg: ") == 1
    assert "Traceback" not in text
    for part in parts:
        assert part in text


def test_memory_message_names_only_options_of_the_verb() -> None:
    assert "--inner-steps" not in explain(MemoryError(), frozenset({"--batch-size"}))[0]
    assert "to do" not in explain(MemoryError())[0]


def test_interruption_tells_how_to_continue(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def action(config: PretrainConfig) -> None:
        with RunFolder.create(config):
            raise KeyboardInterrupt

    act(monkeypatch, action)
    code, _, error = call("pretrain", "--out", "r")
    assert code == 130
    assert "metaseg pretrain --out r --resume" in error
    assert RunFolder.open(tmp_path / "r").state.status == "stopped"


def test_debug_shows_the_traceback(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METASEG_DEBUG", "1")

    def action(config: object) -> None:
        raise ZeroDivisionError("by zero")

    act(monkeypatch, action)
    with pytest.raises(ZeroDivisionError):
        main.run(["pretrain"])


def test_version(call: Call) -> None:
    assert call("--version") == (0, f"metaseg {__version__}\n", "")


def test_help_teaches(call: Call) -> None:
    code, text, _ = call("--help")
    assert code == 0
    assert call()[1] == text
    for part in (
        "without forgetting",
        "Research only, not for clinical use.",
        "metaseg pretrain --epochs 5",
        "Train and adapt:",
    ):
        assert part in text
    assert [text.index(f"\n  {name} ") for name in ("data", "pretrain", "metatune", "evaluate", "runs")] == sorted(
        text.index(f"\n  {name} ") for name in ("data", "pretrain", "metatune", "evaluate", "runs")
    )
    assert max(map(len, text.splitlines())) < 100


def test_examples_of_the_help_are_valid(call: Call, done: list[Any], tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    dump_config(PretrainConfig(), tmp_path / "configs" / "pretrain.yaml")
    dump_config(CompareConfig(), tmp_path / "configs" / "compare" / "phantoms.yaml")
    dump_config(ClassifyCompareConfig(), tmp_path / "configs" / "classify" / "phantoms.yaml")
    dump_config(ClassifySearchConfig(), tmp_path / "configs" / "classify" / "search.yaml")
    RunFolder.create(ClassifyActiveConfig(out=tmp_path / "runs" / "asked")).close()
    lines = [line for verb in VERBS for line in verb.examples] + [
        line.strip() for line in main.HELP.splitlines() if line.startswith("  ")
    ]
    assert len(lines) >= 8
    for line in lines:
        code, _, error = call(*line.split()[1:])
        assert code == 0, (line, error)
    assert len(done) == len(lines)


def test_help_after_other_words_is_still_help(call: Call, done: list[Any]) -> None:
    code, text, _ = call("pretrain", "--epochs", "3", "-h")
    assert code == 0
    assert text.startswith("Usage: metaseg pretrain")
    assert done == []


@pytest.mark.parametrize(
    ("words", "expanded"),
    [
        (["--data", "a", "b", "--x", "1"], ["--data", "a", "--data", "b", "--x", "1"]),
        (["r", "--data", "a", "--", "b"], ["r", "--data", "a", "--", "b"]),
        (["--x", "1", "r"], ["--x", "1", "r"]),
        (["--data=a", "r"], ["--data=a", "r"]),
        (["--data", "--x", "1"], ["--data", "--x", "1"]),
        ([], []),
    ],
)
def test_lists_are_spelled_out(words: list[str], expanded: list[str]) -> None:
    assert expand_lists(words, {"--data"}) == expanded


HEAVY = ("torch", "numpy", "pandas", "pydantic", "rich", "scipy", "monai", "matplotlib", "yaml")


@pytest.mark.parametrize(
    "words",
    [[], ["data"], ["data", "check"], ["classify"], *(verb.words.split() for verb in VERBS), ["runs"], ["doctor"]],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom metaseg.cli.main import run\n"
        f"try:\n    run({[*words, '--help']!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_module_is_the_command(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "METASEG_DEBUG"}
    done = subprocess.run(
        [sys.executable, "-m", "metaseg", "pretrain", "--epochs", "0"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("metaseg: 'epochs' is '0'\n")


def test_closed_pipe_is_no_error(tmp_path: Path) -> None:
    for number in range(40):
        RunFolder.create(PretrainConfig(out=tmp_path / "runs" / f"{number:04}")).close()
    process = subprocess.Popen(
        [sys.executable, "-m", "metaseg", "runs", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    error = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 1
    assert error == ""


WAIT = """
import sys, time, types
from metaseg import verbs
from metaseg.cli import main
from metaseg.runs.folder import RunFolder
def wait(config):
    with RunFolder.create(config):
        print("waiting", flush=True)
        time.sleep(30)
verbs.import_module = lambda name: types.SimpleNamespace(run_pretrain=wait)
main.run(["pretrain", "--out", "r"])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_keep_the_run(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAIT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # Tests that a shell runs in the background inherit that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    _, error = process.communicate()
    assert process.returncode == code
    assert "metaseg pretrain --out r --resume" in error
    assert "Traceback" not in error
    assert RunFolder.open(tmp_path / "r").state.status == "stopped"


def test_quiet_and_json_are_options_of_every_verb(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    act(monkeypatch, lambda config: print("a word") or {"epochs": config.epochs})
    code, out, error = call("pretrain", "--epochs", "3", "--json")
    assert (code, json.loads(out), error) == (0, {"epochs": 3}, "a word\n")
    assert call("pretrain", "--quiet") == (0, "", "")
    for verb in VERBS:
        text = call(*verb.words.split(), "--help")[1]
        assert "--quiet" in text
        assert "--json" in text
