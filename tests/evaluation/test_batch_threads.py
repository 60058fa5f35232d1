"""Batches over threads give what one thread gives, in order, and leave torch as it was."""

from __future__ import annotations

import threading

import pytest
import torch

from metaseg.inference.inference import over_cores
from metaseg.threads import ordered_map


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_batches(three_threads):
    first_may_end = threading.Event()

    def work(batch: int) -> int:
        if batch == 0:
            assert first_may_end.wait(10)
        else:
            first_may_end.set()
        return batch * batch

    assert list(over_cores(work, range(10), 3)) == [batch * batch for batch in range(10)]


def test_each_thread_computes_on_one_core_and_the_caller_keeps_its_own(three_threads):
    inside = set(over_cores(lambda _: (torch.ones(8) + 1, torch.get_num_threads())[1], range(6), 3))
    assert inside == {1}
    assert torch.get_num_threads() == 3
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append((torch.ones(8) + 1, torch.get_num_threads())[1]))
    later.start()
    later.join()
    assert seen == [3]


def test_batches_are_taken_up_only_a_little_ahead(three_threads):
    taken: list[int] = []

    def batches():
        for number in range(20):
            taken.append(number)
            yield number

    results = ordered_map(lambda batch: batch, batches(), 3)
    next(results)
    assert len(taken) <= 6
    results.close()


def test_an_error_ends_it_and_restores_the_threads(three_threads):
    def work(batch: int) -> int:
        if batch == 2:
            raise ValueError("broken batch")
        return batch

    with pytest.raises(ValueError, match="broken batch"):
        list(over_cores(work, range(8), 3))
    assert torch.get_num_threads() == 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("metaseg-map")]


def test_one_thread_leaves_the_cores_to_torch(three_threads):
    assert list(over_cores(lambda _: torch.get_num_threads(), range(2), 1)) == [3, 3]
