from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from metaseg.cases.labels import SUBREGIONS, WHOLE_LESION
from metaseg.cases.readers import read_cases
from metaseg.errors import TrainingError
from metaseg.inference.inference import (
    predict_classes,
    predict_most_probable,
    predict_probabilities,
    stored_dice,
)
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


def dice(truth, found):
    return 2 * np.sum(truth & found) / (np.sum(truth) + np.sum(found))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("tta", [False, True])
def test_output_that_is_not_finite_is_no_empty_mask(case, value, tta):
    model = Fixed(4)
    with torch.no_grad():
        model.layer.weight[2] = value
    for predict in (predict_probabilities, predict_most_probable):
        with pytest.raises(TrainingError, match=f"not finite for case {case.id}"):
            predict(model, case, ("t1", "flair"), tta=tta)
    with pytest.raises(TrainingError, match=f"not finite for case {case.id}"):
        stored_dice(model, case, ("t1", "flair"), SUBREGIONS)


def test_regions_equal_masks_compared_one_by_one(case):
    model, names = Fixed(4), ("t1", "flair")
    label, found = case.labels(slice(None)), predict_classes(model, case, names)
    assert set(np.unique(found)) == {0, 1, 2, 3}
    metrics = stored_dice(model, case, names, SUBREGIONS, batch_size=3)
    assert list(metrics) == ["WT", "TC", "ET"]
    assert metrics["WT"] == dice(label > 0, found > 0)
    assert metrics["TC"] == dice(np.isin(label, (1, 3)), np.isin(found, (1, 3)))
    assert metrics["ET"] == dice(label == 3, found == 3)


def test_network_of_the_whole_lesion_is_compared_with_the_united_label(case):
    model, names = Fixed(2), ("t1", "flair")
    found = predict_classes(model, case, names)
    metrics = stored_dice(model, case, names, WHOLE_LESION)
    assert metrics == {"WT": dice(case.labels(slice(None)) > 0, found > 0)}


def test_label_of_the_whole_lesion_is_compared_with_the_united_prediction(case, monkeypatch):
    model, names = Fixed(4), ("t1", "flair")
    found, whole = predict_classes(model, case, names), (case.labels(slice(None)) > 0).astype(np.uint8)
    monkeypatch.setattr(type(case), "space", WHOLE_LESION)
    monkeypatch.setattr(case, "labels", lambda slices: whole[slices])
    assert stored_dice(model, case, names, SUBREGIONS) == {"WT": dice(whole > 0, found > 0)}


def test_nothing_in_either_is_no_number(case, monkeypatch):
    monkeypatch.setattr(case, "labels", lambda slices: np.zeros(case.info.shape, np.uint8)[slices])
    model = Fixed(4)
    with torch.no_grad():
        model.layer.bias[0] = 1e6
    assert all(np.isnan(value) for value in stored_dice(model, case, ("t1", "flair"), SUBREGIONS).values())


def test_whole_cases_do_not_drive_drawn_slices_out_of_the_cache(case):
    cache = share_cache([case], 1.0)
    case.images([4], ("t1", "flair"))
    stored_dice(Fixed(4), case, ("t1", "flair"), SUBREGIONS)
    assert len(cache) == 1
