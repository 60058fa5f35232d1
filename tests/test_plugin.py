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
import sys
from metaseg.cli.main import run
for line in sys.stdin.read().splitlines():
    try:
        run(line.split())
    except SystemExit as end:
        assert not end.code, line
"""
SMALL = "--format tiny-scans --device cpu --quiet"
COMMANDS = f"""
pretrain --data data --model tiny-net --epochs 1 --slices-per-epoch 8 --out source {SMALL}
naivetune --method tiny-tuning --from source --data data --shots 1 --slices 2 --budget 8 --out tuned {SMALL}
metatune --order by-position --from source --data data --shots 1 --slices 4 --budget 8 --out meta {SMALL}
classify active --acquisition last-first --data data --label cohort --model 2d-cnn --input-size 32 --epochs 1 \
 --batch 4 --budget 4 --split split.json --out chosen {SMALL}
evaluate tuned --data data --pictures 0 {SMALL}
"""


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
    """A folder with cases, an installed plug-in, and runs that were made with it."""
    place = tmp_path_factory.mktemp("plugin")
    install(place / "site")
    write_cases(place / "data")
    Split(0, None, PARTS, {name: name for name in NAMES}).save(place / "split.json")
    done = call(place, "-c", SCRIPT, text=COMMANDS.strip().replace("\\\n", ""))
    assert done.returncode == 0, done.stderr
    return place


def call(place: Path, *arguments: str, installed: bool = True, text: str = "") -> subprocess.CompletedProcess[str]:
    paths = [str(Path(metaseg.__file__).parents[1]), *([str(place / "site")] if installed else [])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths), "METASEG_CACHE": str(place / "cache"), "COLUMNS": "120",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


def verb(place: Path, *words: str, installed: bool = True) -> str:
    done = call(place, "-m", "metaseg", *words, installed=installed)
    return " ".join((done.stdout + done.stderr).split())


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


def test_help_and_messages_know_the_names(place: Path):
    assert "fcn-vgg16, tiny-net, or MODULE:FACTORY" in verb(place, "pretrain", "--help")
    assert "did you mean 'tiny-net'?" in verb(place, "pretrain", "--model", "tiny-nett")
    assert "tiny-tuning" in verb(place, "naivetune", "--help")
    assert "tiny-tuning" in verb(place, "methods")


def test_what_is_missing_is_named_where_the_plugin_is_gone(place: Path):
    assert "tiny-net" not in verb(place, "pretrain", "--help", installed=False)
    evaluated = verb(place, "evaluate", "source", "--data", "data", installed=False)
    assert "tiny-plugin 1.0" in evaluated
    resumed = verb(place, "metatune", "--out", "meta", "--resume", installed=False)
    assert "install" in resumed
    assert "tiny-plugin 1.0" in resumed


def test_factory_of_a_module_is_a_network(place: Path):
    options = ["--data", "data", "--format", "tiny-scans", "--epochs", "1", "--slices-per-epoch", "8", "--quiet"]
    name = "tiny_plugin.networks:tiny_net"
    assert verb(place, "pretrain", "--model", name, *options, "--out", "factory") == ""
    card = json.loads((place / "factory" / "checkpoints" / "best.json").read_text(encoding="utf-8"))
    assert card["name"] == name
    assert "no 'tiny_nat'" in verb(place, "pretrain", "--model", "tiny_plugin.networks:tiny_nat", *options).replace(
        "unknown network", "no"
    )
