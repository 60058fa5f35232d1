"""What is drawn ahead is what would have been drawn when asked for."""

from __future__ import annotations

import threading

import pytest
import torch

from metaseg.cases.labels import SUBREGIONS
from metaseg.store.prepare import open_data
from metaseg.training.augment import Augmentation
from metaseg.training.loop import draw_ahead, threads_ahead
from metaseg.training.slices import TrainingSlices


@pytest.fixture(scope="module")
def slices(write_cases, tmp_path_factory) -> TrainingSlices:
    store = open_data([write_cases(count=3)], cache=tmp_path_factory.mktemp("cache"))
    modalities = store.cases[0].info.modalities
    return TrainingSlices(store, modalities, SUBREGIONS, (32, 32), 3, 12, 0.5, Augmentation("full"), seed=3)


@pytest.mark.parametrize("steps", [range(6), (4, 5), (0, 3, 5)])
def test_batches_are_the_same_to_the_bit(slices, steps):
    ahead = draw_ahead(slices.draw, slice(1, 3), 2, 6)
    for step in steps:
        for found, expected in zip(ahead(step), slices.draw(step, slice(1, 3)), strict=True):
            assert torch.equal(found, expected)


def test_every_step_is_drawn_once_and_none_past_the_end():
    drawn: list[int] = []

    def draw(step, rows):
        drawn.append(step)
        return torch.zeros(1), torch.zeros(1)

    ahead = draw_ahead(draw, slice(None), 3, 5)
    for step in range(5):
        ahead(step)
    assert sorted(drawn) == [0, 1, 2, 3, 4]


def test_the_next_step_is_drawn_by_a_thread_and_its_error_is_raised_when_it_is_asked_for():
    begun = threading.Event()

    def draw(step, rows):
        if step == 1:
            begun.set()
            raise ValueError("slice 1")
        return torch.zeros(1), torch.zeros(1)

    ahead = draw_ahead(draw, slice(None), 1, 3)
    ahead(0)
    assert begun.wait(20)
    with pytest.raises(ValueError, match="slice 1"):
        ahead(1)


def test_a_cpu_has_the_network_to_compute():
    assert threads_ahead(torch.device("cpu")) == 0
    assert threads_ahead(torch.device("cuda")) >= 1
