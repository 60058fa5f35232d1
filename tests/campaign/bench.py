"""Where trials are made: an empty folder, and networks, runs and data sets that all of them share."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import metaseg
from campaign.layouts import LAYOUTS, MODALITIES
from metaseg.cases.readers import read_cases
from metaseg.cases.splits import Split, make_split
from metaseg.runs.training_state import save_training_state
from metaseg.store.prepare import prepare_store

TINY_NET = '{"channels": [4, 8], "strides": [2]}'
NET = {"model_options": {"channels": [4, 8], "strides": [2]}, "jobs": 1, "device": "cpu"}
SHORT = ("--epochs", 1, "--slices-per-epoch", 4, "--batch-size", 4, "--jobs", 1, "--model-options", TINY_NET)
"""A pretraining of one step."""
TUNED = ("--shots", 1, "--slices", 4, "--budget", 4, "--marks", 1, "--no-pictures", "--jobs", 1)
"""A tuning of one step."""
CLASSIFIER = ("--model", "lau-cnn", "--input-size", 16, "--epochs", 1, "--copies", "identical", "--jobs", 1)
"""A fit of one epoch."""


def short(bench: Bench, verb: str) -> tuple[object, ...]:
    """Options with which a training verb would do one step, if it took the rest of the command line."""
    if verb == "pretrain":
        return "--data", bench.assets.good("brats", 2), "--out", "run", *SHORT
    if verb.endswith("tune"):
        data = bench.assets.good("brats2023", 3)
        return "--from", bench.assets.pretrained, "--data", data, "--out", "run", *TUNED
    return "--data", bench.assets.good("image-folder", 8), "--out", "run", *CLASSIFIER


class Assets:
    """What takes long to make, made once and never changed: trials spoil copies."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._good: dict[tuple[str, int], Path] = {}

    def good(self, layout: str, count: int) -> Path:
        """A good data set of a layout."""
        if (layout, count) not in self._good:
            root = self.root / f"{layout}-{count}"
            self._good[layout, count] = LAYOUTS[layout](root, count)
        return self._good[layout, count]

    @cached_property
    def cache(self) -> Path:
        """Prepared cases of all trials; keyed by content, so that they can share it."""
        return self.root / "cache"

    @cached_property
    def pretrained(self) -> Path:
        """A finished pretraining on four BraTS cases, good enough to outline the tumour of others."""
        return metaseg.pretrain(
            data=self.good("brats", 4),
            out=self.root / "pretrained",
            cache=self.cache,
            epochs=6,
            validate_every=3,
            slices_per_epoch=48,
            learning_rate=0.01,
            ema=0,
            augment="none",
            val_fraction=0.25,
            **NET,
        ).run

    @cached_property
    def on_slices(self) -> Path:
        """A network of whole lesions in single slices."""
        return metaseg.pretrain(
            data=self.good("slices", 4),
            out=self.root / "on-slices",
            cache=self.cache,
            epochs=1,
            slices_per_epoch=8,
            **NET,
        ).run

    @cached_property
    def stopped(self) -> Path:
        """A pretraining stopped after its first saved state, on ``stopped-data``: four patients of BraTS names."""
        data = LAYOUTS["brats"](self.root / "stopped-data", 4)
        settings = {"epochs": 4, "validate_every": 1, "slices_per_epoch": 4, "batch_size": 4, "val_fraction": 0.25}
        self._stop(metaseg.pretrain, "stopped", {"data": data, "modalities": MODALITIES, **settings, **NET})
        return self.root / "stopped"

    @cached_property
    def stopped_tuning(self) -> Path:
        """A naive tuning stopped after its first saved state, on ``stopped-target``."""
        self._stop(metaseg.naivetune, "stopped-tuning", self._stopped_tuning())
        return self.root / "stopped-tuning"

    @cached_property
    def stopped_meta(self) -> Path:
        """A meta-tuning stopped after its first saved state, on ``stopped-target``."""
        self._stop(metaseg.metatune, "stopped-meta", self._stopped_tuning() | {"order": "passive"})
        return self.root / "stopped-meta"

    @cached_property
    def stopped_classifier(self) -> Path:
        """A classifier stopped after its first saved state, on ``stopped-pictures``."""
        data = LAYOUTS["image-folder"](self.root / "stopped-pictures", 8)
        settings = self._classifying("stopped-classifier") | {"data": data, "epochs": 4}
        self._stop(metaseg.classify_train, "stopped-classifier", settings)
        return self.root / "stopped-classifier"

    def _stopped_tuning(self) -> dict[str, object]:
        data = self.root / "stopped-target"
        source = self.root / "stopped-source"
        if not data.exists():
            LAYOUTS["brats2023"](data, 4)
            # The run that is tuned, in a place of its own, so that trials may replace it.
            shutil.copytree(self.pretrained, source)
        return self._tuning("") | {"data": data, "from_run": str(source), "budget": 16, "marks": 4, "shots": 2}

    def _stop(self, verb: Callable[..., object], name: str, settings: dict[str, object]) -> None:
        """Run a verb and stop it, as Ctrl-C does, right after its first saved state."""

        def stop(path: Path, state: Mapping[str, Any]) -> None:
            save_training_state(path, state)
            raise KeyboardInterrupt

        places = ("metaseg.training.loop.save_training_state", "metaseg.adapt.metatune.save_training_state")
        with contextlib.ExitStack() as stack:
            for place in places:
                stack.enter_context(mock.patch(place, stop))
            stack.enter_context(contextlib.suppress(KeyboardInterrupt))
            verb(**settings | {"out": self.root / name, "cache": self.cache})

    @cached_property
    def tuned(self) -> Path:
        """A finished naive tuning of :attr:`pretrained`."""
        return metaseg.naivetune(**self._tuning("tuned")).run

    @cached_property
    def meta_tuned(self) -> Path:
        """A finished meta-tuning of :attr:`pretrained`."""
        return metaseg.metatune(**self._tuning("meta-tuned"), order="passive").run

    def _tuning(self, name: str) -> dict[str, object]:
        return {
            "from_run": str(self.pretrained),
            "data": self.good("brats2023", 3),
            "out": self.root / name,
            "cache": self.cache,
            "shots": 1,
            "slices": 4,
            "budget": 4,
            "marks": 1,
            "pictures": False,
            "jobs": 1,
        }

    @cached_property
    def classifier(self) -> Path:
        """A finished classifier of the pictures of two classes."""
        return metaseg.classify_train(**self._classifying("classifier")).run

    @cached_property
    def asking(self) -> Path:
        """Active learning that waits for an annotator's labels."""
        settings = self._classifying("asking") | {"classes": ["glioma", "meningioma"], "batch": 2, "budget": 4}
        metaseg.classify_active(**settings, ask=self.root / "asking.csv", acquisition="margin", initial=2)
        return self.root / "asking"

    def _classifying(self, name: str) -> dict[str, object]:
        return {
            "data": self.good("image-folder", 8),
            "out": self.root / name,
            "cache": self.cache,
            "model": "lau-cnn",
            "input_size": 16,
            "epochs": 1,
            "copies": "identical",
            "jobs": 1,
            "device": "cpu",
        }

    @cached_property
    def store(self) -> Path:
        """Two prepared BraTS cases."""
        prepare_store(self.good("brats", 2), self.root / "store", jobs=1)
        return self.root / "store"


