"""The commands of the README and the tutorial are run, one page in one folder, on small data and with small budgets."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from test_docs import ROOT, command_lines

from metaseg.cli import main

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="needs the repository")

NET = ["--model-options", '{"channels": [4, 8], "strides": [2]}', "--jobs", "1", "--device", "cpu"]
TUNING = ["--slices", "4", "--budget", "12", "--marks", "1", "--no-pictures"]
SMALLER = {
    "data phantoms": ["--cases", "3"],
    "pretrain": [*NET, "--epochs", "1", "--slices-per-epoch", "8", "--validate-every", "1", "--val-fraction", "0.34"],
    "tune": [*TUNING, "--effort", "none"],
    "metatune": TUNING,
    "naivetune": TUNING,
    "evaluate": ["--no-surface", "--no-tta", "--pictures", "0"],
    "predict": ["--no-tta", "--no-pictures"],
    "report": ["--worst", "0", "--no-figures"],
    "classify train": [
        "--model",
        "lau-cnn",
        "--weights",
        "none",
        "--input-size",
        "16",
        "--epochs",
        "1",
        "--device",
        "cpu",
    ],
    "classify evaluate": ["--pictures", "0"],
    "classify predict": ["--pictures", "0"],
}
"""What makes each verb quick; the last of two equal options counts."""

ELSEWHERE = {
    "classify active": "waits for an annotator: tests/classify/test_annotator.py",
    "doctor": "looks at the machine: tests/cli/test_runs_doctor.py",
}
OTHER_DATA = ("data/cheng", "configs/")
"""Named in commands for data that the tests do not have."""


def smaller(words: list[str]) -> list[str] | None:
    """A documented command on this page's data, quick; None where another test does it."""
    verb = " ".join(words[:2]) if words[0] in ("data", "classify") else words[0]
    if verb in ELSEWHERE or "--help" in words or any(name in word for word in words for name in OTHER_DATA):
        return None
    if "--resume" in words:  # of a run that the page has its reader begin and interrupt by hand
        return None
    if "--shots" in words and words[words.index("--shots") + 1] != "all":
        words = [*words, "--shots", "1"]
    words = ["phantoms/MET/Phantom_MET_002" if word.startswith("phantoms/MET/Phantom") else word for word in words]
    return [*words, *SMALLER.get(verb, [])]


@pytest.fixture
def here(tmp_path, monkeypatch, write_cases):
    """A folder with the data that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METASEG_CACHE", str(tmp_path / "cache"))
    for name, cohorts in {"HGG": ["HGG"], "MET": ["MET"], "new-patients": ["NEW"], "BraTS2018": ["HGG", "LGG"]}.items():
        for cohort in cohorts:
            target = tmp_path / "data" / name / (cohort if len(cohorts) > 1 else "")
            # As the README has it: a lab with five outlined patients.
            shutil.copytree(write_cases(cohort, {"NEW": 2, "MET": 5}.get(cohort, 8)), target)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_commands_do_what_the_page_says(page: str, here: Path, capsys) -> None:
    done = []
    for documented in command_lines((ROOT / page).read_text(encoding="utf-8")):
        words = smaller(documented)
        if words is None:
            continue
        with pytest.raises(SystemExit) as ended:
            main.run(words)
        assert not ended.value.code, f"metaseg {' '.join(words)}\n{capsys.readouterr().err}"
        done.append(words[0])
    assert {"pretrain", "metatune", "naivetune", "evaluate", "predict"} <= set(done)
    if page == "README.md":
        judged = json.loads((here / "runs" / "met" / "evaluation" / "metrics.json").read_text())["evaluation"]["cases"]
        assert judged["cross_validated"] == 5
        for run in ("met", "met-active", "met-naive"):
            result = json.loads((here / "runs" / run / "result.json").read_text())
            assert result["cross_validated"]["folds"] == 5
            assert len(json.loads((here / "runs" / run / "patients.json").read_text())["train"]) == 5
