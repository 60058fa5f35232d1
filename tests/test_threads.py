"""Threads: results in order, no further ahead than asked, errors where they belong, nothing left running."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from metaseg.inference.logits import over_cores
from metaseg.threads import ReadAhead, ordered_map


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


def following(item: int, count: int) -> range:
    return range(item + 1, min(item + 2, count))


def test_no_more_than_one_item_ahead_is_read():
    read: list[int] = []

    def reading(item: int) -> int:
        read.append(item)
        return 10 * item

    with ReadAhead(reading) as ahead:
        for item in range(6):
            assert ahead(item, following(item, 6)) == 10 * item
            time.sleep(0.02)
            assert read == list(range(min(item + 2, 6)))


def test_an_error_belongs_to_its_item():
    def reading(item: int) -> int:
        if item == 1:
            raise OSError("unreadable")
        return item

    found = []
    with ReadAhead(reading) as ahead:
        for item in range(3):
            try:
                found.append(ahead(item, following(item, 3)))
            except OSError as error:
                found.append(str(error))
    assert found == [0, "unreadable", 2]


def interrupted(reading, began: threading.Event) -> None:
    with ReadAhead(reading) as ahead:
        ahead(0, [1, 2, 3])
        assert began.wait(10)
        raise KeyboardInterrupt


def test_leaving_waits_for_the_read_under_way_and_drops_the_others():
    ended: list[int] = []
    second_began = threading.Event()

    def reading(item: int) -> int:
        if item == 1:
            second_began.set()
            time.sleep(0.05)
        ended.append(item)
        return item

    with pytest.raises(KeyboardInterrupt):
        interrupted(reading, second_began)
    assert ended == [0, 1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("metaseg-ahead")]


def test_what_is_wanted_no_more_is_dropped():
    read: list[int] = []
    may_read = threading.Event()

    def reading(item: int) -> int:
        assert may_read.wait(10)
        read.append(item)
        return item

    with ReadAhead(reading) as ahead:
        ahead.begin([0, 1, 2])
        ahead.begin([0, 5])
        may_read.set()
        assert ahead(5) == 5
    assert read == [0, 5]


def test_without_threads_each_result_is_worked_out_when_asked_for():
    read: list[int] = []
    ahead = ReadAhead(read.append, threads=0)
    ahead.begin([7])
    ahead(1, [2, 3])
    assert read == [1]
