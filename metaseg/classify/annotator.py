"""An annotator who is asked through a file: the slices wanted, with thumbnails, and their labels read back with care.

The labels that somebody typed are the dearest thing here. A file is replaced only if all its rows were asked for by
this very run, which has their labels in its rounds; and a run with such labels is not overwritten.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from metaseg.classify.rounds import read_rounds
from metaseg.classify.slices import ClassifiedSlices
from metaseg.errors import DataError, MetasegError, UsageError, some
from metaseg.files import FileKind, read_rows, replacing, require_writable, write_text
from metaseg.runs.folder import RunFolder, is_run
from metaseg.runs.state import RunState

COLUMNS = ("slice", "label", "thumbnail", "case", "patient", "rank", "score")
THUMBNAIL = 224


def write_questions(path: Path, slices: ClassifiedSlices, scores: Sequence[float]) -> None:
    """Write the slices whose labels are wanted, the most wanted first, and a thumbnail of each.

    Args:
        path: The CSV; thumbnails go into a folder beside it, ``NAME_thumbnails``.
        slices: The slices.
        scores: What each was ranked by.
    """
    folder = thumbnail_folder(path)
    names = [
        f"{rank:04d}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.png" for rank, name in enumerate(slices.ids, start=1)
    ]
    for place, name in enumerate(names):
        with replacing(folder / name) as stream:
            thumbnail(slices, place).save(stream, format="PNG")
    table = pd.DataFrame(
        {
            "slice": slices.ids,
            "label": "",
            "thumbnail": [f"{folder.name}/{name}" for name in names],
            "case": slices.case_ids,
            "patient": slices.patients,
            "rank": range(1, len(names) + 1),
            "score": scores,
        },
        columns=list(COLUMNS),
    )
    write_text(path, table.to_csv(index=False, lineterminator="\n"))
    # Pictures of the round before would only be mistaken for this one's.
    for picture in folder.glob("[0-9][0-9][0-9][0-9]-*.png"):
        if picture.name not in names:
            picture.unlink()


def thumbnail_folder(path: Path) -> Path:
    """The folder of thumbnails beside the CSV ``path``."""
    return path.with_name(path.stem + "_thumbnails")


def asked_names(path: Path) -> list[str]:
    """Names of the slices that a file asks for, whatever its labels.

    Raises:
        DataError: It is no such file.
    """
    return [row["slice"].strip() for row in _rows(path)]


def thumbnail(slices: ClassifiedSlices, place: int) -> Image.Image:
    """A grey picture of a slice, its modalities side by side."""
    image = slices.images([place])[0].numpy()
    grey = np.clip((image + 2.5) / 5.0, 0.0, 1.0)
    grey[image == 0] = 0.0
    wide = np.concatenate(list(grey), axis=1)
    picture = Image.fromarray((255 * wide).round().astype(np.uint8))
    return picture.resize((THUMBNAIL * len(image), THUMBNAIL), Image.Resampling.BILINEAR)


def read_answers(path: Path, wanted: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Read the labels that an annotator wrote.

    Args:
        path: The CSV.
        wanted: Names of the slices that were asked for.
        classes: The classes that a label may name.

    Returns:
        Class of each of ``wanted``, ``(n,)``.

    Raises:
        DataError: The file cannot be read, lacks a column or rows, names slices that nobody asked for or one twice, or
            holds labels that are missing or unknown.
    """
    rows = _rows(path)
    names = [row["slice"].strip() for row in rows]
    given = {row["slice"].strip(): row["label"].strip() for row in rows}
    doubled = [name for name, count in Counter(names).items() if count > 1]
    unknown = [name for name in given if name not in set(wanted)]
    absent = [name for name in wanted if name not in given]
    _complain(path, "names slices that were not asked for", unknown, "the rows as metaseg wrote them")
    _complain(path, "names slices twice", doubled, "one row a slice")
    _complain(path, "lacks rows of slices that were asked for", absent, "a row for each of them")
    # As the class is written, or else without regard to capitals.
    spelled = {name.lower(): number for number, name in enumerate(classes)}
    spelled |= {name: number for number, name in enumerate(classes)}
    numbers = {name: spelled.get(label, spelled.get(label.lower())) for name, label in given.items()}
    wrong = [f"{name} '{given[name]}'" for name in wanted if given[name] and numbers[name] is None]
    _complain(path, "holds labels that are no class", wrong, "one of " + ", ".join(classes))
    empty = [name for name in wanted if not given[name]]
    _complain(path, "still lacks labels", empty, "one of " + ", ".join(classes) + " in the column 'label'")
    return np.array([numbers[name] for name in wanted], dtype=np.int64)


LABELS_KIND = FileKind(
    f"the file of labels that metaseg wrote, with the columns {', '.join(COLUMNS)}, and 'label' filled",
    "put it back where --ask names it, with its first line as it was",
    DataError,
)


def _rows(path: Path) -> list[dict[str, str]]:
    return read_rows(path, LABELS_KIND, ("slice", "label"))


def _complain(path: Path, what: str, names: Sequence[str], expected: str) -> None:
    if names:
        raise DataError(
            f"the file of labels {what}: {some(names)} ({len(names)} in all)",
            where=path,
            expected=expected,
            remedy="mend the file and give the same command again with --resume",
        )


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
                remedy="continue the run that wrote it with --resume, move it away, or give another --ask",
            )


def refuse_to_lose_labels(out: Path | None) -> None:
    """Before a run is replaced: it must not hold what an annotator wrote.

    Raises:
        UsageError: It does.
    """
    if out is None or not is_run(out) or not RunFolder.open(out).state.done(STAGE):
        return
    labels = sum(len(record.labels) for record in read_rounds(out))
    if labels:
        raise UsageError(
            f"--overwrite would delete {labels} labels that an annotator gave",
            where=out,
            remedy="continue with --resume, choose another --out, or delete the folder yourself",
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
        self, number: int, slices: ClassifiedSlices, scores: Sequence[float], before: Collection[str]
    ) -> np.ndarray | None:
        """Labels of a round's slices, ``(n,)``; None if they were asked for only now.

        Args:
            number: The round.
            slices: Slices whose labels are wanted, at least one.
            scores: What each was ranked by.
            before: Names that this run has asked for in earlier rounds.

        Raises:
            DataError: The file holds no labels yet, or was edited wrongly.
            UsageError: It is not this run's.
        """
        if self.state.is_done(STAGE, f"asked-{number:03d}"):
            return read_answers(self.path, slices.ids, slices.classes)
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
