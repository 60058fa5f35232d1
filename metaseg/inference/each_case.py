"""Work on one case after the other: distributed over processes, the next case read ahead, failures kept for the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from lightning_fabric import Fabric

from metaseg.cases.case import FailedCase, one_case
from metaseg.models.processes import gather, own_part
from metaseg.terminal import Progress, progress
from metaseg.threads import ReadAhead

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")


def each_case(
    fabric: Fabric,
    items: Mapping[str, Item],
    read: Callable[[Item], Prepared],
    work: Callable[[Item, Prepared, Progress], Result],
    done: str,
) -> tuple[list[Result], list[FailedCase]]:
    """What is made of every case, one in memory at a time beside the one that is read ahead.

    Args:
        fabric: Of this process; several processes work on a part of the cases each.
        items: Case ids, and what stands for each case.
        read: Reads a case, on a thread of its own while the case before is worked on.
        work: Takes the item, what was read and the progress bar, and gives the result, which can be pickled.
        done: What was done to the cases, such as ``"predicted"``.

    Returns:
        The results of the cases that could be done, in order, and those that failed; the same in all processes.
    """
    own = own_part(fabric, list(items.items()))
    outcomes: list[tuple[list[Result], list[FailedCase]]] = []
    title = f"{done.removesuffix('ed')}ing"

    def read_at(place: int) -> Prepared:
        return read(own[place][1])

    with progress(title, len(own)) as bar, ReadAhead(read_at) as ahead:
        for place, (case, item) in enumerate(own):
            results, failed = list[Result](), list[FailedCase]()
            with one_case(case, failed):
                prepared = ahead(place, following=range(place + 1, min(place + 2, len(own))))
                results.append(work(item, prepared, bar))
            outcomes.append((results, failed))
            for failure in failed:
                bar.note(f"{case}: not {done}\n{failure.error}")
            bar.advance()
    everyones = gather(fabric, outcomes)
    return [result for part, _ in everyones for result in part], [failure for _, part in everyones for failure in part]
