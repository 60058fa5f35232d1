from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import metaseg
from metaseg.verbs import VERBS, Verb


def function_name(verb: Verb) -> str:
    return verb.identifier


def test_every_verb_is_a_function() -> None:
    assert {function_name(verb) for verb in VERBS} == set(metaseg.__all__) - {"__version__"}


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_function_does_the_verb_with_its_settings(verb: Verb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module, _, name = verb.function.partition(":")
    monkeypatch.setattr(import_module(module), name, lambda config: config)
    (tmp_path / "name.yaml").write_text(f"verb: {verb.name}\n", encoding="utf-8")
    arguments = {field.name: "x" for field in verb.fields if field.argument}
    config = getattr(metaseg, function_name(verb))(config=tmp_path / "name.yaml", **arguments)
    assert type(config) is verb.config
    if verb.file_argument:
        assert config.out == Path("studies/name")


def test_package_is_cheap() -> None:
    code = "import sys, metaseg; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
