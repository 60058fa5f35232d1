"""Class maps and kept probabilities are those of the straightforward way: all probabilities, then their maximum."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from metaseg.cases.labels import SUBREGIONS
from metaseg.cases.phantoms.write import make_phantoms
from metaseg.cases.readers import read_cases
from metaseg.errors import DataError, RunError
from metaseg.inference.predictor import Predictor, full_probabilities
from metaseg.models import build_segmenter
from metaseg.models.device import make_fabric
from metaseg.store.prepare_case import PrepareOptions, read_unstored

MODALITIES = ("flair", "t1", "t1ce", "t2")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    (folder,) = make_phantoms(tmp_path_factory.mktemp("phantoms"), cases=1)
    return replace(read_cases(folder)[0], label=None)


@pytest.fixture(scope="module")
def model():
    return build_segmenter("unet", 4, 4, seed=0, channels=[8, 16, 32], strides=[2, 2], num_res_units=1)


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def predictor(model, tta=False):
    return Predictor(model, MODALITIES, SUBREGIONS, tta)


def straightforward(model: nn.Module, case, tta: bool) -> np.ndarray:
    """Class probabilities of slices in batches of eight, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    parts = []
    with torch.no_grad():
        for start in range(0, case.num_slices, 8):
            images = torch.from_numpy(case.images(slice(start, start + 8), MODALITIES))
            views = [
                torch.flip(torch.softmax(model.eval()(torch.flip(images, axes)), dim=1), axes)
                for axes in (((), (2,), (3,), (2, 3)) if tta else ((),))
            ]
            mean = torch.stack(views).mean(dim=0)
            parts.append(torch.softmax(mean.log(), dim=1) if tta else mean)
    torch.set_num_threads(before)
    return torch.cat(parts).permute(1, 0, 2, 3).numpy()


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("image_size", [None, 40])
def test_class_map_and_probabilities(phantom, model, threads, tta, image_size):
    case = read_unstored(phantom, PrepareOptions(MODALITIES, image_size))
    expected = straightforward(model, case, tta)
    np.testing.assert_array_equal(predictor(model, tta).probabilities(case), expected)
    segmented = predictor(model, tta).segment(case, (0, 1, 2, 3))
    for value in range(4):
        np.testing.assert_array_equal(segmented.kept[value], expected[value])
    full = case.restore(expected)
    np.testing.assert_array_equal(segmented.classes, full.argmax(axis=0))
    assert segmented.classes.dtype == np.uint8
    assert len(np.unique(segmented.classes)) > 1
    for value, found in enumerate(full_probabilities(case, segmented.kept)):
        np.testing.assert_array_equal(found, full[value])
    np.testing.assert_array_equal(predictor(model, tta).segment(case).classes, segmented.classes)


def test_some_probabilities_alone(phantom, model, threads):
    case = read_unstored(phantom, PrepareOptions(MODALITIES))
    expected = straightforward(model, case, False)
    classes, kept = predictor(model).most_probable(case, (3, 1))
    np.testing.assert_array_equal(classes, expected.argmax(axis=0))
    np.testing.assert_array_equal(kept, expected[[3, 1]])
    # Its maximum is over logits, of which two may become one probability: such a pixel may differ.
    assert (predictor(model).classes(case) != classes).mean() < 1e-4
    assert predictor(model).segment(case).kept == {}


class Undecided(nn.Module):
    """Two classes of equal probability everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([0.0, 5.0, 1.0, 5.0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scores[None, :, None, None].expand(len(images), 4, *images.shape[2:])


def test_of_equal_probabilities_the_first_class_is_taken(phantom):
    case = read_unstored(phantom, PrepareOptions(MODALITIES))
    classes, _ = predictor(Undecided()).most_probable(case)
    assert set(np.unique(classes)) == {1}


def test_the_network_trains_on_afterwards(phantom, model, threads):
    case = read_unstored(phantom, PrepareOptions(MODALITIES))
    model.train()
    predictor(model).segment(case)
    assert model.training
    model.eval()


def test_labels_come_on_the_grid_of_the_files(workshop):
    turned = np.array([[0.0, -1.0, 0.0, 3.0], [0.0, 0.0, 2.0, 0.0], [1.0, 0.0, 0.0, -7.0], [0.0, 0.0, 0.0, 1.0]])
    folder = workshop.case("MET", "Brats18_A_1", affine=turned)
    network = workshop.network()
    (case,) = read_cases(folder)
    ours = Predictor.from_network(network, make_fabric("cpu", "32-true"))
    label = nib.load(folder / "Brats18_A_1_seg.nii.gz").get_fdata()
    labels = ours.predict(case)
    np.testing.assert_array_equal(labels, np.where(label == 4, 3, label))
    assert labels.dtype == np.uint8
    # An array is the same without files.
    images = [nib.load(folder / f"Brats18_A_1_{name}.nii.gz").get_fdata() for name in network.card.modalities]
    np.testing.assert_array_equal(ours.predict(np.stack(images), turned), labels)
    np.testing.assert_array_equal(ours.predict(np.stack(images)).shape, labels.shape)


def test_an_array_needs_a_volume_for_each_modality(workshop):
    ours = Predictor.from_network(workshop.network(), make_fabric("cpu", "32-true"))
    with pytest.raises(DataError, match=r"shape \(3, 8, 8, 8\) for a network of flair, t1ce"):
        ours.predict(np.ones((3, 8, 8, 8)))


def test_a_checkpoint_is_loaded_by_its_path(workshop):
    network = workshop.network()
    ours = Predictor.load(network.checkpoint, device="cpu", tta=True)
    assert (ours.modalities, ours.space, ours.card, ours.tta) == (("flair", "t1ce"), SUBREGIONS, network.card, True)
    with pytest.raises(RunError, match="no such run or checkpoint"):
        Predictor.load(network.checkpoint.parent / "nothing")
