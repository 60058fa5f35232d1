"""Generated sets of small images that a tiny network can tell apart: a bright disc on the left or on the right."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from metaseg.classify.data import into_parts, open_slices
from metaseg.classify.slices import ClassifiedSlices
from metaseg.config.classification import ClassifyActiveConfig, ClassifyTrainConfig
from metaseg.config.io import load_config

SIZE = 24
SIDES = ("left", "right")


def disc(side: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture and outline, ``(24, 24)`` ``uint8``."""
    rng = np.random.default_rng(seed)
    down, across = np.indices((SIZE, SIZE))
    middle = {"left": 6, "right": SIZE - 7}.get(side, SIZE // 2) + rng.integers(-1, 2)
    mask = (down - rng.integers(8, 16)) ** 2 + (across - middle) ** 2 < 16
    picture = 70 + 12 * rng.standard_normal((SIZE, SIZE)) + 130 * mask
    return np.clip(picture, 1, 255).astype(np.uint8), (255 * mask).astype(np.uint8)


def write_images(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """A folder for each class, of single images without patients."""
    for number, (side, count) in enumerate(counts.items()):
        (root / side).mkdir(parents=True, exist_ok=True)
        for one in range(count):
            picture = disc(side, 1000 * seed + 100 * number + one)[0]
            Image.fromarray(picture).save(root / side / f"{side}{one:02d}.png")
    return root


def write_patients(root: Path, patients: int, slices: int, sides: tuple[str, ...] = SIDES) -> Path:
    """A table of slices: so many patients of each class, so many slices of each, all with outlines."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    rows = []
    for number, side in enumerate(sides):
        for patient in range(patients):
            for one in range(slices):
                picture, mask = disc(side, 10_000 + 1000 * number + 20 * patient + one)
                name = f"{side}{patient:02d}-{one}.png"
                Image.fromarray(picture).save(root / "images" / name)
                Image.fromarray(mask).save(root / "masks" / name)
                rows.append((f"{side}{patient:02d}", f"images/{name}", f"masks/{name}", side))
    with (root / "index.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("patient_id", "image", "mask", "class"), *rows])
    return root


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), dict.fromkeys(SIDES, 14))


@pytest.fixture(scope="session")
def patients(tmp_path_factory) -> Path:
    return write_patients(tmp_path_factory.mktemp("patients") / "set", 8, 3)


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _no_cache_of_the_user(cache, monkeypatch):
    monkeypatch.setenv("METASEG_CACHE", str(cache))


Configure = Callable[..., Any]


@pytest.fixture(scope="session")
def common(images, cache) -> dict[str, Any]:
    return {
        "data": images,
        "cache": cache,
        "copies": "identical",
        "model": "lau-cnn",
        "input_size": 16,
        "learning_rate": 0.01,
        "batch_size": 8,
        "epochs": 2,
        "device": "cpu",
        "jobs": 1,
        "augment": "none",
    }


@pytest.fixture
def train_config(common, tmp_path) -> Configure:
    """Settings of a short fit; keywords change them."""
    return lambda **changes: load_config(ClassifyTrainConfig, None, common | {"out": tmp_path / "run"} | changes)


@pytest.fixture
def active_config(common, tmp_path) -> Configure:
    """Settings of short active learning; keywords change them."""
    settings = common | {"out": tmp_path / "run", "batch": 4, "budget": 12, "initial": 4, "acquisition": "entropy"}
    return lambda **changes: load_config(ClassifyActiveConfig, None, settings | changes)


@pytest.fixture
def open_set(common) -> Callable[..., ClassifiedSlices]:
    """The slices of a set; keywords are settings."""

    def open_it(**changes: Any) -> ClassifiedSlices:
        config = load_config(ClassifyTrainConfig, None, common | changes)
        return open_slices(config)

    return open_it


@pytest.fixture
def parts_of(common) -> Callable[..., Any]:
    """The parts of a set; keywords are settings."""

    def divide_it(**changes: Any) -> Any:
        config = load_config(ClassifyTrainConfig, None, common | changes)
        return into_parts(open_slices(config), config)

    return divide_it


@pytest.fixture(autouse=True)
def _quick_pictures(monkeypatch):
    """Drawing takes longer than all else here, and has tests of its own."""

    monkeypatch.setattr(Figure, "savefig", lambda self, stream, **options: stream.write(b"a picture"))
    monkeypatch.setattr("metaseg.inference.classification_files._draw", lambda *args: [])
