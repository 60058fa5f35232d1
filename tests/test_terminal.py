from __future__ import annotations

import io
import re
import sys

import pytest

from metaseg import terminal as terminal_module
from metaseg.terminal import Table, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_log_files_get_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Slices", 1000) as bar:
        for _ in range(1000):
            bar.advance(dice=0.5)
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert error[0].startswith("Slices 1000/1000  ")
    assert error[0].endswith("dice 0.500")


def test_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal_module, "SECONDS_BETWEEN_LINES", 0.0)
    with progress("Slices", None) as bar:
        bar.advance()
        bar.advance(2)
    assert [line.split("  ")[0] for line in capsys.readouterr().err.splitlines()] == ["Slices 1", "Slices 3"]


def test_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress("Slices [of] 3", 3) as bar:
        bar.advance(3, dice=0.25)
        bar.note("a [bracket] stays")
    assert "Slices [of] 3" in terminal.getvalue()
    assert "dice 0.250" in terminal.getvalue()
    assert "a [bracket] stays" in terminal.getvalue()


ROWS = (
    ("runs/[a]", "metatune", "target  ET 0.512\nsource  ET 0.733"),
    ("runs/a-run-whose-name-is-rather-long", "pretrain", "val  ET 0.512"),
)


@pytest.mark.parametrize("width", [40, 60, 100])
def test_no_terminal_cuts_a_table(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    table = Table(("Run", "Verb", "Best metrics"), title="Runs", whole=("Run", "Best metrics"))
    for row in ROWS:
        table.add(*row)
    table.print()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    for row in ROWS:
        for text in (row[0], *row[2].splitlines()):
            assert any(text in line for line in lines)
    assert any("Run " in line and "Verb" in line for line in lines) is (width > 60)


@pytest.mark.parametrize("width", [40, 120])
def test_bar_count_and_time_left_are_always_there(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    with progress("metatune (slice gradients)", 24000) as bar:
        bar.advance(160, **{f"target metric {number}": 0.5 for number in range(6)})
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).replace("\r", "\n").splitlines()
    assert max(map(len, last)) <= width
    [line] = {line for line in last if "160/24000" in line}
    assert "━" in line
    assert ":" in line
    assert "target metric 5 0.500" in "\n".join(last)


def test_what_never_began_leaves_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress("preparing cases", None):
        pass
    with progress("preparing cases", None) as bar:
        bar.set(2, 3)
    shown = terminal.getvalue()
    assert "0/?" not in shown.rpartition("\x1b")[0].split("2/3")[-1]
    assert "2/3" in shown
