from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import typer

from metaseg.cli.output import messages
from metaseg.errors import DataWarning, recorded_warnings, warn_user, warnings_so_far
from metaseg.runs.manifest import MANIFEST_NAME, Manifest


def test_warnings_of_threads_are_recorded_once_and_only_while_asked_for():
    with recorded_warnings() as heard, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: warn_user("case P1 has no label", where="P1", remedy="outline it"), range(8)))
        assert warnings_so_far() == heard == ["case P1 has no label\n  in:       P1\n  to do:    outline it"]
    with pytest.warns(DataWarning, match="too late"):
        warn_user("too late")
    assert len(heard) == 1
    assert warnings_so_far() == []


def test_blocks_inside_one_another_end_in_any_order():
    first, second = recorded_warnings(), recorded_warnings()
    first.__enter__(), second.__enter__()
    first.__exit__(None, None, None)
    with pytest.warns(DataWarning):
        warn_user("the later block still listens")
    assert warnings_so_far() == ["the later block still listens"]
    second.__exit__(None, None, None)


def test_command_line_prints_a_warning_once_as_a_message(capsys):
    with messages():
        for _ in range(3):
            warn_user("the image is constant", where="P1_t1.nii.gz")
    assert capsys.readouterr().err == "metaseg: warning: the image is constant\n  in:       P1_t1.nii.gz\n"


def test_a_failing_verb_has_printed_its_warnings(capsys):
    def verb() -> None:
        warn_user("one case is left out")
        raise MemoryError

    with pytest.raises(typer.Exit), messages():
        verb()
    assert capsys.readouterr().err.startswith("metaseg: warning: one case is left out\nmetaseg: out of memory")


def test_manifest_keeps_the_warnings_of_all_sessions(tmp_path):
    for text in ("a case is left out", "another", "a case is left out"):
        with recorded_warnings():
            warn_user(text)
            Manifest(verb="pretrain", seed=0, device="cpu").save(tmp_path)
    assert json.loads((tmp_path / MANIFEST_NAME).read_text())["warnings"] == ["a case is left out", "another"]
