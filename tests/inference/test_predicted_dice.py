from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from metaseg.cases.labels import SUBREGIONS, WHOLE_LESION
from metaseg.cases.readers import read_cases
from metaseg.errors import TrainingError
from metaseg.inference.predictor import Predictor
from metaseg.store.prepare import build_store
from metaseg.store.prepare_case import PrepareOptions
from metaseg.store.stored_case import share_cache


class Fixed(nn.Module):
    """A network of one convolution with weights that give every class somewhere."""

    def __init__(self, classes):
        super().__init__()
        self.layer = nn.Conv2d(2, classes, 1)
        with torch.no_grad():
            weight = torch.tensor([[0.0, 0.0], [1.0, 0.3], [-0.8, 1.1], [0.4, -1.3]])
            self.layer.weight[:] = weight[:classes, :, None, None]
            self.layer.bias[:] = torch.tensor([0.9, 0.0, 0.2, 0.1])[:classes]

    def forward(self, images):
        return self.layer(images)


@pytest.fixture
def case(write_cases, tmp_path):
    return build_store(read_cases(write_cases(count=1)), tmp_path, PrepareOptions(("t1", "flair")), jobs=1).cases[0]


def predictor(model, space=SUBREGIONS, **options):
    return Predictor(model, ("t1", "flair"), space, **options)


def dice(truth, found):
    return 2 * np.sum(truth & found) / (np.sum(truth) + np.sum(found))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("tta", [False, True])
def test_output_that_is_not_finite_is_no_empty_mask(case, value, tta):
    model = Fixed(4)
    with torch.no_grad():
        model.layer.weight[2] = value
    broken = predictor(model, tta=tta)
    for predict in (broken.probabilities, broken.most_probable, broken.dice):
        with pytest.raises(TrainingError, match=f"not finite for case {case.id}"):
            predict(case)


def test_regions_equal_masks_compared_one_by_one(case):
    ours = predictor(Fixed(4), batch_size=3)
    label, found = case.labels(slice(None)), ours.classes(case)
    assert set(np.unique(found)) == {0, 1, 2, 3}
    metrics = ours.dice(case)
    assert list(metrics) == ["WT", "TC", "ET"]
    assert metrics["WT"] == dice(label > 0, found > 0)
    assert metrics["TC"] == dice(np.isin(label, (1, 3)), np.isin(found, (1, 3)))
    assert metrics["ET"] == dice(label == 3, found == 3)


def test_network_of_the_whole_lesion_is_compared_with_the_united_label(case):
    ours = predictor(Fixed(2), WHOLE_LESION)
    found = ours.classes(case)
    metrics = ours.dice(case)
    assert metrics == {"WT": dice(case.labels(slice(None)) > 0, found > 0)}


def test_label_of_the_whole_lesion_is_compared_with_the_united_prediction(case, monkeypatch):
    ours = predictor(Fixed(4), batch_size=3)
    found, whole = ours.classes(case), (case.labels(slice(None)) > 0).astype(np.uint8)
    monkeypatch.setattr(type(case), "space", WHOLE_LESION)
    monkeypatch.setattr(case, "labels", lambda slices: whole[slices])
    assert ours.dice(case) == {"WT": dice(whole > 0, found > 0)}


def test_nothing_in_either_is_no_number(case, monkeypatch):
    monkeypatch.setattr(case, "labels", lambda slices: np.zeros(case.info.shape, np.uint8)[slices])
    model = Fixed(4)
    with torch.no_grad():
        model.layer.bias[0] = 1e6
    assert all(np.isnan(value) for value in predictor(model).dice(case).values())


def test_whole_cases_do_not_drive_drawn_slices_out_of_the_cache(case):
    cache = share_cache([case], 1.0)
    case.images([4], ("t1", "flair"))
    predictor(Fixed(4)).dice(case)
    assert len(cache) == 1
