"""Small cases on disk and a network that is known: it outlines what is bright."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from metaseg.models import ModelCard, build_segmenter, save_checkpoint
from metaseg.runs.networks import LoadedNetwork

MODALITIES = ("flair", "t1ce")
OPTIONS = {"channels": [4, 8], "strides": [2], "num_res_units": 0}
BRAIN, EDEMA, BRIGHT = 100, 900, 1000


class Bright(nn.Module):
    """Enhancing tumour where t1ce is bright, edema where flair alone is; or the lesion, with two classes."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(3.0))
        self.classes = classes
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        codes = (images[:, 0] > self.threshold).long() * 2
        codes[images[:, -1] > self.threshold] = 3
        if self.classes == 2:
            codes = (codes > 0).long()
        return 20.0 * nn.functional.one_hot(codes, self.classes).permute(0, 3, 1, 2).float()


class Blind(nn.Module):
    """Sees background everywhere."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(9.0))
        self.classes = classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = images.new_zeros(len(images), self.classes, *images.shape[2:])
        logits[:, 0] = self.bias
        return logits


@dataclass
class Workshop:
    """Makes networks and cases in a folder of its own."""

    root: Path

    def network(self, model: nn.Module | None = None, run: Path | None = None, **card) -> LoadedNetwork:
        """A network of any function, with the files of a real checkpoint behind it."""
        space = card.setdefault("label_space", "subregions")
        classes = 4 if space == "subregions" else 2
        modalities = card.setdefault("modalities", MODALITIES)
        values = {"name": "unet", "in_channels": len(modalities), "num_classes": classes, "options": OPTIONS}
        card = ModelCard(**(values | {"trained_on": ("HGG",)} | card))
        own = build_segmenter("unet", len(modalities), classes, seed=len(list(self.root.glob("net*"))), **OPTIONS)
        file = save_checkpoint(self.root / f"net-{len(list(self.root.glob('net*')))}", own, card)
        return LoadedNetwork(Bright(classes) if model is None else model, card, file, run)

    def case(
        self,
        cohort: str,
        name: str,
        *,
        affine: np.ndarray | None = None,
        shape: tuple[int, int, int] = (24, 22, 12),
        edema: tuple[slice, ...] = (slice(6, 14), slice(7, 15), slice(3, 8)),
        enhancing: tuple[slice, ...] | None = (slice(8, 11), slice(9, 12), slice(4, 7)),
        label: np.ndarray | bool = True,
        modalities: tuple[str, ...] = MODALITIES,
        suffix: str = ".nii.gz",
    ) -> Path:
        """A case in the naming of BraTS 2018: a brain with an edema in flair and an enhancing part in t1ce."""
        folder = self.root / "data" / cohort / name
        folder.mkdir(parents=True)
        affine = np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine
        rng = np.random.default_rng(len(name))
        brain = np.zeros(shape, dtype=np.int16)
        brain[2:-2, 2:-2, 1:-1] = BRAIN + rng.integers(-5, 5, size=brain[2:-2, 2:-2, 1:-1].shape)
        classes = np.zeros(shape, dtype=np.uint8)
        for region, value in ((edema, 2), (enhancing, 3)):
            if region is not None:
                classes[region] = value
        for modality in modalities:
            image = brain.copy()
            image[classes == 3] = BRIGHT
            if modality == "flair":
                image[classes == 2] = EDEMA
            nib.save(nib.Nifti1Image(image, affine), folder / f"{name}_{modality}{suffix}")
        if label is not False:
            values = np.where(classes == 3, 4, classes) if label is True else label
            nib.save(nib.Nifti1Image(values.astype(np.uint8), affine), folder / f"{name}_seg{suffix}")
        return folder


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)
