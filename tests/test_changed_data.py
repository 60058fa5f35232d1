"""A run that was cut off goes on with the data that it began with, or says what has changed."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import metaseg
from metaseg.adapt.watch import Watch
from metaseg.classify.active import _ActiveLearning as Active
from metaseg.errors import DataError, DataWarning, RunError
from metaseg.training.fitted_run import FitListener

NET = {"channels": [4, 8], "strides": [2]}


def rewrite(file: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nib.load(file)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), file)


def remove(data: Path) -> None:
    shutil.rmtree(case(data))


def mirror(data: Path) -> None:
    rewrite(next(case(data).glob("*_flair*")), lambda values: values[::-1].copy())


def empty_label(data: Path) -> None:
    rewrite(next(case(data).glob("*_seg*")), np.zeros_like)


def remove_label(data: Path) -> None:
    next(case(data).glob("*_seg*")).unlink()


def add(data: Path) -> None:
    """A case that comes first by name, so that a split drawn anew would be another one."""
    old, new = case(data), data / "Brats18_AAA_1_1"
    shutil.copytree(old, new)
    for file in new.iterdir():
        file.rename(new / file.name.replace(old.name, new.name))
        if "_seg" not in file.name:
            rewrite(new / file.name.replace(old.name, new.name), lambda values: values + (values > 0))


def case(data: Path) -> Path:
    return sorted(path for path in data.iterdir() if path.is_dir())[-1]


REFUSED = [remove, mirror, empty_label, remove_label]
NOT_AS_BEFORE = "not those that the run began with|has no label|without a label"


@contextlib.contextmanager
def changed(data: Path, change: Callable[[Path], None]) -> Iterator[None]:
    """The data of another moment, brought back afterwards."""
    before = data.with_name(data.name + ".before")
    shutil.copytree(data, before)
    try:
        change(data)
        yield
    finally:
        shutil.rmtree(data)
        before.rename(data)


def interrupt(patch: pytest.MonkeyPatch, kind: type, method: str, call: int) -> None:
    """Stop a run at a call of a method, as if it were killed there."""
    original, calls = getattr(kind, method), iter(range(call))

    def stopping(*args, **named):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return original(*args, **named)

    patch.setattr(kind, method, stopping)


class Cut:
    """A run that was cut off."""

    def __init__(self, root: Path, verb: Callable, stop: tuple[type, str, int], **settings) -> None:
        self.root, self.verb, self.settings = root, verb, settings
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, *stop)
            with pytest.raises(KeyboardInterrupt):
                verb(**settings, out=root / "cut")

    def resume(self) -> Path:
        """Go on in a copy, with the settings that the run has."""
        out = self.root / "again"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self.root / "cut", out)
        self.verb(config=out / "config.yaml", out=out, resume=True)
        return out

    @cached_property
    def whole(self) -> Path:
        """The same run, left alone."""
        self.verb(**self.settings, out=self.root / "whole")
        return self.root / "whole"

    def same(self, *names: str) -> None:
        for name in names:
            assert (self.root / "again" / name).read_bytes() == (self.whole / name).read_bytes(), name


def own_copy(folder: Path, into: Path) -> Path:
    return Path(shutil.copytree(folder, into / folder.name))


@pytest.fixture(scope="module")
def pretrained(write_cases, tmp_path_factory) -> Cut:
    root = tmp_path_factory.mktemp("pretrained")
    data = own_copy(write_cases(count=5), root)
    split = {"format": "metaseg-split", "version": 1, "seed": 0, "stratify": None}
    names = sorted(path.name for path in data.iterdir())
    split |= {"parts": {"train": names[1:], "val": names[:1]}, "patients": {name: name[8:-2] for name in names}}
    (root / "split.json").write_text(json.dumps(split))
    return Cut(
        root, metaseg.pretrain, (FitListener, "on_mark", 1), data=data, cache=root / "cache", epochs=2, jobs=1,
        slices_per_epoch=8, batch_size=4, validate_every=1, model_options=NET,
    )  # fmt: skip


@pytest.fixture(scope="module")
def split_run(pretrained) -> Cut:
    root = pretrained.root / "with-split"
    return Cut(
        root, metaseg.pretrain, (FitListener, "on_mark", 1), **pretrained.settings,
        split=shutil.copy(pretrained.root / "split.json", pretrained.root / "own.json"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def tuned(pretrained, write_cases, tmp_path_factory) -> Cut:
    root = tmp_path_factory.mktemp("tuned")
    parent = Path(shutil.copytree(pretrained.whole, root / "parent"))
    return Cut(
        root, metaseg.metatune, (Watch, "mark", 3), from_run=parent, cache=root / "cache", jobs=1, shots=3, slices=4,
        data=own_copy(write_cases("MET", 5, centre=0.35), root), source=own_copy(write_cases(count=5), root),
        budget=60, marks=6,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["train", "active"])
def classified(request, tmp_path_factory) -> Cut:
    """A classifier of two folders of pictures, and active learning on them."""
    root = tmp_path_factory.mktemp(request.param)
    rng = np.random.default_rng(3)
    for side in ("left", "right"):
        (root / "data" / side).mkdir(parents=True)
        for number in range(8):
            picture = rng.integers(1, 255, (24, 24)).astype(np.uint8)
            Image.fromarray(picture).save(root / "data" / side / f"{side}{number}.png")
    common = {"data": root / "data", "cache": root / "cache", "jobs": 1, "model": "lau-cnn", "input_size": 16}
    common |= {"epochs": 2, "batch_size": 4, "augment": "none"}
    if request.param == "train":
        return Cut(root, metaseg.classify_train, (FitListener, "on_mark", 1), **common)
    active = {"initial": 4, "batch": 2, "budget": 8}
    return Cut(root, metaseg.classify_active, (Active, "_fit", 1), **common, **active)


def test_classifier_refuses_a_changed_picture_and_keeps_its_split_when_one_comes(classified):
    data = classified.settings["data"]
    picture = data / "left" / "left3.png"
    names = {"train": ("metrics.csv", "checkpoints/last.safetensors"), "active": ("curve.csv", "metrics.csv")}

    def mirrored(_: Path) -> None:
        Image.fromarray(np.asarray(Image.open(picture))[:, ::-1]).save(picture)

    def one_more(_: Path) -> None:
        Image.fromarray(np.full((24, 24), 99, np.uint8)).save(data / "left" / "aaa.png")

    for change in (mirrored, lambda _: picture.unlink()):
        with changed(data, change), pytest.raises(RunError, match=r"began with.*left3"):
            classified.resume()
    with changed(data, one_more), pytest.warns(DataWarning, match=r"new since the run began.*aaa"):
        classified.resume()
    kind = "active" if "active" in classified.root.name else "train"
    classified.same("split.json", "patients.json", *names[kind])


@pytest.mark.parametrize("change", REFUSED)
def test_pretrain_refuses_changed_cases_by_name(pretrained, change):
    data = pretrained.settings["data"]
    with changed(data, change), pytest.raises((RunError, DataError), match=NOT_AS_BEFORE) as caught:
        pretrained.resume()
    assert case(data).name in str(caught.value)


def test_pretrain_keeps_its_split_when_a_case_is_added(pretrained):
    with changed(pretrained.settings["data"], add), pytest.warns(DataWarning, match="new since the run began"):
        out = pretrained.resume()
    pretrained.same("patients.json", "metrics.csv", "checkpoints/best.safetensors", "inputs.json")
    assert "Brats18_AAA_1_1" in json.loads((out / "manifest.json").read_text())["warnings"][0]


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text(path.read_text() + " ")])
def test_split_file_is_compared(split_run, change):
    split = Path(split_run.settings["split"])
    before = split.read_text()
    change(split)
    with pytest.raises(RunError, match=r"--split .*own.json"):
        split_run.resume()
    split.write_text(before)
    split_run.resume()
    split_run.same("patients.json", "metrics.csv")


@pytest.mark.parametrize("change", REFUSED)
@pytest.mark.parametrize("part", ["data", "source"])
def test_tuning_refuses_changed_cases_of_either_disease(tuned, change, part):
    data = tuned.settings[part]
    with changed(data, change), pytest.raises((RunError, DataError), match=NOT_AS_BEFORE) as caught:
        tuned.resume()
    assert case(data).name in str(caught.value)


def test_tuning_keeps_shots_and_watched_patients_when_cases_are_added(tuned):
    with (
        changed(tuned.settings["data"], add),
        changed(tuned.settings["source"], add),
        pytest.warns(DataWarning, match="new since the run began"),
    ):
        tuned.resume()
    tuned.same("patients.json", "metrics.csv", "marks.csv", "checkpoints/last.safetensors")


def test_tuning_refuses_another_pretrained_network(tuned):
    parent = tuned.settings["from_run"]

    def replace_weights(path: Path) -> None:
        for kind in ("safetensors", "json"):
            shutil.copy(path / "checkpoints" / f"last.{kind}", path / "checkpoints" / f"best.{kind}")
        weights = path / "checkpoints" / "best.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")

    with changed(parent, replace_weights), pytest.raises(RunError, match=f"--from {parent}"):
        tuned.resume()


@pytest.mark.parametrize(("kind", "change"), [("pretrained", mirror), ("pretrained", add), ("tuned", mirror)])
def test_run_of_an_earlier_version_is_held_to_its_fingerprint(kind, change, request):
    cut = request.getfixturevalue(kind)
    with changed(cut.root / "cut", lambda run: (run / "inputs.json").unlink()):
        cut.resume()
        cut.same("patients.json", "metrics.csv")
        with changed(cut.settings["data"], change), pytest.raises(RunError, match="fingerprint differs"):
            cut.resume()
