from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metaseg.cli.output import do_and_give, json_value, say_loading
from metaseg.errors import nearest, warn_user
from metaseg.terminal import progress


@dataclass(frozen=True)
class Result:
    out: Path
    cases: pd.DataFrame
    best: dict[str, float | None]
    names: tuple[str, ...] = ("a",)


RESULT = Result(Path("x/y"), pd.DataFrame({"case": ["a"], "dice": [np.nan]}), {"dice": np.float64(0.5)})


def work() -> Result:
    print("some words")
    with progress("working", 1) as bar:
        bar.advance()
        bar.note("a note")
    return RESULT


def test_json_stands_alone_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    do_and_give(work, quiet=False, as_json=True)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "out": "x/y",
        "cases": [{"case": "a", "dice": None}],
        "best": {"dice": 0.5},
        "names": ["a"],
    }
    assert "some words" in captured.err


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    do_and_give(work, quiet=True, as_json=False)
    assert capsys.readouterr() == ("", "")
    do_and_give(work, quiet=True, as_json=True)
    out, error = capsys.readouterr()
    assert json.loads(out)["best"] == {"dice": 0.5}
    assert error == ""
    do_and_give(work, quiet=False, as_json=False)
    assert capsys.readouterr().out == "some words\n"


def test_quiet_keeps_warnings() -> None:
    with pytest.warns(match="a doubt"):
        do_and_give(lambda: warn_user("a doubt"), quiet=True, as_json=False)


@pytest.mark.parametrize(
    ("value", "plain"), [(np.int64(3), 3), (np.array([1.5]), [1.5]), (None, None), (True, True), (float("inf"), None)]
)
def test_values_as_json(value: object, plain: object) -> None:
    assert json_value(value) == plain


def test_loading_is_said_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    say_loading()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    say_loading()
    assert capsys.readouterr().err == "loading …\n"


@pytest.mark.parametrize(
    ("given", "meant"),
    [("--lr", "--learning-rate"), ("--epoch", "--epochs"), ("--learning_rate", "--learning-rate"), ("--xyzw", None)],
)
def test_likely_options(given: str, meant: str | None) -> None:
    assert nearest(given, ["--epochs", "--learning-rate", "--jobs"]) == meant
