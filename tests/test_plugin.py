"""A package that adds a network, an order, a method, a strategy and a reader, used by the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import metaseg
from metaseg.cases.splits import Split

PLUGIN = Path(__file__).parent / "plugin"
SCRIPT = """
import contextlib, io, json, sys
from metaseg.cli.main import run
said = {}
for line in sys.stdin.read().splitlines():
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            run(line.split())
        except SystemExit as end:
            said[line] = (end.code or 0, " ".join(out.getvalue().split()))
print(json.dumps(said))
"""
SMALL = "--format tiny-scans --device cpu --quiet"
RUNS = {
    "source": "pretrain --data data --model tiny-net --epochs 1 --slices-per-epoch 8",
    "tuned": "naivetune --method tiny-tuning --from source --data data --shots 1 --slices 2 --budget 8",
    "meta": "metatune --order by-position --from source --data data --shots 1 --slices 4 --budget 8",
    "chosen": "classify active --acquisition last-first --data data --label cohort --model 2d-cnn --input-size 32 "
    "--epochs 1 --batch 4 --budget 4 --split split.json",
    "factory": "pretrain --data data --model tiny_plugin.networks:tiny_net --epochs 1 --slices-per-epoch 8",
}
DONE = [
    *(f"{words} --out {run} {SMALL}" for run, words in RUNS.items()),
    f"evaluate tuned --data data --pictures 0 {SMALL}",
]
ASKED = {
    "help": "pretrain --help",
    "mistyped": "pretrain --model tiny-nett",
    "methods": "naivetune --help",
    "list": "methods",
    "no factory": f"pretrain --model tiny_plugin.networks:tiny_nat --data data {SMALL}",
}


NAMES = ("a1", "a2", "a3", "a4", "b1", "b2", "b3", "b4")
PARTS = {"train": ("a1", "a2", "b1", "b2"), "val": ("a3", "b3"), "test": ("a4", "b4")}


def install(site: Path) -> None:
    """What ``pip install --no-deps --target`` leaves, without a network."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shutil.copytree(PLUGIN / "tiny_plugin", site / "tiny_plugin", ignore=shutil.ignore_patterns("__pycache__"))
    folder = site / f"tiny_plugin-{project['version']}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    (folder / "entry_points.txt").write_text("\n".join(groups))


def write_cases(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in NAMES:
        outline = np.zeros((32, 32, 6), np.uint8)
        outline[10:20, 8:18, 1:5] = 1
        head = np.zeros((32, 32, 6))
        head[4:28, 4:28] = 1
        scan = head * (100 + 20 * rng.random((32, 32, 6)) + 60 * outline)
        (folder / name).mkdir(parents=True)
        for file, values in (("scan", scan.astype(np.float32)), ("outline", outline)):
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / name / f"{file}.nii.gz")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cases, an installed plug-in, and in ``said.json`` what the verbs said that were called with it."""
    place = tmp_path_factory.mktemp("plugin")
    install(place / "site")
    write_cases(place / "data")
    Split(0, None, PARTS, {name: name for name in NAMES}).save(place / "split.json")
    paths = [str(Path(metaseg.__file__).parents[1]), str(place / "site")]
    added = {"PYTHONPATH": os.pathsep.join(paths), "METASEG_CACHE": str(place / "cache"), "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=place,
        env=os.environ | added,
        input="\n".join([*DONE, *ASKED.values()]),
        capture_output=True,
        text=True,
        check=True,
    )
    (place / "said.json").write_text(done.stdout)
    return place


@pytest.fixture
def said(place: Path) -> dict[str, tuple[int, str]]:
    return json.loads((place / "said.json").read_text())


@pytest.fixture
def without(place, monkeypatch, call):
    """Calls a verb in this process, in which the plug-in is not installed; what was said."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("METASEG_CACHE", str(place / "cache"))
    return lambda *words: " ".join("".join(call(*words)[1:]).split())


def test_every_verb_works_with_it(said):
    assert {line: said[line] for line in DONE if said[line][0]} == {}
    assert said[DONE[-2]] == [0, ""]


def test_runs_name_the_plugin_that_they_were_made_with(place: Path):
    card = json.loads((place / "source" / "checkpoints" / "best.json").read_text(encoding="utf-8"))
    assert (card["name"], card["plugin"]) == ("tiny-net", "tiny-plugin 1.0")
    plugins = {
        run: set(json.loads((place / run / "manifest.json").read_text(encoding="utf-8"))["plugins"])
        for run in ("source", "tuned", "meta", "chosen")
    }
    assert plugins == {
        "source": {"model", "format"},
        "tuned": {"method", "format"},
        "meta": {"order", "format"},
        "chosen": {"acquisition", "format"},
    }


def test_help_and_messages_know_the_names(said):
    assert "fcn-vgg16, tiny-net, or MODULE:FACTORY" in said[ASKED["help"]][1]
    assert "did you mean 'tiny-net'?" in said[ASKED["mistyped"]][1]
    assert "tiny-tuning" in said[ASKED["methods"]][1]
    assert "tiny-tuning" in said[ASKED["list"]][1]


def test_what_is_missing_is_named_where_the_plugin_is_gone(without):
    assert "tiny-net" not in without("pretrain", "--help")
    assert "tiny-plugin 1.0" in without("evaluate", "source", "--data", "data")
    resumed = without("metatune", "--out", "meta", "--resume")
    assert "install" in resumed
    assert "tiny-plugin 1.0" in resumed


def test_factory_of_a_module_is_a_network(place: Path, said):
    card = json.loads((place / "factory" / "checkpoints" / "best.json").read_text(encoding="utf-8"))
    assert card["name"] == "tiny_plugin.networks:tiny_net"
    code, words = said[ASKED["no factory"]]
    assert code == 2
    assert "tiny_nat" in words
