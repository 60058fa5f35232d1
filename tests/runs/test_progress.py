from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from metaseg import terminal as progress_module
from metaseg.config.segmentation import PretrainConfig
from metaseg.pictures.charts import write_progress_plot
from metaseg.runs.folder import RunFolder, list_runs
from metaseg.runs.logs import METRICS_COLUMNS, CsvLog, read_curves
from metaseg.runs.manifest import Manifest
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
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", 0.0)
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


def write_metrics(folder: Path, names: list[str]) -> None:
    log = CsvLog(folder / "metrics.csv", METRICS_COLUMNS)
    log.append([{"step": step, "name": name, "value": step / 10} for step in range(9) for name in names])
    log.append([{"step": 9, "name": names[0], "value": float("nan")}])
    log.close()


def test_plot_is_a_picture_of_loss_and_dice(tmp_path: Path) -> None:
    from PIL import Image

    write_metrics(tmp_path, ["train/loss", "val/dice/ET", "train/learning_rate"])
    assert read_curves(tmp_path)["train/loss"][0] == list(range(9))
    path = write_progress_plot(tmp_path, synthetic=True)
    assert path is not None
    with Image.open(path) as both:
        height = both.height
    write_metrics(tmp_path, ["train/loss"])
    write_progress_plot(tmp_path)
    with Image.open(path) as one:
        assert one.height < height


def test_plot_says_synthetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    titles: list[str] = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, text: titles.append(text))
    write_metrics(tmp_path, ["train/loss"])
    write_progress_plot(tmp_path, title="A run", synthetic=True)
    write_progress_plot(tmp_path, title="A run")
    assert titles == ["A run (synthetic data)", "A run"]


def test_plot_leaves_no_global_state(tmp_path: Path) -> None:
    write_metrics(tmp_path, ["val/dice"])
    write_progress_plot(tmp_path)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_nothing_to_draw(tmp_path: Path) -> None:
    assert write_progress_plot(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


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
