"""Every file of ours, damaged in every way: the reader says so in an error of ours, and nothing else happens."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from metaseg.adapt.setup import AdaptationResult
from metaseg.adapt.watch import read_marks, read_timing
from metaseg.cases.check.parts import parts_of_split
from metaseg.cases.patients import read_patient_table
from metaseg.cases.readers.read import _read_marker
from metaseg.cases.splits import Split
from metaseg.classify.rounds import Round, read_curve, read_rounds, write_round
from metaseg.config.io import load_config
from metaseg.config.segmentation import PretrainConfig
from metaseg.errors import MetasegError
from metaseg.models import ModelCard, build_segmenter, resolve_options, save_checkpoint
from metaseg.models.card import read_card
from metaseg.models.checkpoint import load_checkpoint
from metaseg.models.weights import read_tensors
from metaseg.reports.inputs import read_settings
from metaseg.runs.folder import RunFolder, list_runs
from metaseg.runs.logs import read_curves, read_selection
from metaseg.runs.manifest import Manifest, read_manifest
from metaseg.runs.networks import trained_patients
from metaseg.runs.state import RunState
from metaseg.runs.training_state import load_training_state, save_training_state
from metaseg.studies.classifiers.tables import predictions_in
from metaseg.studies.tables import TABLE_COLUMNS, read_study_table
from metaseg.training.fitted_run import FitSummary

NUMBERS = {"dice": "0.5", "shots": "2", "seed": "1", "work": "8", "update": "2", "domain": "target"}
OPTIONS = {"channels": (4, 8), "strides": (2,)}
LOGS = {
    "metrics.csv": "step,epoch,name,value\n1,,train/loss,0.5\n2,,train/loss,\n",
    "marks.csv": "step,domain,case,patient,region,dice\n8,target,a,a,WT,0.5\n",
    "timing.csv": "step,seconds\n8,1.5\n",
    "selection.csv": "step,case,patient,slice,task,role,position,dice,threshold\n8,a,a,3,learned,query,0,0.5,0.4\n",
    "curve.csv": "round,labels,part,auc,accuracy,balanced_accuracy,f1\n1,10,test,0.5,0.5,0.5,\n",
    "predictions.csv": "slice,patient,truth,predicted,prob_a,prob_b\ns,p,a,b,0.4,0.6\n",
    "patients.csv": "case,patient\na,p\n",
    "table.csv": ",".join(TABLE_COLUMNS) + "\n" + ",".join(NUMBERS.get(name, "x") for name in TABLE_COLUMNS) + "\n",
}  # fmt: skip
PARTS = {"train": [{"case": "a", "patient": "p", "cohort": "HGG"}], "val": [], "inherited": []}
RESULT = {"spent": 8, "before": {"dice/target/WT": 0.5}, "after": {"x": None}, "forgetting": {}, "synthetic": True}

READERS: dict[str, Callable[[Path], Any]] = {
    "state.json": lambda run: RunState.open(run / "state.json"),
    "patients.json": trained_patients,
    "manifest.json": read_manifest,
    "result.json": lambda run: RunFolder.open(run).read_json("result.json", AdaptationResult),
    "fit.json": lambda run: RunFolder.open(run).read_json("fit.json", FitSummary),
    "split.json": lambda run: Split.load(run / "split.json"),
    "split.json, checked": lambda run: parts_of_split(run / "split.json"),
    "metaseg-phantoms.json": lambda run: _read_marker(run / "metaseg-phantoms.json"),
    "rounds/round-001.json": read_rounds,
    "net.json": lambda run: read_card(run / "net.json"),
    "net.json, loaded": lambda run: load_checkpoint(run / "net"),
    "net.safetensors": lambda run: load_checkpoint(run / "net"),
    "net.safetensors, as weights": lambda run: read_tensors(run / "net.safetensors"),
    "net.pth": lambda run: read_tensors(run / "net.pth"),
    "last.state.pt": lambda run: load_training_state(run / "last.state.pt"),
    "config.yaml": lambda run: load_config(PretrainConfig, run / "config.yaml"),
    "config.yaml, reported": lambda run: read_settings(run / "config.yaml"),
    "metrics.csv": read_curves,
    "marks.csv": read_marks,
    "timing.csv": read_timing,
    "selection.csv": read_selection,
    "curve.csv": lambda run: read_curve(run / "curve.csv"),
    "predictions.csv": predictions_in,
    "patients.csv": lambda run: read_patient_table(run / "patients.csv"),
    "table.csv": lambda run: read_study_table(run / "table.csv"),
    "table.parquet": lambda run: read_study_table(run / "table.parquet"),
}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "zeros": lambda good: bytes(len(good)),
    "cut off": lambda good: good[: len(good) // 3],
    "noise": lambda good: np.random.default_rng(0).bytes(len(good)),
    "utf-16": lambda good: good.decode("latin-1").encode("utf-16"),
    "a null byte": lambda good: good[:9] + b"\0" + good[9:],
    "a byte that is no text": lambda good: good[:9] + b"\xff" + good[9:],
    "deep": lambda good: b"[" * 5_000,
    "a page": lambda good: b"<html><body>502 Bad Gateway</body></html>\n",
    "a number": lambda good: b"3\n",
    "a list": lambda good: b'["a", 1]\n',
    "a text": lambda good: b'"text"\n',
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """All files of ours as their writers write them."""
    folder = tmp_path_factory.mktemp("whole")
    with RunFolder.create(PretrainConfig(out=folder / "run")) as run:
        run.state.set_metrics({"val/dice/ET": 0.5})
        run.state.mark("stage", 1)
        Manifest(verb="pretrain", seed=0, device="cpu").save(run.path)
        run.write_json("patients.json", PARTS)
        run.write_json("result.json", RESULT)
        run.write_json("fit.json", {"metrics": {"x": 0.5}, "steps": 3, "best_step": 2})
        run.write_json("metaseg-phantoms.json", {"cases": {"a": {"cohort": "HGG", "grade": None}}})
        write_round(run.path, Round(1, ("a",), (0.5,), (1,), {"test": {"auc": None}}, 1, "last", 2.0))
        Split(0, None, {"train": ("a",), "test": ("b",)}, {"a": "p", "b": "q"}).save(run.path / "split.json")
        card = ModelCard("unet", 1, 2, ("t1",), "whole-lesion", options=resolve_options("unet", OPTIONS))
        model = build_segmenter("unet", 1, 2, seed=0, **OPTIONS)
        save_checkpoint(run.path / "net", model, card)
        torch.save(model.state_dict(), run.path / "net.pth")
        save_training_state(run.path / "last.state.pt", {"step": 1, "model": model.state_dict()})
        for name, text in LOGS.items():
            (run.path / name).write_text(text)
    pd.read_csv(run.path / "table.csv").to_parquet(run.path / "table.parquet")
    return {str(file.relative_to(run.path)): file.read_bytes() for file in run.path.rglob("*") if file.is_file()}


@pytest.fixture
def run(whole: dict[str, bytes], tmp_path: Path) -> Path:
    for name, content in whole.items():
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "run"


@pytest.mark.parametrize("reader", READERS)
def test_whole_files_are_read(run: Path, reader: str) -> None:
    READERS[reader](run)


@pytest.mark.parametrize("damage", [*DAMAGES, "a folder"])
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_named(run: Path, reader: str, damage: str) -> None:
    file = run / reader.partition(",")[0]
    if file.name == "metaseg-phantoms.json" and damage == "a folder":
        pytest.skip("a marker is a file: a folder of its name marks nothing")
    content = file.read_bytes()
    file.unlink()
    if damage == "a folder":
        file.mkdir()
    else:
        file.write_bytes(DAMAGES[damage](content))
    empty_settings = reader.startswith("config.yaml") and damage in ("empty", "cut off")
    with contextlib.suppress(MetasegError) if empty_settings else pytest.raises(MetasegError) as caught:
        READERS[reader](run)
    if not empty_settings:
        assert file.name.partition(".")[0] in str(caught.value)
    if file.name in ("state.json", "manifest.json"):
        assert [row.status for row in list_runs(run.parent)] == ["damaged"] * file.is_file() or damage == "a folder"


WRONG = [None, True, -1, 10**30, 1e308, "x", "", [], [1], [[]], {}, {"a": 1}, {"a": {"a": []}}]


def leaves(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values inside of JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way] * bool(way) + [deeper for key, item in items for deeper in leaves(item, (*way, key))]


@pytest.mark.parametrize("reader", [name for name in READERS if name.endswith(".json")])
def test_a_value_of_another_kind_never_ends_otherwise(run: Path, reader: str) -> None:
    file = run / reader.partition(",")[0]
    good = json.loads(file.read_text())
    for *way, last in leaves(good):
        for wrong in [*WRONG, ...]:
            content = json.loads(json.dumps(good))
            inside = content
            for key in way:
                inside = inside[key]
            if wrong is ...:
                del inside[last]
            else:
                inside[last] = wrong
            file.write_text(json.dumps(content))
            with contextlib.suppress(MetasegError):
                READERS[reader](run)
            if file.name in ("state.json", "manifest.json"):
                list_runs(run.parent)
