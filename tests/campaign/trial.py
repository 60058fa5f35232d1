"""What a trial is: a bad or borderline input, the command that meets it, and the outcome that is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from campaign.bench import Bench

Words = Sequence[object]
Arrange = Callable[["Bench"], Words]
Outcome = Literal["refused", "warned", "told", "same", "goes on"]
"""``refused``: exit 1 or 2, one message that names what is wrong, nothing left behind. ``warned``: exit 0 and a warning
that names it. ``told``: one of the two. ``same``: exit 0 and the metrics of the good input. ``goes on``: exit 1, the bad case named, the others
done."""


@dataclass(frozen=True)
class Result:
    """What a command did.

    Attributes:
        code: Exit code.
        out: Standard output.
        err: Standard error.
        place: The folder it ran in.
        written: Files that were not there before, relative to ``place``.
    """

    code: int
    out: str
    err: str
    place: Path
    written: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One bad or borderline input.

    Attributes:
        kind: Letter of the kind of fault.
        name: Name, unique within the kind.
        arrange: Makes the input in the bench's empty folder and gives the command line.
        outcome: What must happen.
        names: Regular expressions that the message must hold, whatever their case: what is wrong, and where.
        like: Makes the good input whose metrics must come out, for ``same``; None if exit 0 says enough.
        metrics: Metrics of a result, for ``same``.
        tolerance: How far they may differ.
        may_leave: Whether files may stay: a run that had begun when the fault showed, or cases done before it.
        listed: Whether the output itself must name it, as the table of ``metaseg runs`` does a damaged run.
        slow: Whether it takes seconds, so that the test suite leaves it to ``scripts/campaign.py``.
        during: Surroundings of the command, such as a full disk.
    """

    kind: str
    name: str
    arrange: Arrange
    outcome: Outcome
    names: tuple[str, ...] = ()
    like: Arrange | None = None
    metrics: Callable[[Result], dict[str, float]] | None = None
    tolerance: float = 0.0
    may_leave: bool = False
    listed: bool = False
    slow: bool = False
    during: Callable[[], AbstractContextManager[object]] = nullcontext

    def __str__(self) -> str:
        return f"{self.kind}-{self.name}"
