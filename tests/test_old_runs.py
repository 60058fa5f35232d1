"""Run folders of earlier releases are resumed, evaluated and reported; ``fixtures/old_runs`` says what made them."""

from __future__ import annotations

import csv
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import metaseg
from metaseg.cases.phantoms.write import make_phantoms
from metaseg.errors import UsageError
from metaseg.runs.folder import RunFolder

FIXTURE = Path(__file__).parent / "fixtures" / "old_runs" / "old_runs.tar.xz"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The old runs, their split and the phantoms that they were made of."""
    root = tmp_path_factory.mktemp("old")
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(root, filter="data")
    for cohort in ("hgg", "met"):
        make_phantoms(root / "phantoms", cohort, 5, 0)
    return root


@pytest.fixture
def old(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own that holds the old runs, as the working directory, since their paths are relative."""
    for name in ("first", "second"):
        shutil.copytree(unpacked / name, tmp_path / name)
    for name in ("phantoms", "split.json", "compare.yaml"):
        os.symlink(unpacked / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METASEG_CACHE", str(unpacked / "cache"))
    return tmp_path


@pytest.fixture
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longer than all else here, and have tests of their own."""
    monkeypatch.setattr("metaseg.inference.classification_files._draw", lambda *args: [])


def steps(run: str, file: str = "metrics.csv") -> list[int]:
    with (Path(run) / file).open(newline="") as stream:
        return [int(row["step"]) for row in csv.DictReader(stream)]


def read_dice(run: str) -> list[float]:
    with (Path(run) / "metrics.csv").open(newline="") as stream:
        return [float(row["value"]) for row in csv.DictReader(stream) if row["name"].startswith("dice/")]


def resume(verb: str, run: str, **settings: Any) -> Any:
    """Resume a run as ``metaseg VERB --out RUN --resume`` does."""
    return getattr(metaseg, verb)(config=Path(run) / "config.yaml", out=run, resume=True, **settings)


def test_interrupted_pretraining_is_resumed_as_if_never_interrupted(old: Path) -> None:
    resume("pretrain", "first/interrupted")
    assert RunFolder.open(Path("first/interrupted")).state.status == "finished"
    assert steps("first/interrupted") == steps("first/pretrained") == sorted(steps("first/interrupted"))
    assert read_dice("first/interrupted") == pytest.approx(read_dice("first/pretrained"), abs=0.02)


def test_interrupted_metatuning_is_resumed(old: Path) -> None:
    selection = old / "first/active-cut/selection.csv"
    before = pd.read_csv(selection, dtype=str)
    result = resume("metatune", "first/active-cut", pictures=False)
    assert RunFolder.open(result.run).state.status == "finished"
    assert steps("first/active-cut")[-1] == 60
    after = pd.read_csv(selection, dtype=str)
    pd.testing.assert_frame_equal(after.loc[: len(before) - 1, list(before)], before)
    # Its rows have no column that came later.
    assert after["rule"].isna().tolist() == [True] * len(before) + [False] * (len(after) - len(before))
    with pytest.raises(UsageError, match="budget: 60 -> 90"):
        resume("metatune", "first/active-cut", budget=90)


@pytest.mark.parametrize(
    ("verb", "run"),
    [("pretrain", "pretrained"), ("naivetune", "naive"), ("metatune", "active")],
)
def test_finished_run_stays_as_it_is(old: Path, verb: str, run: str) -> None:
    files = {path: path.read_bytes() for path in (old / "first" / run).rglob("*") if path.is_file()}
    assert resume(verb, f"first/{run}").run == Path("first") / run
    assert {path: path.read_bytes() for path in files} == files


def test_network_is_adapted_evaluated_and_predicts(old: Path) -> None:
    data: dict[str, Any] = {"data": "phantoms", "classes": ["MET"], "split": "split.json", "device": "cpu", "jobs": 1}
    settings: dict[str, Any] = {"shots": 1, "slices": 2, "budget": 4, "marks": 1, "watch_cases": 1, "pictures": False}
    tuned = metaseg.naivetune(**data, **settings, from_run="first/pretrained", image_size=32, out="new")
    assert RunFolder.open(tuned.run).state.status == "finished"
    evaluated = metaseg.evaluate(run="first/naive", **data, part="test", out="evaluation", pictures=0)
    assert set(evaluated.cohorts["network"]) == {"before", "after"}
    case = next(Path("phantoms/MET").iterdir())
    [row] = metaseg.predict(run="first/active", cases=[case], out="predicted", pictures=False, device="cpu").cases
    assert row.case == case.name


def test_evaluation_goes_on_and_gives_the_same(old: Path) -> None:
    """The metrics of the first release are read, and computed anew they are the same."""
    settings: dict[str, Any] = {"data": "phantoms", "split": "split.json", "part": "test", "image_size": 32, "jobs": 1}
    found = metaseg.evaluate(run="first/active", **settings, device="cpu", pictures=0, resume=True)
    assert not (old / "first/active/evaluation/metrics.csv").exists()
    again = metaseg.evaluate(run="first/active", **settings, device="cpu", pictures=0, out="again")
    for name in ("case", "network", "target"):
        assert list(found.cases[name]) == list(again.cases[name])
    assert list(found.cases["dice"]) == pytest.approx(list(again.cases["dice"]), nan_ok=True)


def test_runs_are_reported(old: Path) -> None:
    page = metaseg.report(runs=["first/active", "first/naive"], out="page.html", figures=False).page
    text = page.read_text(encoding="utf-8")
    for word in ("metatune", "naivetune", "SYNTHETIC"):
        assert word in text


def test_study_keeps_its_cells_and_is_reported(old: Path) -> None:
    cells = {path: path.stat().st_mtime_ns for path in (old / "second/study/cells").rglob("*.safetensors")}
    with (old / "second/study/summary.csv").open(newline="") as stream:
        before = list(csv.DictReader(stream))
    metaseg.compare(config="compare.yaml")
    assert {path: path.stat().st_mtime_ns for path in cells} == cells
    with (old / "second/study/summary.csv").open(newline="") as stream:
        after = list(csv.DictReader(stream))
    assert [row["target_after"] for row in after] == [row["target_after"] for row in before]
    assert "maml-active" in metaseg.report(runs=["second/study"], figures=False).page.read_text(encoding="utf-8")


def test_classifier_is_evaluated_and_reported(old: Path, quick_pictures: None) -> None:
    assert resume("classify_train", "second/classifier").run == Path("second/classifier")
    metaseg.classify_evaluate(run="second/classifier", out="evaluation", device="cpu")
    now, then = (pd.read_csv(f"{folder}/predictions.csv") for folder in ("evaluation", "second/classifier/test"))
    pd.testing.assert_frame_equal(now, then, rtol=1e-6)
    assert metaseg.report(runs=["second/classifier"], figures=False).page.is_file()


def test_interrupted_active_learning_is_resumed_and_reported(old: Path, quick_pictures: None) -> None:
    before = (old / "second/active/curve.csv").read_text()
    resume("classify_active", "second/active")
    curve = (old / "second/active/curve.csv").read_text()
    assert curve.startswith(before)
    assert curve.splitlines()[-1].startswith("4,16,")
    assert metaseg.report(runs=["second/active"], figures=False).page.is_file()
