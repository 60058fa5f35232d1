"""The package as a notebook uses it: verbs as functions, trained networks as objects, results as tables."""

from __future__ import annotations

import inspect
import runpy
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

import metaseg
from metaseg.api import as_settings, objects, positional
from metaseg.cases.case import Case
from metaseg.config.segmentation import PredictConfig, PretrainConfig
from metaseg.errors import UsageError
from metaseg.results import Result
from metaseg.verbs import VERBS, Verb, verb_of

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Made(Result):
    run: Path = Path("runs/x")


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch):
    """Functions of verbs that give their settings back."""
    for verb in VERBS:
        module, _, name = verb.function.partition(":")
        monkeypatch.setattr(import_module(module), name, lambda config: config)


def test_every_verb_is_a_function():
    others = {"__version__", "load", "Case", "MetasegError", "Predictor"}
    assert {verb.identifier for verb in VERBS} == set(metaseg.__all__) - others
    assert set(metaseg.__all__) <= set(dir(metaseg))
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        metaseg.train  # noqa: B018


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
@pytest.mark.usefixtures("done")
def test_function_does_the_verb_with_its_settings(verb: Verb, tmp_path: Path):
    (tmp_path / "name.yaml").write_text(f"verb: {verb.name}\n", encoding="utf-8")
    arguments = {field.name: "x" for field in verb.fields if field.argument}
    function = getattr(metaseg, verb.identifier)
    config = function(config=tmp_path / "name.yaml", **arguments)
    assert type(config) is verb.config
    assert function(*([tmp_path / "name.yaml"] if verb.file_argument else ["x"] * len(positional(verb)))) is not None
    if verb.file_argument:
        assert config.out == Path("studies/name")
    signature = inspect.signature(function)
    known = {field.name for field in verb.fields} | {"config", "progress", *objects(verb)}
    assert known == set(signature.parameters)
    assert verb.help in str(function.__doc__)


@pytest.mark.usefixtures("done")
def test_objects_stand_for_what_they_are():
    assert metaseg.pretrain(Path("a"), weights=Made()) == PretrainConfig(data=(Path("a"),), weights="runs/x")
    assert metaseg.evaluate(Made()).run == "runs/x"
    assert metaseg.report([Made(), "runs/y"]).runs == (Path("runs/x"), Path("runs/y"))
    assert metaseg.pretrain(model=Made).model.endswith(":Made")


@pytest.mark.usefixtures("done")
def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match="takes data by place"):
        metaseg.pretrain("a", "b")
    with pytest.raises(TypeError, match="takes data by place"):
        metaseg.pretrain("a", data="b")
    with pytest.raises(UsageError, match="unknown setting 'epoch'"):
        metaseg.pretrain(epoch=3)


def test_cases_in_memory_stand_for_folders():
    case = Case(id="a", patient="a", cohort="x", images={}, label=None, scheme=None)
    for name, config, setting in (("cases", PretrainConfig, "data"), ("cases", PredictConfig, "cases")):
        (path,) = as_settings(verb_of(config), {name: [case]})[setting]
        assert isinstance(path, Path)


def test_silence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("metaseg.training.pretrain.run_pretrain", lambda config: print("progress"))
    metaseg.pretrain(progress=False)
    assert capsys.readouterr().out == ""
    metaseg.pretrain()
    assert capsys.readouterr().out == "progress\n"


def test_package_is_cheap():
    code = "import sys, metaseg; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.skipif(not (ROOT / "scripts").is_dir(), reason="needs the repository")
def test_stub_is_up_to_date():
    stub = runpy.run_path(str(ROOT / "scripts" / "make_stub.py"))["stub"]
    message = "run 'python scripts/make_stub.py'"
    assert Path(metaseg.__file__).with_suffix(".pyi").read_text(encoding="utf-8") == stub(), message


SCRIPT = """
import metaseg

source = metaseg.pretrain("data/HGG", epoch=200)
tuned = metaseg.metatune("data/MET", from_run=source, shots="five")
metaseg.evaluate(tuned, data="data/MET", checkpoint="first")
metaseg.predict(tuned, "data/new", tta="no")
metaseg.classify_train("data/cheng", transfer="thaw")
right = metaseg.naivetune("data/MET", from_run=source.run, method="ewc", seed=1, progress=False)
print(right.run, metaseg.load(right).network)
"""


def test_mypy_finds_wrong_arguments_in_a_script(tmp_path: Path):
    mypy = pytest.importorskip("mypy.api")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    stub = Path(metaseg.__file__).with_suffix(".pyi")
    # Types of torch and of results are left out, which would take a minute.
    options = ["--follow-imports=skip", "--no-incremental", "--config-file=", "--cache-dir", str(tmp_path / "cache")]
    text, _, _ = mypy.run([*options, str(tmp_path / "script.py"), str(stub)])
    errors = [line for line in text.splitlines() if ": error:" in line]
    assert len(errors) == 5, text
    for line, word in zip(errors, ("epoch", "shots", "checkpoint", "tta", "transfer"), strict=True):
        assert word in line