class Bench:
    """The folder of one trial.

    Attributes:
        assets: What all trials share; read-only.
        place: Empty folder, and the working folder while the trial's command runs.
    """

    def __init__(self, assets: Assets, place: Path) -> None:
        self.assets, self.place = assets, place

    def data(self, layout: str = "brats", count: int = 2, name: str = "data") -> Path:
        """A copy of a good data set, to be spoiled."""
        return self.copy(self.assets.good(layout, count), name)

    def copy(self, original: Path, name: str | None = None) -> Path:
        """A copy of a file or folder in the trial's folder."""
        target = self.place / (name or original.name)
        if original.is_dir():
            return Path(shutil.copytree(original, target, symlinks=True))
        return Path(shutil.copy(original, target))

    def begun(self, run: str, data: str, name: str = "run") -> tuple[Path, Path]:
        """Copies of a stopped run and of its data, which the copied run names as its own."""
        copied = self.copy(getattr(self.assets, run), name)
        own = self.copy(self.assets.root / data, "data")
        for file in ("config.yaml", "manifest.json", "result.json"):
            if (copied / file).exists():
                text = (copied / file).read_text()
                (copied / file).write_text(text.replace(str(self.assets.root / data), str(own)))
        return copied, own

    def split(self, *data: Path, counts: Sequence[int] = (2, 1, 1)) -> Path:
        """A split of data sets into train, val and test, with so many patients of each."""
        parts: dict[str, tuple[str, ...]] = {}
        patients: dict[str, str] = {}
        for folder in data:
            wanted = {name: count for name, count in zip(("train", "val", "test"), counts, strict=True) if count}
            drawn = make_split(read_cases(folder), wanted, stratify=None)
            parts |= {name: (*parts.get(name, ()), *cases) for name, cases in drawn.parts.items()}
            patients |= drawn.patients
        Split(0, None, parts, patients).save(self.place / "split.json")
        return self.place / "split.json"
