from __future__ import annotations

import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from metaseg.pictures.charts import write_progress_plot
from metaseg.runs.logs import METRICS_COLUMNS, CsvLog, read_curves


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
