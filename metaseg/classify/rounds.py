"""The record of active learning: what each round chose, how it was labelled, and what the network was worth then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from metaseg.checked_files import FileKind, read_json
from metaseg.written_files import write_json

FOLDER = "rounds"
ROUND_KIND = FileKind("a round of active learning", "start the run again with --overwrite")


@dataclass(frozen=True)
class Round:
    """One round; written when the choice is made, again when it is labelled, and again when it is measured.

    Attributes:
        number: From 1.
        chosen: Names of the slices that were chosen, the first choice first.
        scores: What each was ranked by; None where there is no score.
        labels: Class of each, once they are known.
        figures: Figures after the fit, by part: ``{"test": {"auc": 0.81, ...}, ...}``; empty until then.
        labelled: Distinct slices labelled after this round.
        checkpoint: Name of the weights after the fit.
        seconds: Time that the round took.
    """

    number: int
    chosen: tuple[str, ...]
    scores: tuple[float | None, ...]
    labels: tuple[int, ...] = ()
    figures: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    labelled: int = 0
    checkpoint: str = ""
    seconds: float = 0.0

    @property
    def done(self) -> bool:
        """Whether nothing of it is left to do."""
        return bool(self.checkpoint)


def round_file(run: Path, number: int) -> Path:
    """The file of a round."""
    return run / FOLDER / f"round-{number:03d}.json"


def write_round(run: Path, one: Round) -> None:
    """Write a round's file, replacing it at once."""
    path = round_file(run, one.number)
    path.parent.mkdir(exist_ok=True)
    write_json(path, asdict(one))


def read_rounds(run: Path) -> list[Round]:
    """All rounds of a run, in order.

    Raises:
        RunError: A file is damaged.
    """
    rounds: list[Round] = []
    while (path := round_file(run, len(rounds) + 1)).exists():
        rounds.append(read_json(path, ROUND_KIND, Round))
    return rounds
