"""Small data sets that many tests read: NIfTI cases written on the fly, with a lesion that a tiny net can learn."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from imagenet_files import ImageNetFiles, imagenet_files

import metaseg
from metaseg.cases.readers import read_cases
from metaseg.cases.splits import Split, make_split
from metaseg.cli import main

CaseWriter = Callable[..., Path]

AT_MARKS = (
    ("metaseg.training.fitted_run", "write_progress_plot"),
    ("metaseg.training.pretrain", "log_overlay"),
    ("metaseg.adapt.watch", "write_progress_plot"),
    ("metaseg.adapt.watch", "log_overlay"),
)
"""What draws at every mark of a run, by module and name."""


@pytest.fixture(scope="session")
def drawn_at_marks() -> dict[tuple[str, str], Any]:
    """What draws at the marks, as far as the tests have imported it."""
    return {(module, name): vars(sys.modules[module])[name] for module, name in AT_MARKS if module in sys.modules}


@pytest.fixture(scope="session", autouse=True)
def _nothing_drawn_at_marks(drawn_at_marks: dict[tuple[str, str], Any]) -> Iterator[None]:
    """Runs draw nothing at their marks: drawing takes longer than runs as small as these, and has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in drawn_at_marks:
            patch.setattr(sys.modules[module], name, lambda *arguments, **named: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _disk_not_waited_for() -> Iterator[None]:
    """Nothing is brought to the disk, which takes longer than writing: tests of power cuts record what would be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def draw_at_marks(drawn_at_marks: dict[tuple[str, str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw at their marks, as users see it."""
    for (module, name), draw in drawn_at_marks.items():
        monkeypatch.setattr(sys.modules[module], name, draw)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Runs a command line in this process; gives its exit code, what it printed, and its messages."""

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main.run([str(word) for word in words])
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


def write_case(root: Path, name: str, seed: int, shape: tuple[int, int, int], centre: float, dtype: type) -> None:
    """One BraTS-named case: a bright ball (label 4) in a shell (2) with a core (1), in a box-shaped brain."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape).astype(float)
    middle = np.array([size * centre for size in shape])[:, None, None, None]
    distance = np.sqrt((((grid - middle) / np.array([1.0, 1.0, 0.6])[:, None, None, None]) ** 2).sum(axis=0))
    label = np.zeros(shape, np.uint8)
    label[distance < 5.5], label[distance < 4], label[distance < 1.8] = 2, 4, 1
    brain = np.zeros(shape, bool)
    brain[2:-2, 1:-3, 1:-1] = True
    folder = root / name
    folder.mkdir(parents=True)
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    for number, modality in enumerate(("flair", "t1", "t1ce", "t2")):
        image = 200.0 + 20 * rng.standard_normal(shape)
        image += {0: 150.0, 1: -60.0, 2: 0.0, 3: 120.0}[number] * (label == 2)
        image += {0: 60.0, 1: -80.0, 2: 250.0, 3: 40.0}[number] * (label == 4)
        image += {0: -50.0, 1: -90.0, 2: -80.0, 3: 200.0}[number] * (label == 1)
        values = np.where(brain, np.clip(np.rint(image), 1, None), 0).astype(dtype)
        nib.save(nib.Nifti1Image(values, affine), folder / f"{name}_{modality}.nii.gz")
    nib.save(nib.Nifti1Image(label * brain, affine), folder / f"{name}_seg.nii.gz")


@pytest.fixture(scope="session")
def write_cases(tmp_path_factory: pytest.TempPathFactory) -> CaseWriter:
    """Writes ``count`` cases of one cohort and gives their folder; the same arguments give the same folder."""
    made: dict[tuple[object, ...], Path] = {}

    def write(
        cohort: str = "HGG",
        count: int = 4,
        shape: tuple[int, int, int] = (26, 22, 12),
        centre: float = 0.5,
        dtype: type = np.int16,
    ) -> Path:
        key = (cohort, count, shape, centre, dtype)
        if key not in made:
            root = tmp_path_factory.mktemp("cases")
            for number in range(count):
                write_case(root / cohort, f"Brats18_{cohort}{number:02d}_1_1", number, shape, centre, dtype)
            made[key] = root / cohort
        return made[key]

    return write


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
def imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageNetFiles]:
    """ImageNet-shaped weight files on a server of this machine: ``imagenet.publish("vgg16")`` makes one."""
    root = tmp_path / "imagenet"
    root.mkdir()
    with imagenet_files(root, monkeypatch) as files:
        yield files
