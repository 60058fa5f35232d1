from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import metaseg
from metaseg.cases.readers import read_cases
from metaseg.cases.splits import Split, make_split
from metaseg.config.io import load_config
from metaseg.config.studies import CompareConfig

StudyWriter = Callable[..., CompareConfig]


@pytest.fixture(scope="session")
def domains(write_cases, tmp_path_factory) -> dict[str, Any]:
    """A small network that has learned a little of the source, the cases of both domains, and a split over both."""
    root = tmp_path_factory.mktemp("domains")
    parts, patients = {}, {}
    for name, centre in (("HGG", 0.5), ("MET", 0.35)):
        own = make_split(read_cases(write_cases(name, 6, centre=centre)), {"train": 3, "val": 1, "test": 2})
        parts |= {part: (*parts.get(part, ()), *ids) for part, ids in own.parts.items()}
        patients |= own.patients
    Split(0, None, parts, patients).save(root / "split.json")
    settings = {"data": write_cases("HGG", 6, centre=0.5), "split": root / "split.json", "classes": ["HGG"]}
    run = metaseg.pretrain(
        **settings,
        cache=root / "cache",
        out=root / "pre",
        epochs=2,
        slices_per_epoch=32,
        learning_rate=0.01,
        augment="none",
        ema=0,
        model_options={"channels": [4, 8], "strides": [2]},
        jobs=1,
    )
    return {
        "from": str(run.run),
        "cache": root / "cache",
        "target": {"data": str(write_cases("MET", 6, centre=0.35)), "classes": ["MET"]},
        "shared": {"source": str(settings["data"]), "split": str(root / "split.json"), "slices": 4},
        "split": root / "split.json",
    }


@pytest.fixture
def study(domains, tmp_path) -> StudyWriter:
    """The settings of a small study; keywords change them."""

    def make(**changes: Any) -> CompareConfig:
        settings: dict[str, Any] = {
            "from": domains["from"],
            "cache": domains["cache"],
            "targets": {"met": domains["target"]},
            "shared": domains["shared"],
            "methods": {"naive": {}, "maml-active": {"method": "maml", "order": "active"}},
            "shots": [2],
            "seeds": [0],
            "budget": 12,
            "marks": 2,
            "resamples": 100,
            "threads": 1,
            "device": "cpu",
            "out": tmp_path / "study",
        }
        return load_config(CompareConfig, None, settings | changes)

    return make
