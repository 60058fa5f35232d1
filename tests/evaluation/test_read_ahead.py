"""Reading ahead: one item and no more, errors where they belong, nothing left running."""

from __future__ import annotations

import threading
import time

import pytest

from metaseg.threads import read_ahead


def test_no_more_than_one_item_ahead_is_read():
    read: list[int] = []

    def reading(item: int) -> int:
        read.append(item)
        return 10 * item

    with read_ahead(reading, range(6)) as items:
        for item, result in items:
            assert result() == 10 * item
            time.sleep(0.02)
            assert read == list(range(min(item + 2, 6)))


def test_an_error_belongs_to_its_item():
    def reading(item: int) -> int:
        if item == 1:
            raise OSError("unreadable")
        return item

    found = []
    with read_ahead(reading, range(3)) as items:
        for _, result in items:
            try:
                found.append(result())
            except OSError as error:
                found.append(str(error))
    assert found == [0, "unreadable", 2]


def interrupted(reading, began: threading.Event) -> None:
    with read_ahead(reading, range(5)) as items:
        for item, result in items:
            if item == 1:
                assert began.wait(10)
                raise KeyboardInterrupt
            result()


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
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("metaseg-read")]
