"""An annotator who is asked through a file: whose file it is, and whether a round was asked and answered.

The labels that somebody typed are the dearest thing here. A file is replaced only if all its rows were asked for by
this very run, which has their labels in its rounds; and a run with such labels is not overwritten.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from metaseg.classify.ask import asked_names, read_answers, thumbnail_folder, write_questions
from metaseg.classify.rounds import read_rounds
from metaseg.classify.slices import ClassifiedSlices
from metaseg.errors import MetasegError, UsageError
from metaseg.runs.folder import RunFolder, is_run
from metaseg.runs.state import RunState
from metaseg.written_files import require_writable

STAGE = "ask"


def refuse_files_of_others(path: Path) -> None:
    """Before a run begins: nothing may be there of the name that it would write, and it must be able to write it.

    Raises:
        UsageError: There is.
        WriteError: It cannot.
    """
    folder = thumbnail_folder(path)
    require_writable(path.parent)
    for found in (path, folder):
        if found.exists() and (found != folder or not found.is_dir() or any(found.iterdir())):
            raise UsageError(
                "the file for the annotator, or the folder of its thumbnails, is there already",
                where=found,
                expected="a new name: labels that somebody wrote are not replaced",
                remedy="go on with the run that wrote it with --resume, move it away, or give another --ask",
            )


def refuse_to_lose_labels(out: Path | None) -> None:
    """Before a run is replaced: it must not hold what an annotator wrote.

    Raises:
        UsageError: It does.
    """
    if out is None or not is_run(out) or not RunFolder.open(out).state.done(STAGE):
        return
    labels = sum(len(one.labels) for one in read_rounds(out))
    if labels:
        raise UsageError(
            f"--overwrite would delete {labels} labels that an annotator gave",
            where=out,
            remedy="go on with --resume, choose another --out, or delete the folder yourself",
        )


class Annotator:
    """Somebody who fills a file.

    Args:
        path: The file.
        state: The run's state, which remembers what was asked.
    """

    def __init__(self, path: Path, state: RunState) -> None:
        self.path, self.state = path, state

    def labels(
        self,
        number: int,
        slices: ClassifiedSlices,
        scores: Sequence[float],
        before: Collection[str],
        classes: Sequence[str],
    ) -> np.ndarray | None:
        """Labels of a round's slices, ``(n,)``; None if they were asked for only now.

        Args:
            number: The round.
            slices: Slices whose labels are wanted, at least one.
            scores: What each was ranked by.
            before: Names that this run has asked for in earlier rounds.
            classes: The classes that a label may name.

        Raises:
            DataError: The file holds no labels yet, or was edited wrongly.
            UsageError: It is not this run's.
        """
        if self.state.is_done(STAGE, f"asked-{number:03d}"):
            return read_answers(self.path, slices.ids, classes)
        # A run that was killed in between has written the file, and it may have been filled since.
        if not (self.state.is_done(STAGE, f"asking-{number:03d}") and self._holds(slices.ids)):
            self._refuse_others(before)
            self.state.mark(STAGE, f"asking-{number:03d}")
            write_questions(self.path, slices, scores)
        self.state.mark(STAGE, f"asked-{number:03d}")
        return None

    def _holds(self, names: Sequence[str]) -> bool:
        try:
            return sorted(asked_names(self.path)) == sorted(names)
        except MetasegError:
            return False

    def _refuse_others(self, before: Collection[str]) -> None:
        if not self.path.exists():
            return
        try:
            strangers = [name for name in asked_names(self.path) if name not in before]
        except MetasegError:
            strangers = [self.path.name]
        if strangers:
            raise UsageError(
                f"the file for the annotator holds what this run did not ask for: {', '.join(strangers[:5])}",
                where=self.path,
                expected="no file, or the one that this run wrote in the round before",
                remedy="move it away and give the same command again with --resume",
            )
