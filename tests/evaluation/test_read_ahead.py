"""Reading ahead: no further than asked, errors where they belong, nothing left running."""

from __future__ import annotations

import threading
import time

import pytest

from metaseg.threads import ReadAhead


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
